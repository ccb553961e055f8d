"""On a real SLURM: where no rank starts, or none may start again, the job says why and ends."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from swamp_dist.monitor.status import look
from tests.cluster.played import played

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SAVES = """\
import os
if restart == 0:
    if rank == 0:
        folder.append_event("preempted", step=0)
    os._exit(75)
"""
"""The first start saves and asks to be started again, the second ends well."""


@pytest.mark.parametrize(
    ("setup", "said"),
    [
        ("export SLURM_GRES=gpu:1", "srun started no rank: srun: error: Invalid generic resource"),
        ("export SLURM_DISTRIBUTION=none-such", "srun started no rank: srun: error: Invalid --distribution"),
        ("export PATH=/none", "srun: command not found"),
    ],
)
def test_where_srun_starts_no_rank_the_job_fails_at_once_with_its_line(
    tmp_path: Path, setup: str, said: str
) -> None:
    stage = played(tmp_path / "run", settings={"setup": [setup], "max_restarts": 3})
    job = stage.submit()
    assert job.over() == "FAILED", job.story()
    assert (job.exit_code(), job.restarts()) == (1, 0)
    (failed,) = job.events("failed")
    assert str(failed["reason"]).startswith("srun started no rank: ")
    assert said in str(failed["reason"])
    assert str(failed["reason"]).removeprefix("srun started no rank: ") in job.console()
    assert look(stage.folder).reason == failed["reason"]
    assert len(job.events("launched")) == 1


def test_a_node_without_scontrol_on_its_path_requeues_by_the_one_beside_srun(tmp_path: Path) -> None:
    """In a folder whose name has what SLURM, sbatch and a shell read as their own."""
    commands = tmp_path / "bin"
    commands.mkdir()
    (commands / "srun").symlink_to(shutil.which("srun") or "")
    stage = played(tmp_path / "50% of %j, it's 'a b'", SAVES, {"setup": [f"export PATH={commands}"]})
    job = stage.submit()
    assert job.over() == "COMPLETED", job.story()
    assert job.restarts() == 1
    assert [e["reason"] for e in job.events("requeued")] == ["asked to stop"]
    logs = {path.name for path in (job.run_dir / "logs/slurm").iterdir()}
    assert {f"{job.number}_0_log.out", f"{job.number}_1_log.out"} <= logs, logs
    assert "asked to stop" in job.console()
    assert stage.variables(1)["PATH"] == str(commands)


def test_a_node_without_any_scontrol_says_what_helps(tmp_path: Path) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    shutil.copy2(Path(shutil.which("srun") or "").resolve(), commands / "srun")
    stage = played(tmp_path / "run", SAVES, {"setup": [f"export PATH={commands}"]})
    job = stage.submit()
    assert job.over() == "FAILED", job.story()
    assert (job.exit_code(), job.restarts()) == (1, 0)
    reason = str(job.events("failed")[-1]["reason"])
    assert (
        "scontrol is neither on PATH nor beside srun on this node: a line of `setup` may bring it" in reason
    )
    assert reason.endswith("submit again to go on from step 0")
