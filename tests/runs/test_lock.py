from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from swamp_dist.errors import PredecessorHolds, RunDirHeld, RunDirLost
from swamp_dist.runs import holder, lock
from swamp_dist.runs.holder import LockHolder, holder_file, this_process
from swamp_dist.runs.lock import JobLives, hold, refuse_if_held
from tests.end_to_end.command import suspend

ELSEWHERE = LockHolder("gpu7", "another kernel", 4242, "", "2026-01-02 03:04:05+00:00", "theirs")


@pytest.fixture(autouse=True)
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.5)
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def left_behind(folder: Path, who: LockHolder) -> Path:
    holder_file(folder).write_text(json.dumps(asdict(who)))
    return holder_file(folder)


def says(works: bool | None) -> JobLives:
    """A scheduler that answers so about every job."""
    return lambda _job: works


@contextlib.contextmanager
def renewed(file: Path) -> Iterator[None]:
    """A living holder on another host: the file's time moves."""
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
        with pytest.raises(RunDirHeld, match=expected), hold(tmp_path, says(None)):
            pass
        with pytest.raises(RunDirHeld, match=expected):
            refuse_if_held(tmp_path, says(None))
    assert json.loads(holder_file(tmp_path).read_text())["token"] == "theirs"


def test_owner_of_another_host_without_a_sign_of_life_is_followed(tmp_path: Path) -> None:
    left_behind(tmp_path, ELSEWHERE)
    refuse_if_held(tmp_path, says(None))
    with hold(tmp_path, says(None)):
        assert json.loads(holder_file(tmp_path).read_text())["pid"] == os.getpid()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".owner.lock"]


@pytest.mark.parametrize("held", [True, False])
def test_the_scheduler_knows_whether_a_job_of_another_host_works(tmp_path: Path, held: bool) -> None:
    file = left_behind(tmp_path, replace(ELSEWHERE, job="77"))
    # the scheduler's word counts, not the file's
    with contextlib.nullcontext() if held else renewed(file):
        if held:
            with pytest.raises(RunDirHeld, match=r"gpu7 \(job 77\)"), hold(tmp_path, says(True)):
                pass
        else:
            with hold(tmp_path, says(False)):
                pass


def test_where_the_scheduler_does_not_answer_signs_of_life_count(tmp_path: Path) -> None:
    file = left_behind(tmp_path, replace(ELSEWHERE, job="77"))
    with renewed(file), pytest.raises(RunDirHeld), hold(tmp_path, says(None)):
        pass
    with hold(tmp_path, says(None)):
        pass


def attempt(monkeypatch: pytest.MonkeyPatch, restart: int) -> None:
    """This process is this start of job 77."""
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))


def nobody_asks(_job: str) -> bool:
    raise AssertionError("the scheduler was asked about this process's own job")


def test_a_job_follows_its_own_dead_start_on_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(tmp_path, replace(ELSEWHERE, job="77"))
    attempt(monkeypatch, 1)
    with hold(tmp_path, nobody_asks):
        assert json.loads(holder_file(tmp_path).read_text())["restart"] == 1


def test_a_start_that_still_works_on_another_node_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt(monkeypatch, 1)
    with renewed(left_behind(tmp_path, replace(ELSEWHERE, job="77"))):
        with pytest.raises(PredecessorHolds, match="gpu7"), hold(tmp_path, nobody_asks):
            pass
        refuse_if_held(tmp_path, nobody_asks)  # the ranks will wait


@pytest.mark.parametrize("restart", [1, 2])
def test_the_same_or_a_later_start_of_the_job_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: int
) -> None:
    attempt(monkeypatch, 1)
    with renewed(left_behind(tmp_path, replace(ELSEWHERE, job="77", restart=restart))):
        with pytest.raises(RunDirHeld, match=f"restart {restart}") as refused, hold(tmp_path, nobody_asks):
            pass
        assert not isinstance(refused.value, PredecessorHolds)


def test_a_start_whose_lock_is_shared_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt(monkeypatch, 0)
    with hold(tmp_path, says(None)):
        attempt(monkeypatch, 1)
        with pytest.raises(PredecessorHolds, match="job 77"), hold(tmp_path, says(None)):
            pass
        holder_file(tmp_path).unlink()  # the end of a start: the file goes before the lock does
        with pytest.raises(PredecessorHolds, match="just ending"), hold(tmp_path, says(None)):
            pass


def another_host(folder: Path, restart: int, boot: Path, pipe: Connection) -> None:
    """An attempt of job 77 on a host of its own, whose locks stay its own."""
    lock.fcntl.flock = lambda *_: None  # type: ignore[assignment]
    holder.BOOT_ID = boot
    lock.WATCH_SECONDS, lock.RENEW_SECONDS = 0.8, 0.05
    os.environ |= {"SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": str(restart)}
    for _ in iter(pipe.recv, "hold"):
        pass
    while True:
        try:
            with hold(folder, says(True)) as held:
                pipe.send("holds")
                for wanted in iter(pipe.recv, "end"):
                    assert wanted == "check"
                    try:
                        held.check()
                        pipe.send("owns")
                    except RunDirLost as lost:
                        pipe.send(str(lost))
                pipe.send(f"lost: {held.lost}")
                return
        except PredecessorHolds:
            pipe.send("waits")
            pipe.recv()


