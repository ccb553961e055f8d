"""On a real SLURM: whatever ends a job early, it goes on by itself to bit-identical weights."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path

import pytest

from swamp_dist.evaluate.results import read_result
from tests.cluster.slurm import LONG, STEPS, Job, slurm, start_slurm, submit
from tests.end_to_end.command import refused, running, swamp

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def started(job_file: Path, run_dir: Path, **settings: int) -> Job:
    """The long stage, caught after its first commit."""
    job = submit(job_file, run_dir, *LONG, **settings)
    job.until(lambda: job.step() > 0, "first commit")
    return job


def ends_like(job: Job, uninterrupted: Job, restarts: int = 1) -> None:
    """The job completed after so many restarts, with the same weights and every step logged once."""
    assert job.over() == "COMPLETED", job.story()
    assert job.restarts() == restarts, job.story()
    assert job.weights() == uninterrupted.weights()
    lines = [json.loads(line) for line in (job.run_dir / "metrics.jsonl").read_text().splitlines()]
    logged = [line["step"] for line in lines if "loss/total" in line]
    assert logged == list(range(10, STEPS + 1, 10))
    assert job.console().count(f"step {STEPS} of {STEPS}") == 1


def test_two_nodes_train_and_evaluate(uninterrupted: Job) -> None:
    result = read_result(uninterrupted.run_dir)
    assert result.provenance["world_size"] == 2
    assert [e.split for e in result.evaluations] == ["test"]
    besides = ("committed", "alarm", "alarm_cleared")  # as often as the training has them
    assert [e["event"] for e in uninterrupted.events() if e["event"] not in besides] == [
        "submitted",
        "launched",
        "started",
        "training",
        "done",
    ]
    assert uninterrupted.events("launched")[0]["nodes"] == "n[1-2]"
    nodes = slurm("scontrol", "show", "job", uninterrupted.number)
    assert "NumNodes=2" in nodes
    assert "NumTasks=2" in nodes
    kept = json.loads((uninterrupted.run_dir / "provenance.json").read_text())
    assert kept["shards_sha256"] == result.provenance["shards_sha256"]
    script = (uninterrupted.run_dir / "logs/slurm" / f"{uninterrupted.number}_submission.sh").read_text()
    assert "unset RANK" in script


@pytest.mark.parametrize("name", ["USR2", "TERM"])
def test_signal_saves_requeues_and_goes_on(
    job_file: Path, uninterrupted: Job, tmp_path: Path, name: str
) -> None:
    job = started(job_file, tmp_path / "run")
    slurm("scancel", f"--signal={name}", job.number)
    job.until(lambda: bool(job.events("requeued")), "requeue")
    (saved,) = job.events("preempted")
    assert job.step() == saved["step"]
    assert job.events("requeued")[0]["reason"] == "asked to stop"
    ends_like(job, uninterrupted)
    assert f"continuing from {job.run_dir}/checkpoints/step-{saved['step']}" in job.console()


def test_time_limit_saves_requeues_and_goes_on(job_file: Path, uninterrupted: Job, tmp_path: Path) -> None:
    """SLURM's smallest limit is a minute. It looks twice a minute and signals 15 to 45 s before: a signal for
    30 s could be sent before there are ranks, who would never hear of it. The ranks are halted till then."""
    job = submit(job_file, tmp_path / "run", *LONG, minutes=1, signal=15)
    job.until(lambda: bool(job.step() or job.events("preempted")), "first commit")
    halted = job.rank_pids()
    send(halted, signal.SIGSTOP)
    job.until(lambda: job.seconds() > 46 or bool(job.events("requeued")), "signal before the limit")
    send(halted, signal.SIGCONT)
    job.until(lambda: bool(job.events("requeued")), "requeue at the time limit")
    first = job.events("preempted")[0]["step"]
    assert isinstance(first, int)
    assert 0 < first < STEPS
    job.over()  # a slow machine meets the limit more than once
    ends_like(job, uninterrupted, restarts=len(job.events("requeued")))
    assert "TIME LIMIT" not in job.console()


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # ended meanwhile
            os.kill(pid, number)


def test_requeue_from_outside_goes_on(job_file: Path, uninterrupted: Job, tmp_path: Path) -> None:
    job = started(job_file, tmp_path / "run")
    slurm("scontrol", "requeue", job.number)
    ends_like(job, uninterrupted)


def test_lost_node_requeues_and_goes_on(job_file: Path, uninterrupted: Job, tmp_path: Path) -> None:
    job = started(job_file, tmp_path / "run")
    lose_node(job, "n2", rank=1)
    try:
        job.until(lambda: job.state() in ("PENDING", "REQUEUED") or job.restarts() > 0, "requeue")
    finally:
        start_slurm()
    assert job.over() == "COMPLETED", job.story()
    assert job.restarts() >= 1
    assert job.weights() == uninterrupted.weights()


def lose_node(job: Job, node: str, rank: int) -> None:
    """Kill a node's daemon, the daemon of its step, and its rank, as a power cut does."""
    folder = Path(
        slurm("scontrol", "show", "config").split("SlurmdPidFile")[1].split("=")[1].split()[0]
    ).parent
    pid = job.rank_pids()[rank]
    step_daemon = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    daemon = int((folder / f"slurmd-{node}.pid").read_text())
    for number in (daemon, step_daemon, pid):
        os.kill(number, signal.SIGKILL)


