from __future__ import annotations

import socket
from collections.abc import Callable, Iterable

import pytest

from swamp_dist.config import StageSettings
from swamp_dist.doctor import machine
from swamp_dist.doctor.finding import Subject
from swamp_dist.records import Finding

GIB = 2**30
DATA = {"shards": "d", "entries": 8, "workers": 2}
LOADS = Subject(
    job=StageSettings.model_validate({"name": "x", "data": DATA, "evaluate": [{"split": "test"}]})
)


def level(check: Callable[[Subject], Iterable[Finding]], subject: Subject | None = None) -> str:
    (found,) = check(subject or Subject(ranks=2))
    assert bool(found.fix) == (found.level != "ok")
    return found.level


@pytest.mark.parametrize(
    ("free", "expected"), [(8 * GIB, "ok"), (GIB, "warning"), (GIB // 4, "problem"), (None, "warning")]
)
def test_memory(monkeypatch: pytest.MonkeyPatch, free: int | None, expected: str) -> None:
    assert machine.available_memory()  # a figure on every Linux
    monkeypatch.setattr(machine, "available_memory", lambda: free)
    assert level(machine.memory) == expected


def test_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "shared_bytes", lambda: (GIB, GIB))
    assert level(machine.shared_memory) == "ok"
    monkeypatch.setattr(machine, "shared_bytes", lambda: (2**26, 2**20))
    assert level(machine.shared_memory) == "warning"
    assert level(machine.shared_memory, LOADS) == "problem"


@pytest.mark.parametrize(
    ("soft", "expected"), [(256, "problem"), (1024, "warning"), (65536, "ok"), (-1, "ok")]
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, soft: int, expected: str) -> None:
    monkeypatch.setattr(machine, "file_limit", lambda: (soft, 524288))
    assert level(machine.open_files) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, "ok"), ("2", "ok"), ("3", "warning"), ("many", "problem"), ("0", "problem")],
)
def test_threads(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _pid: set(range(4)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert level(machine.threads) == expected


def test_host_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(machine.socket, "getaddrinfo", unknown)
    assert level(machine.name) == "warning"  # ranks of one host meet without it
    monkeypatch.setattr(machine.socket, "getaddrinfo", lambda *_: [])
    assert level(machine.name) == "ok"


def test_port(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert level(machine.port) == "ok"
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        assert level(machine.port) == "problem"
    assert level(machine.port) == "ok"