def test_two_attempts_without_shared_locks_never_both_own_the_folder(tmp_path: Path) -> None:
    """The first is waited for while it lives, followed when it is halted, and stops when it goes on."""
    context = multiprocessing.get_context("fork")
    pipes, attempts = [], []
    for restart in (0, 1):
        boot = tmp_path / f"boot-{restart}"
        boot.write_text(f"kernel {restart}")
        ours, theirs = context.Pipe()
        folder = tmp_path / "run"
        folder.mkdir(exist_ok=True)
        attempts.append(context.Process(target=another_host, args=(folder, restart, boot, theirs)))
        attempts[-1].start()
        pipes.append(ours)
    first, second = pipes

    def ask(pipe: Connection, what: str) -> str:
        pipe.send(what)
        assert pipe.poll(30), f"no answer to {what}"
        return str(pipe.recv())

    try:
        assert ask(first, "hold") == "holds"
        assert ask(second, "hold") == "waits"
        suspend(attempts[0].pid or 0)
        assert ask(second, "again") == "holds"
        os.kill(attempts[0].pid or 0, signal.SIGCONT)
        assert "now held by process" in ask(first, "check")
        assert ask(second, "check") == "owns"
        assert ask(first, "end") == "lost: True"
        assert ask(second, "check") == "owns"  # neither the other's signs of life nor its end are in the way
        assert ask(second, "end") == "lost: False"
        for each in attempts:
            each.join(10)
    finally:
        for each in attempts:
            each.kill()
            each.join()
    assert not holder_file(tmp_path / "run").exists()


def test_a_former_owner_learns_of_it_without_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.02)
    with hold(tmp_path, says(None)) as held:
        held.check()
        file = left_behind(tmp_path, ELSEWHERE)
        deadline = time.monotonic() + 30
        while not held.lost:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.utime(file, (0, 0))
        time.sleep(0.1)
        assert file.stat().st_mtime == 0  # no sign of life for somebody else
        with pytest.raises(RunDirLost, match="gpu7"):
            held.check()


def test_a_holders_file_that_was_removed_ends_the_hold_and_not_the_job(tmp_path: Path) -> None:
    with hold(tmp_path, says(None)) as held:
        holder_file(tmp_path).unlink()
        with pytest.raises(RunDirLost, match="held by nobody") as lost:
            held.check()
    assert not lost.value.attempt
    assert not pickle.loads(pickle.dumps(lost.value)).attempt  # it goes from rank 0 to all ranks


def test_a_removed_folder_is_for_the_write_to_name(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with hold(folder, says(None)) as held:
        shutil.rmtree(folder)
        held.check()
        assert not held.lost


def test_without_locks_of_the_file_system_the_link_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with (
        hold(tmp_path, says(None)),
        pytest.raises(RunDirHeld, match=f"process {os.getpid()}"),
        hold(tmp_path, says(None)),
    ):
        pass
    left_behind(tmp_path, replace(this_process(), pid=2**22 + 1))  # a process number that cannot be
    with hold(tmp_path, says(None)):
        pass


def test_a_torn_file_is_nobodys(tmp_path: Path) -> None:
    holder_file(tmp_path).write_text('{"host": "gpu')
    with hold(tmp_path, says(None)):
        pass


def test_a_living_owner_renews_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_SECONDS", 0.05)
    with hold(tmp_path, says(None)):
        os.utime(holder_file(tmp_path), (0, 0))
        deadline = time.monotonic() + 30
        while holder_file(tmp_path).stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)


ROUNDS, RACERS = 40, 4


def test_a_successor_that_died_while_taking_over_is_followed(tmp_path: Path) -> None:
    file = left_behind(tmp_path, ELSEWHERE)
    os.link(file, file.with_name(f"{file.name}.dead-theirs"))
    with hold(tmp_path, says(None)):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".owner.lock"]


def race(folder: Path, dead: bool, barrier: object, wins: object) -> None:
    """Try to own the folder in every round, after a dead holder or none; hold it until all have tried."""
    lock.fcntl.flock = lambda *_: (_ for _ in ()).throw(OSError(errno.ENOTSUP, ""))  # type: ignore[assignment]
    for number in range(ROUNDS):
        if dead and barrier.wait(60) == 0:  # type: ignore[attr-defined]
            left_behind(folder, replace(this_process(), pid=2**22 + 1))
        barrier.wait(60)  # type: ignore[attr-defined]
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(RunDirHeld):
                stack.enter_context(hold(folder, says(None)))
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
    with hold(tmp_path, says(None)):
        left_behind(tmp_path, ELSEWHERE)
    assert json.loads(holder_file(tmp_path).read_text())["token"] == "theirs"


def _hold_and_fork(folder: Path, told: Connection) -> None:
    with hold(folder, says(None)):
        child = os.fork()
        if not child:
            time.sleep(60)
            os._exit(0)
        told.send(child)
        time.sleep(60)


def test_processes_that_a_killed_owner_has_forked_do_not_keep_the_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    owner = context.Process(target=_hold_and_fork, args=(tmp_path, there))
    owner.start()
    child = here.recv()
    try:
        with pytest.raises(RunDirHeld):
            refuse_if_held(tmp_path, says(None))
        owner.kill()
        owner.join()
        os.kill(child, 0)
        with hold(tmp_path, says(None)):
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_fork_leaves_the_lock_with_its_owner(tmp_path: Path) -> None:
    with hold(tmp_path, says(None)):
        child = os.fork()
        if not child:
            os._exit(0)
        os.waitpid(child, 0)
        with pytest.raises(RunDirHeld), hold(tmp_path, says(None)):
            pass
