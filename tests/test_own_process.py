"""The processes of `tools/own_process.py`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import psutil
import pytest

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    return importlib.import_module("own_process")


def _counter() -> Callable[[], object]:
    return iter(range(10)).__next__


def _dies_when_run() -> Callable[[], object]:
    return lambda: os._exit(3)


def _fails() -> Callable[[], object]:
    raise ZeroDivisionError("made to fail")


def _pid(_program: Callable[[], object]) -> int:
    return os.getpid()


def _run(program: Callable[[], object]) -> object:
    return program()


def test_a_program_stays_in_its_process_until_the_block_ends(tool: ModuleType) -> None:
    with tool.own_processes({"counter": _counter}) as programs:
        number = programs["counter"].ask(_pid)
        assert number != os.getpid()
        seconds = tool.take_turns_apart(programs, 2)
        assert seconds["counter"] >= 0
        assert programs["counter"].ask(_run) == 3  # one round without and two with a clock came before
        assert programs["counter"].ask(_pid) == number
    assert not psutil.pid_exists(number)


def test_a_failure_is_told(tool: ModuleType) -> None:
    told = r"broken failed in its process:\n(.|\n)*ZeroDivisionError: made to fail"
    with pytest.raises(SystemExit, match=told), tool.own_processes({"broken": _fails}):
        pass


def test_a_death_is_told(tool: ModuleType) -> None:
    told = "dying: its process died, exit code 3"
    with pytest.raises(SystemExit, match=told), tool.own_processes({"dying": _dies_when_run}) as programs:
        programs["dying"].ask(_run)
