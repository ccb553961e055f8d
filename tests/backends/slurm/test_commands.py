"""What a SLURM around the process that asks or submits does to its commands: nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from swamp_dist.backends.slurm import queue
from swamp_dist.backends.slurm.commands import command_environment, sbatch_environment
from swamp_dist.backends.slurm.submit import submit, submit_command
from swamp_dist.config import SlurmCluster
from swamp_dist.runs.folder import RunDir
from tests.runs.written_runs import fake_command

OUTER = {
    "SLURM_JOB_ID": "7", "SLURM_MEM_PER_CPU": "100", "SLURM_NTASKS_PER_NODE": "9", "SLURM_CPU_BIND": "none",
    "SLURM_EXPORT_ENV": "NONE", "SLURM_STEP_NUM_TASKS": "4", "SLURMD_NODENAME": "n1", "SRUN_DEBUG": "3",
    "SRUN_CPUS_PER_TASK": "8", "SALLOC_ACCOUNT": "x", "PMIX_RANK": "0", "SQUEUE_STATES": "R",
    "SCANCEL_INTERACTIVE": "1",
    "SBATCH_TIMELIMIT": "1", "SBATCH_MEM_PER_NODE": "1", "SBATCH_NO_REQUEUE": "1", "SBATCH_SIGNAL": "INT@9",
    "SBATCH_OUTPUT": "/tmp/elsewhere", "SBATCH_JOB_NAME": "other", "SBATCH_GPUS": "1",
}  # fmt: skip
"""Of a shell inside salloc, a batch script, or a user's profile."""
OWN = {"SLURM_CONF": "/etc/slurm.conf", "SLURM_CLUSTERS": "big", "HOME": "/home/me", "MY_SLURM_X": "1"}
DEFAULTS = {"SBATCH_ACCOUNT": "mine", "SBATCH_PARTITION": "gpu", "SBATCH_EXPORT": "NONE"}


def test_only_what_reaches_the_scheduler_is_kept() -> None:
    assert command_environment(OUTER | OWN | DEFAULTS) == OWN


def test_a_users_default_holds_where_the_cluster_file_says_nothing() -> None:
    assert sbatch_environment(SlurmCluster(), OUTER | OWN | DEFAULTS) == OWN | DEFAULTS
    named = SlurmCluster(account="ours", partition="cpu")
    assert sbatch_environment(named, OUTER | OWN | DEFAULTS) == OWN | {"SBATCH_EXPORT": "NONE"}


def test_every_command_is_asked_outside_of_the_allocation_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    for name, said in {"sbatch": "Submitted batch job 41", "squeue": "", "scancel": "", "srun": ""}.items():
        fake_command(commands, name, f"env > {tmp_path}/{name}.env; echo '{said}'")
    fake_command(
        commands,
        "scontrol",
        f"env > {tmp_path}/scontrol-${{1#--}}.env; echo JobState=RUNNING Comment={tmp_path}/run",
    )
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for key, value in (OUTER | OWN).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(queue, "_KILLED_WITHIN", 0.0)

    submit("s", SlurmCluster(), RunDir(tmp_path / "run"))
    queue.jobs(["41"])
    queue.cancel("41", now=False)
    queue.requeue("41")
    written = sorted(tmp_path.glob("*.env"))
    assert [each.stem for each in written] == [
        "sbatch", "scancel", "scontrol-oneliner", "scontrol-requeue", "scontrol-update", "squeue"
    ]  # fmt: skip
    for each in written:
        seen = dict(line.split("=", 1) for line in each.read_text().splitlines() if "=" in line)
        assert not seen.keys() & OUTER.keys(), each.name
        assert OWN.items() <= seen.items(), each.name
    assert OUTER.items() <= os.environ.items()  # and nothing is taken from the process that asks
    submit_command("c", ["true"], SlurmCluster(), RunDir(tmp_path / "run"))
    assert "SBATCH_TIMELIMIT" not in (tmp_path / "sbatch.env").read_text()
