"""Processes that read or write shards end with the process that started them, also where that is killed."""

from __future__ import annotations

import copy
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from typing import Any
from weakref import ref

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def end_with(parent: int) -> None:
    """Have Linux kill this process as soon as the thread that started it ends.

    Args:
        parent: id of the process that started this one.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before we asked
        os._exit(1)


def end_after(parent: BaseProcess) -> None:
    """End this process as soon as another one has ended, which need not be the one above it."""

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, name="end with the parent", daemon=True).start()


def context_that_kills() -> BaseContext:
    """How this process starts others by default, but they are killed where they still run at its end.

    Python ends daemons by SIGTERM and waits for them: for ever where they ignore it. The end may also be
    that of a child of multiprocessing, which runs no function of `atexit`.
    """
    context = copy.copy(multiprocessing.get_context())
    make = context.Process

    def process(*args: Any, **settings: Any) -> BaseProcess:
        made = make(*args, **settings)
        # By priority 0 it runs before Python's own SIGTERM, and never in a process forked from this one.
        Finalize(made, _kill, [ref(made)], exitpriority=0)
        return made

    vars(context)["Process"] = process
    return context


def _kill(reference: ref[BaseProcess]) -> None:
    process = reference()
    if process is not None and process.pid is not None and process.is_alive():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises an error for a killed loader
        process.kill()
