"""A Ray over two nodes of a real SLURM job: ranks start again inside it, the job itself as any other."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.cluster.slurm import LONG, Job, slurm, submit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def rays(job: Job) -> list[int]:
    """Processes of Ray that belong to a job."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            mine = f"SLURM_JOB_ID={job.number}".encode() in (folder / "environ").read_bytes().split(b"\0")
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if mine and (b"raylet" in command or b"gcs_server" in command):
            found.append(int(folder.name))
    return found


def test_killed_rank_starts_again_without_a_new_allocation(
    job_file: Path, uninterrupted: Job, tmp_path: Path
) -> None:
    job = submit(job_file, tmp_path / "run", *LONG, launcher="ray")
    job.until(lambda: job.step() > 0, "first commit")
    assert sum(b"raylet" in Path(f"/proc/{pid}/cmdline").read_bytes() for pid in rays(job)) >= 2
    os.kill(job.rank_pids()[1], signal.SIGKILL)
    assert job.over() == "COMPLETED", job.story()
    assert job.restarts() == 0, job.story()
    assert [e.get("by") for e in job.events("launched")] == [None, "ray", "ray"]
    assert job.weights() == uninterrupted.weights()
    assert rays(job) == []


def test_signal_saves_requeues_and_goes_on(
    job_file: Path, uninterrupted: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a shell that exports nothing: the Ray's key is made in the job and reaches all its nodes."""
    monkeypatch.setenv("SBATCH_EXPORT", "NONE")
    job = submit(job_file, tmp_path / "run", *LONG, launcher="ray")
    job.until(lambda: job.step() > 0, "first commit")
    slurm("scancel", "--signal=USR2", job.number)
    job.until(lambda: bool(job.events("requeued")), "requeue")
    assert job.step() == job.events("preempted")[0]["step"]
    assert job.over() == "COMPLETED", job.story()
    assert job.restarts() == 1, job.story()
    assert job.weights() == uninterrupted.weights()
