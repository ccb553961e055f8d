"""Stopped by a signal at any time, and continued by the same command to bit-identical weights."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.end_to_end.command import (
    committed,
    ended,
    listening,
    rank_pids,
    refused,
    running,
    sha256,
    start,
    suspend,
    swamp,
    until,
    write_job,
)

LONG = ("train.epochs=40", "train.checkpoint.every=16", "train.validate_on.every=10")
"""320 steps: long enough to be caught in the middle."""


HEARD = pytest.mark.skipif(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="started by nohup")


@pytest.fixture(scope="session")
def job(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("signals"), tiny_shards)


@pytest.fixture(scope="session")
def uninterrupted(job: Path) -> str:
    """sha256 of the weights that two ranks reach without being stopped."""
    done = swamp("run", job, *LONG, "--ranks", 2, "--run-dir", job.parent / "whole")
    assert done.code == 0, done.said
    return sha256(job.parent / "whole" / "weights.safetensors")


def commits(run_dir: Path) -> list[int]:
    return sorted(int(folder.name[5:]) for folder in (run_dir / "checkpoints").glob("step-*"))


def events(run_dir: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (run_dir / "events.jsonl").read_text().splitlines()]


def goes_on(job: Path, run_dir: Path, weights: str) -> None:
    """The same command again ends with these weights."""
    step = commits(run_dir)[-1] if commits(run_dir) else None
    done = swamp("run", job, *LONG, "--ranks", 2, "--run-dir", run_dir)
    assert done.code == 0, done.said
    if step is not None:
        assert f"step-{step}" in done.said.split("continuing from")[1]
    assert sha256(run_dir / "weights.safetensors") == weights
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    losses = [s for s in steps if s]
    assert sorted(set(losses)) == list(range(1, 321))


@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGTERM, "command"),
        pytest.param(signal.SIGUSR2, "command", marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, "command", marks=[pytest.mark.slow, HEARD]),
        pytest.param(signal.SIGINT, "command", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "rank 0", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, "rank 1", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR2, "rank 1", marks=pytest.mark.slow),
    ],
)
def test_stop_saves_and_the_same_command_goes_on(
    job: Path, uninterrupted: str, tmp_path: Path, number: int, to: str
) -> None:
    run_dir, console = tmp_path / "run", tmp_path / "console"
    process = start("run", job, *LONG, "--ranks", 2, "--run-dir", run_dir, console=console)
    until(lambda: bool(commits(run_dir)), process, console)
    assert listening(process) == {"127.0.0.1"}
    os.kill(process.pid if to == "command" else rank_pids(process)[int(to[-1])], number)
    stopped = ended(process, console)
    refused(stopped, "asked to stop; committed at step", "the same command continues", code=75)
    if to == "command":
        assert (
            f"({'Ctrl-C (SIGINT)' if number == signal.SIGINT else signal.Signals(number).name}"
            in stopped.said
        )
    assert not (run_dir / "result.json").exists()
    assert f"committed at step {commits(run_dir)[-1]}" in stopped.said
    assert events(run_dir)[-1] == "preempted"
    goes_on(job, run_dir, uninterrupted)


@pytest.mark.slow
def test_second_interrupt_kills_and_keeps_what_was_committed(
    job: Path, uninterrupted: str, tmp_path: Path
) -> None:
    run_dir, console = tmp_path / "run", tmp_path / "console"
    process = start("run", job, *LONG, "--ranks", 2, "--run-dir", run_dir, console=console)
    until(lambda: len(commits(run_dir)) > 1, process, console)
    ranks = rank_pids(process)
    suspend(*ranks)  # so that none can save before the second Ctrl-C
    before = committed(run_dir)
    process.send_signal(signal.SIGINT)
    until(lambda: all(map(waiting_signals, ranks)), process, console)  # two at once would be one
    process.send_signal(signal.SIGINT)
    refused(ended(process, console), "second Ctrl-C", code=130)
    assert not any(map(running, ranks))
    assert before.items() <= committed(run_dir).items()
    goes_on(job, run_dir, uninterrupted)


def waiting_signals(pid: int) -> int:
    """Signals that a stopped process has not seen yet, as a bit mask."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("ShdPnd:")).split()[1], 16)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_stop_before_the_ranks_are_ready_loses_nothing(
    job: Path, uninterrupted: str, tmp_path: Path, number: int
) -> None:
    run_dir, console = tmp_path / "run", tmp_path / "console"
    for delay in ("start", "again"):
        process = start("run", job, *LONG, "--ranks", 2, "--run-dir", run_dir, console=console)
        until(lambda p=process: len(rank_pids(p)) == 2, process, console)  # type: ignore[misc]
        if delay == "again":
            until(lambda p=process: imported_torch(rank_pids(p)[0]), process, console)  # type: ignore[misc]
        process.send_signal(number)
        refused(ended(process, console), code=75)
    goes_on(job, run_dir, uninterrupted)


def imported_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_killed_rank_is_named_and_the_same_command_goes_on(
    job: Path, uninterrupted: str, tmp_path: Path, rank: int
) -> None:
    run_dir, console = tmp_path / "run", tmp_path / "console"
    process = start("run", job, *LONG, "--ranks", 2, "--run-dir", run_dir, console=console)
    until(lambda: len(commits(run_dir)) > 1, process, console)
    ranks = rank_pids(process)
    os.kill(ranks[rank], signal.SIGKILL)
    refused(ended(process, console, 30), f"rank {rank} was killed by SIGKILL", "last commit", code=1)
    assert not any(map(running, ranks))
    assert events(run_dir)[-1] == "failed"
    goes_on(job, run_dir, uninterrupted)