@pytest.mark.parametrize("rank", [0, 1])
def test_killed_rank_is_named_and_the_job_starts_again(
    job_file: Path, uninterrupted: Job, tmp_path: Path, rank: int
) -> None:
    job = started(job_file, tmp_path / "run")
    pids = job.rank_pids()
    os.kill(pids[rank], signal.SIGKILL)
    job.until(lambda: bool(job.events("requeued")), "requeue")
    assert not any(map(running, pids))
    assert job.events("requeued")[0]["reason"] == f"rank {rank} on node n{rank + 1}: killed"
    assert f"rank {rank} on node n{rank + 1}: killed; job {job.number} is requeued" in job.console()
    ends_like(job, uninterrupted)


def test_job_that_never_gets_on_is_given_up(job_file: Path, tmp_path: Path) -> None:
    """Killed before its first commit at every start."""
    job = submit(job_file, tmp_path / "run", *LONG, "train.checkpoint.every=100000", restarts=1)
    for start in (1, 2):
        job.until(lambda s=start: len(job.events("training")) == s, f"start {start}")  # type: ignore[misc]
        os.kill(job.rank_pids()[1], signal.SIGKILL)
    assert job.over() == "FAILED", job.story()
    assert job.exit_code() == 1
    assert job.restarts() == 1
    reason = "started 2 times from step 0 without committing another one (max_restarts = 1)"
    assert reason in str(job.events("failed")[-1]["reason"])
    assert reason in job.console()


def test_a_mistake_is_not_repeated(job_file: Path, tmp_path: Path) -> None:
    """A finished stage's weights vanish between submission and start: code 2, and no requeue."""
    job = submit(job_file, tmp_path / "run", *LONG)
    job.until(lambda: bool(job.events("launched")), "start")
    (job.run_dir / "stage.yaml").write_text("name: [")
    assert job.over() == "FAILED", job.story()
    assert (job.exit_code(), job.restarts()) == (2, 0)
    assert "is not valid YAML" in job.console()


def test_of_two_jobs_in_one_folder_one_wins(job_file: Path, uninterrupted: Job, tmp_path: Path) -> None:
    """The same batch script twice at once; further commands are refused before anything is submitted."""
    first = submit(job_file, tmp_path / "run", *LONG)
    script = first.run_dir / "logs/slurm" / f"{first.number}_submission.sh"
    second = Job(slurm("sbatch", "--parsable", str(script)), first.run_dir)
    again = swamp(
        "submit", job_file, *LONG, "--cluster", tmp_path / "run-cluster.yaml", "--run-dir", first.run_dir
    )
    refused(again, "is held by SLURM job", code=3)  # of two live jobs either may be named
    first.until(lambda: "FAILED" in (first.state(), second.state()), "refusal of one job")
    loser, winner = (first, second) if first.state() == "FAILED" else (second, first)
    assert (loser.exit_code(), loser.restarts()) == (3, 0), loser.story()
    assert f"(job {winner.number}), since" in loser.console()
    here = swamp("run", job_file, *LONG, "--ranks", 2, "--run-dir", first.run_dir)
    refused(here, "is held by SLURM job", code=3)
    ends_like(winner, uninterrupted, restarts=0)
