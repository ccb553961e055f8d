from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.backends.slurm.checks import check_requeue
from tests.runs.written_runs import fake_command


def test_a_node_of_a_job_without_scontrol_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    (found,) = check_requeue()
    assert (found.level, found.check) == ("problem", "requeue")
    assert "`setup`" in found.fix
    monkeypatch.delenv("SLURM_JOB_ID")
    assert [each.level for each in check_requeue()] == ["warning"]  # a machine that is no node
    monkeypatch.setenv("SLURM_JOB_ID", "41")
    fake_command(tmp_path, "scontrol", "echo 'JobRequeue = 1'")
    assert [each.level for each in check_requeue()] == ["ok"]
