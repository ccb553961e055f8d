from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.backends.slurm.advice import advice, never_starts
from tests.runs.written_runs import calls, fake_command


@pytest.mark.parametrize(
    ("said", "named", "shown"),
    [
        ("sbatch: error: invalid partition specified: gup\nsbatch: error: Batch job submission failed: "
         "Invalid partition name specified", "partition", "--format=%R"),
        ("Batch job submission failed: Invalid account or account/partition combination specified", "account",
         ""),
        ("Batch job submission failed: Invalid qos specification", "qos", ""),
        ("Batch job submission failed: Invalid feature specification", "constraint", "--format=%f"),
        ("Batch job submission failed: Invalid generic resource (gres) specification", "gpu_type",
         "--format=%G"),
        ("Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
         "time_limit", "--format=%R: %l"),
        ("Batch job submission failed: Memory required by task is not available", "memory_gb",
         "--format=%R: %m MB"),
        ("Batch job submission failed: Requested node configuration is not available", "cpus_per_task",
         "--format=%R: %D nodes of %c CPUs, %m MB, %G, %f"),
        ("Batch job submission failed: Requested reservation is invalid", "reservation", ""),
        ("Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)", "qos",
         ""),
    ],
)  # fmt: skip
def test_a_refusal_names_the_setting_and_what_the_cluster_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, named: str, shown: str
) -> None:
    fake_command(tmp_path, "sinfo", "printf 'gpu\\ncpu\\ngpu\\n(null)\\n'")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = advice(said)
    assert f"Fix: change {named}" in found or named in found.partition(" in the cluster file")[0]
    assert found.endswith("This cluster has: gpu; cpu") == bool(shown)
    assert calls(tmp_path, "sinfo") == ([f"--noheader {shown}"] if shown else [])
    fake_command(tmp_path, "sinfo", "exit 1")
    assert advice(said).endswith("in the cluster file.")


def test_words_that_tell_no_setting_get_no_advice() -> None:
    assert advice("sbatch: error: Unable to open file x") == ""


@pytest.mark.parametrize(
    ("reason", "fix"),
    [
        ("PartitionTimeLimit", "lower time_limit"), ("PartitionNodeLimit", "change nodes"),
        ("QOSMaxWallDurationPerJobLimit", "lower time_limit"), ("AssocMaxCpuPerJobLimit", "cpus_per_task"),
        ("QOSMaxGRESPerJob", ""), ("QOSMaxGRESPerNodeLimit", "gpus_per_node"),
        ("BadConstraints", "constraint"),
        ("InvalidAccount", "another account"), ("InvalidQOS", "another qos"),
        ("PartitionConfig", "cpus_per_task"),
        ("ReservationDeleted", "another reservation"), ("launch failed requeued held", "scontrol release"),
        ("DependencyNeverSatisfied", "has failed"),
        ("Resources", ""), ("Priority", ""), ("BeginTime", ""), ("Dependency", ""), ("JobHeldUser", ""),
        ("QOSMaxJobsPerUserLimit", ""), ("AssocGrpCpuLimit", ""), ("ReqNodeNotAvail", ""), ("", ""),
    ],
)  # fmt: skip
def test_what_never_starts_is_told_from_what_waits(reason: str, fix: str) -> None:
    found = never_starts(reason)
    assert bool(found) == bool(fix)
    assert fix in found
