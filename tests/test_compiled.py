"""Whether numba is there, and where the code of compiled functions is kept."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numba
import pytest

from swamp_dist.compiled import CompiledFunctions, numba_fault
from tests.numba_faults import FAULT

MODULES = [
    "swamp_dist.objective.solve.masses_numba",
    "swamp_dist.data.clips_numba",
    "swamp_dist.encoders.networks.words_numba",
]
TWO = """
from swamp_dist.compiled import CompiledFunctions

_functions = CompiledFunctions(globals(), "compiled code of a test")


@_functions.compiled()
def _one_more(x):
    return x + 1


@_functions.compiled({"contract"})
def _two_more(x):
    return _one_more(_one_more(x))


def two_more(x):
    return _functions.call("_two_more", x)
"""


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of two compiled functions, one of which calls the other."""
    (tmp_path / "two_numba.py").write_text(TWO)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "two_numba", raising=False)
    import two_numba

    return two_numba


@pytest.mark.parametrize("module", MODULES)
def test_numba_is_found(module: str) -> None:
    assert numba_fault(module) == ""


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("without_numba")
def test_a_missing_numba_is_told(module: str) -> None:
    assert numba_fault(module) == "is not installed (pip install 'swamp-dist[fast]')"


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("broken_numba")
def test_a_numba_that_cannot_be_imported_is_told_with_its_reason(module: str) -> None:
    assert numba_fault(module) == FAULT


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.usefixtures("looks_again")
def test_a_numba_that_is_told_not_to_compile_is_not_taken(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert numba_fault(module) == "compiles nothing, since NUMBA_DISABLE_JIT is set"


def test_a_module_that_lacks_something_else_does_not_blame_numba(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacks_numba.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "No module named 'no_such_library'" in numba_fault("lacks_numba")


def test_code_is_kept_beside_the_module(two: ModuleType, tmp_path: Path) -> None:
    assert two.two_more(5) == 7
    assert {path.name.split("-")[0] for path in (tmp_path / "__pycache__").glob("*.nbi")} == {
        "two_numba._one_more",
        "two_numba._two_more",
    }


def test_compiled_code_needs_no_folder_to_be_kept_in(monkeypatch: pytest.MonkeyPatch) -> None:
    njit, asked = numba.njit, []

    def refuse(cache: bool = False, **how: Any) -> Any:
        def decorate(function: Any) -> Any:
            asked.append((cache, how["fastmath"]))
            if cache:
                raise RuntimeError("cannot cache function: no locator available")
            return njit(**how)(function)

        return decorate

    monkeypatch.setattr(numba, "njit", refuse)
    names: dict[str, Any] = {}
    functions = CompiledFunctions(names, "compiled code of a test")
    names["more"] = functions.compiled({"contract"})(lambda x: x + 1)
    assert functions.call("more", 2) == 3
    assert asked == [(True, {"contract"}), (False, {"contract"})]


def test_where_code_cannot_be_kept_all_functions_are_exchanged_and_it_is_told_once(
    two: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = two._one_more, two._two_more
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    with caplog.at_level(logging.WARNING):
        assert [two.two_more(number) for number in (5, 6.5)] == [7, 8.5]
        two._functions._keep_no_code(OSError(28, "a thread that failed at the same time"))
    assert caplog.messages == [
        "compiled code of a test cannot be kept ([Errno 28] No space left on device): each process compiles "
        "its own"
    ]
    assert two._one_more is not before[0]
    assert two._two_more is not before[1]
