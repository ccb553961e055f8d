"""A process that has no numba, or one that cannot be imported. `conftest.py` gives these to every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from swamp_dist.compiled import has_numba, numba_fault

FAULT = "cannot be imported (ImportError: Numba needs NumPy 2.3 or less. Got NumPy 2.4.)"


@pytest.fixture
def looks_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Numba and what imports it are imported anew, and so they are after the test."""
    compiled = [name for name in sys.modules if name.startswith("swamp_dist.") and name.endswith("_numba")]
    for name in compiled + [each for each in sys.modules if each.partition(".")[0] == "numba"]:
        monkeypatch.delitem(sys.modules, name)
    for cached in (numba_fault, has_numba):
        cached.cache_clear()
    yield
    for cached in (numba_fault, has_numba):
        cached.cache_clear()


@pytest.fixture
def without_numba(looks_again: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hidden:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "numba":
                raise ModuleNotFoundError("No module named 'numba'", name="numba")

    monkeypatch.setattr(sys, "meta_path", [Hidden(), *sys.meta_path])


@pytest.fixture
def broken_numba(looks_again: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One that is installed and refuses the numpy beside it, as numba words it."""
    said = "Numba needs NumPy 2.3 or less. Got NumPy 2.4.\nSee the documentation."
    (tmp_path / "numba.py").write_text(f"raise ImportError({said!r})\n")
    monkeypatch.syspath_prepend(str(tmp_path))
