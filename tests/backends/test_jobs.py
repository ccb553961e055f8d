"""Which job works on a folder, as a lock and a refusal ask it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest

from swamp_dist.backends.jobs import job_lives
from swamp_dist.errors import RunDirHeld
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.holder import LockHolder, holder_file
from tests.runs.written_runs import fake_command

ELSEWHERE = LockHolder("gpu7", "another kernel", 4242, "77", "2026-01-02 03:04:05+00:00", "theirs")


@pytest.mark.parametrize(
    ("answer", "lives"),
    [
        ("echo '77|RUNNING|0:10|None'", True),
        ("echo '77|COMPLETING|0:10|None'", True),
        ("echo '77|RESIZING|0:10|None'", True),
        ("echo '77|PENDING|0:00|Resources'", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", False),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", None),
    ],
)
def test_a_job_lives_while_it_holds_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, lives: bool | None
) -> None:
    fake_command(tmp_path / "bin", "squeue", answer)
    unknown = "slurm_load_jobs error: Invalid job id specified"
    fake_command(tmp_path / "bin", "scontrol", f"echo '{unknown}' >&2; exit 1")  # not the machine's own
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin:/bin")
    assert job_lives(RunDir(tmp_path))("77") is lives


def test_the_folder_of_a_job_that_is_resized_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_command(tmp_path / "bin", "squeue", "echo '77|RESIZING|0:10|None'")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin:/bin")
    folder = RunDir(tmp_path / "run")
    folder.create()
    holder_file(folder.path).write_text(json.dumps(asdict(ELSEWHERE)))
    with pytest.raises(RunDirHeld, match=r"gpu7 \(job 77\)"), folder.hold(job_lives(folder)):
        pass
