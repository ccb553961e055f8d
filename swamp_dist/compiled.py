"""Functions that numba compiles for the CPU at hand: whether it is there, and where their code is kept.

Numba is an extra. A module of compiled functions is imported where `numba_fault` finds none; what does the
same without numba, and whether its bits are the same, is said where the choice is made.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Collection, MutableMapping
from functools import cache
from typing import Any

logger = logging.getLogger(__name__)


@cache
def numba_fault(module: str) -> str:
    """Why this process cannot take a module of compiled functions, as the end of a sentence about numba;
    empty where it can.

    It is imported, and numba not only looked for: one that is there may refuse the numpy beside it, or lack a
    library of its own. One that is told not to compile would run their loops as Python, ten thousand times
    as long.
    """
    try:
        importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "numba":
            return "is not installed (pip install 'swamp-dist[fast]')"
        said = str(error).strip().splitlines()[:1]
        return f"cannot be imported ({': '.join([type(error).__name__, *said])})"
    import numba

    return "compiles nothing, since NUMBA_DISABLE_JIT is set" if numba.config.DISABLE_JIT else ""


@cache
def has_numba(module: str, otherwise: str) -> bool:
    """Whether this process can take a module of compiled functions; where it cannot, one line of the log says
    what is done `otherwise`, and why."""
    fault = numba_fault(module)
    if fault:
        logger.info("%s: numba %s", otherwise, fault)
    return not fault


class CompiledFunctions:
    """The compiled functions of one module, which may call each other.

    Each is compiled when it first runs with arguments of new types; its code is kept beside the module's file
    or in the user's cache. Where neither can be written, each process compiles its own.
    """

    def __init__(self, names: MutableMapping[str, Any], what: str) -> None:
        """Import numba.

        Args:
            names: `globals()` of the module, in which functions are exchanged where code cannot be kept.
            what: the functions, as the log is to call them.

        Raises:
            ImportError, or another error of numba's own: it is missing or unfit.
        """
        import numba

        self._njit: Callable[..., Any] = numba.njit
        self._names = names
        self._what = what
        self._uncached: dict[str, Callable[[], Any]] = {}
        """What makes each function anew without a folder for its code; empty once that was done."""
        self._making = threading.Lock()

    def compiled(self, fastmath: Collection[str] = ()) -> Callable[[Callable[..., Any]], Any]:
        """numba's decorator; `fastmath` names what the compiler may do to a formula, and nothing else."""
        how = {"fastmath": set(fastmath), "nogil": True, "error_model": "numpy"}

        def decorate(function: Callable[..., Any]) -> Any:
            try:
                kept = self._njit(cache=True, **how)(function)
            except RuntimeError:  # there is no folder for code that may be written
                return self._njit(**how)(function)
            self._uncached[function.__name__] = lambda: self._njit(**how)(function)
            return kept

        return decorate

    def call(self, name: str, *arguments: Any) -> Any:
        """What the function of this name returns. Where its code cannot be kept, nothing of it has run."""
        try:
            return self._names[name](*arguments)
        except OSError as error:
            self._keep_no_code(error)
            return self._names[name](*arguments)

    def _keep_no_code(self, error: OSError) -> None:
        """Exchange all of them for such as each process compiles."""
        with self._making:
            if self._uncached:
                logger.warning("%s cannot be kept (%s): each process compiles its own", self._what, error)
            while self._uncached:
                name, make = self._uncached.popitem()
                self._names[name] = make()
