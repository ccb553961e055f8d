from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from swamp_dist.launch import owner
from swamp_dist.launch.owner import Owner, RunDirHeld, hold, owner_file, refuse_if_held

ELSEWHERE = Owner("gpu7", "another kernel", 4242, "", "2026-01-02 03:04:05+00:00", "theirs")


@pytest.fixture(autouse=True)
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "WATCH_SECONDS", 0.5)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)


def left_behind(folder: Path, who: Owner) -> Path:
    owner_file(folder).write_text(json.dumps(asdict(who)))
    return owner_file(folder)


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a squeue on the path that answers for the scheduler."""
    (folder / "bin").mkdir()
    (folder / "bin/squeue").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


@contextlib.contextmanager
def renewed(file: Path) -> Iterator[None]:
    """A living owner on another host: the file's time moves."""
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.05):
            os.utime(file)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_owner_of_another_host_that_shows_life_is_respected(tmp_path: Path) -> None:
    with renewed(left_behind(tmp_path, ELSEWHERE)):
        expected = r"held by process 4242 on gpu7, since 2026-01-02 03:04:05\+00:00"
        with pytest.raises(RunDirHeld, match=expected), hold(tmp_path):
            pass
        with pytest.raises(RunDirHeld, match=expected):
            refuse_if_held(tmp_path)
    assert json.loads(owner_file(tmp_path).read_text())["token"] == "theirs"


def test_owner_of_another_host_without_a_sign_of_life_is_followed(tmp_path: Path) -> None:
    left_behind(tmp_path, ELSEWHERE)
    refuse_if_held(tmp_path)
    with hold(tmp_path):
        assert json.loads(owner_file(tmp_path).read_text())["pid"] == os.getpid()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".owner.lock"]


@pytest.mark.parametrize(
    ("answer", "held"),
    [
        ("echo RUNNING", True), ("echo COMPLETING", True), ("echo PENDING", False), ("true", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
    ],
)  # fmt: skip
def test_the_scheduler_knows_whether_a_job_of_another_host_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, held: bool
) -> None:
    squeue(tmp_path, monkeypatch, answer)
    file = left_behind(tmp_path, replace(ELSEWHERE, job="77"))
    living = (
        renewed(file) if not held else contextlib.nullcontext()
    )  # the scheduler's word counts, not the file's
    with living:
        if held:
            with pytest.raises(RunDirHeld, match=r"gpu7 \(SLURM job 77\)"), hold(tmp_path):
                pass
        else:
            with hold(tmp_path):
                pass


def test_where_the_scheduler_does_not_answer_signs_of_life_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(tmp_path, monkeypatch, "echo 'Unable to contact slurm controller' >&2; exit 1")
    file = left_behind(tmp_path, replace(ELSEWHERE, job="77"))
    with renewed(file), pytest.raises(RunDirHeld), hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


def test_a_job_that_starts_again_on_another_node_succeeds_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue(tmp_path, monkeypatch, "echo RUNNING")
    left_behind(tmp_path, replace(ELSEWHERE, job="77"))
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    with hold(tmp_path):
        pass


def test_without_locks_of_the_file_system_the_link_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with hold(tmp_path), pytest.raises(RunDirHeld, match=f"process {os.getpid()}"), hold(tmp_path):
        pass
    left_behind(tmp_path, replace(owner.this_process(), pid=2**22 + 1))  # a process number that cannot be
    with hold(tmp_path):
        pass


def test_a_torn_file_is_nobodys(tmp_path: Path) -> None:
    owner_file(tmp_path).write_text('{"host": "gpu')
    with hold(tmp_path):
        pass


def test_a_living_owner_renews_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner._signs_of_life.__wrapped__, "__defaults__", (0.05,))  # type: ignore[attr-defined]
    with hold(tmp_path):
        os.utime(owner_file(tmp_path), (0, 0))
        deadline = time.monotonic() + 30
        while owner_file(tmp_path).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


ROUNDS, RACERS = 40, 4


def test_a_successor_that_died_while_taking_over_is_followed(tmp_path: Path) -> None:
    file = left_behind(tmp_path, ELSEWHERE)
    os.link(file, file.with_name(f"{file.name}.dead-theirs"))
    with hold(tmp_path):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".owner.lock"]


def race(folder: Path, dead: bool, barrier: object, wins: object) -> None:
    """Try to own the folder in every round, after a dead owner or none; hold it until all have tried."""
    owner.fcntl.flock = lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTSUP, ""))  # type: ignore[assignment]
    for number in range(ROUNDS):
        if dead and barrier.wait(60) == 0:  # type: ignore[attr-defined]
            left_behind(folder, replace(owner.this_process(), pid=2**22 + 1))
        barrier.wait(60)  # type: ignore[attr-defined]
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(RunDirHeld):
                stack.enter_context(hold(folder))
                wins.put(number)  # type: ignore[attr-defined]
            barrier.wait(60)  # type: ignore[attr-defined]


@pytest.mark.parametrize("dead", [False, True])
def test_of_many_at_once_exactly_one_wins_even_without_locks(tmp_path: Path, dead: bool) -> None:
    context = multiprocessing.get_context("fork")
    barrier, wins = context.Barrier(RACERS), context.Queue()
    racers = [context.Process(target=race, args=(tmp_path, dead, barrier, wins)) for _ in range(RACERS)]
    for racer in racers:
        racer.start()
    won = [wins.get(timeout=60) for _ in range(ROUNDS)]
    for racer in racers:
        racer.join()
    assert sorted(won) == list(range(ROUNDS))  # queues keep the order of one process only
    assert wins.empty()


def test_release_leaves_a_successors_file_alone(tmp_path: Path) -> None:
    with hold(tmp_path):
        left_behind(tmp_path, ELSEWHERE)
    assert json.loads(owner_file(tmp_path).read_text())["token"] == "theirs"
