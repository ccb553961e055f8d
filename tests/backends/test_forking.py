"""What a fork of this process cannot be, and so needs a new process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from swamp_dist.backends import forking
from swamp_dist.backends.forking import Inherited, Prepared, Start
from swamp_dist.backends.rank_process import on_cpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stages are forked on Linux alone")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Start]:
    """Plays that this process may be forked; gives a start that fits but for what is changed."""
    own, file = Inherited.own(), forking.__file__
    prepared = Prepared(on_cpu(os.environ), own, {}, frozenset(), {file: os.stat(file).st_mtime_ns})
    monkeypatch.setattr(forking, "_prepared", prepared)
    monkeypatch.setattr(forking.threading, "active_count", lambda: 1)
    monkeypatch.setattr(forking.os, "listdir", lambda _: ["1"])

    def start(**changes: Any) -> Start:
        return Start("module", (), prepared.environment, Inherited(**{**own.as_dict(), **changes}))

    return start


def test_what_a_fork_cannot_be_given_is_a_reason_for_a_new_process(
    made: Callable[..., Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert forking.unfit(made()) == ""
    assert forking.unfit(made(umask=0o077, niceness=19, memory_rank=1000, blocked=(2,))) == ""
    assert "folder" in forking.unfit(made(folder="/elsewhere"))
    assert "limits" in forking.unfit(made(limits=((0, 0),)))
    assert "priority" in forking.unfit(made(niceness=-20))
    monkeypatch.setattr(forking.threading, "active_count", lambda: 2)
    assert "2 threads" in forking.unfit(made())
    monkeypatch.setattr(forking.threading, "active_count", lambda: 1)
    monkeypatch.setattr(forking.os, "listdir", lambda _: ["1", "2", "3"])
    assert "3 threads" in forking.unfit(made())


def test_a_changed_file_of_the_package_is_a_reason_for_a_new_process(
    made: Callable[..., Start], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = forking._prepared
    assert prepared is not None
    file = next(iter(prepared.sources))
    monkeypatch.setitem(prepared.sources, file, 1)
    assert "changed" in forking.unfit(made())
