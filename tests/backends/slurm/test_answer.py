"""The id of a job is read from whole lines only, and is used only for a job that carries our comment."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swamp_dist import cli
from swamp_dist.backends.follow import follow
from swamp_dist.backends.jobs import live_job, submit_stage
from swamp_dist.backends.protocols import JobBackend, StageRef
from swamp_dist.backends.registry import scheduler_of
from swamp_dist.backends.slurm import answer
from swamp_dist.backends.slurm.answer import Submitted, candidates, prove
from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.config import SlurmCluster
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.runs.folder import RunDir
from tests.backends.slurm.played import Slurm
from tests.runs.written_runs import calls, fake_command, write

SLURM = SlurmBackend(SlurmCluster())
FOREIGN = "RUNNING|0:10|None|/home/other/run|0\n"


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("41", [("41", None)]),
        ("41;big", [("41", "big")]),
        ("Submitted batch job 41", [("41", None)]),
        ("Submitted batch job 41 on cluster big-2", [("41", "big-2")]),
        ("Welcome, job 7 of your project\nhours left: 12\n41\n", [("41", None)]),
        ("12\nSubmitted batch job 41", [("41", None), ("12", None)]),
        ("job 7 was charged; Submitted batch job 41 to it", []),
        ("", []),
    ],
)
def test_an_answer_of_sbatch(said: str, read: list[tuple[str, str | None]]) -> None:
    assert candidates(said) == [Submitted(*each) for each in read]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    played = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", played.path)
    monkeypatch.setattr(answer, "_PAUSE", 0.0)
    return played


def ready(tmp_path: Path) -> StageRef:
    return StageRef("s", write(tmp_path / "run"))


@pytest.mark.parametrize("said", ["12\nJOB", "Your ticket:\n12\nSubmitted batch job JOB", "12", "no number"])
def test_a_banner_never_leads_to_another_job(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    (slurm.jobs / "12").write_text(FOREIGN)
    monkeypatch.setenv("ANSWER", said)
    assert submit_stage(SLURM, ready(tmp_path)) == "41"


def test_an_older_job_of_the_folder_is_not_the_new_one(slurm: Slurm, tmp_path: Path) -> None:
    comment = str(tmp_path / "run")
    (slurm.jobs / "12").write_text(f"RUNNING|0:10|None|{comment}|0\n")
    assert prove("41", comment, None, older=["12"]) == Submitted("41", None)  # has ended already
    assert prove("41", comment, None) == Submitted("12", None)


def test_where_no_job_is_proven_ours_the_answer_is_shown(slurm: Slurm) -> None:
    (slurm.jobs / "12").write_text(FOREIGN)
    with pytest.raises(
        UserError, match=r"(?s)the job's id for certain:\n12\n.*12 \(/home/other/run\).*carries"
    ):
        prove("12", "/mine", None)


def test_a_number_that_is_anothers_now_is_neither_followed_nor_cancelled(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = ready(tmp_path)
    job = submit_stage(SLURM, stage)
    (slurm.jobs / job).write_text(FOREIGN)
    assert live_job(SLURM, stage.run_dir) is None
    asked = CliRunner().invoke(cli.app, ["cancel", str(stage.run_dir.path)])
    assert asked.exit_code == 0, asked.output
    assert calls(slurm.commands, "scancel") == []
    shown = CliRunner().invoke(cli.app, ["status", str(stage.run_dir.path)])
    assert "left the scheduler" in " ".join(shown.output.split())
    for name in ("LOOK_SECONDS", "ASK_SECONDS"):
        monkeypatch.setattr(f"swamp_dist.backends.follow.{name}", 0.0)
    assert follow(SLURM, stage.run_dir, job).code == ExitCode.FAILED


def test_a_folder_that_was_moved_knows_its_job(slurm: Slurm, tmp_path: Path) -> None:
    stage = ready(tmp_path)
    job = submit_stage(SLURM, stage)
    moved = stage.run_dir.path.rename(tmp_path / "elsewhere")
    known = live_job(SLURM, RunDir(moved))
    assert known is not None
    assert known.id == job


def test_the_cluster_that_sbatch_names_is_remembered(
    slurm: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANSWER", "JOB;big")
    stage, backend = ready(tmp_path), SlurmBackend(SlurmCluster())
    stage.run_dir.write_cluster(SlurmCluster())
    job = submit_stage(backend, stage)
    later = scheduler_of(stage.run_dir)
    assert later.title == "SLURM cluster big"
    for each in (backend, later):
        assert isinstance(each, JobBackend)
        fake_command(slurm.commands, "scontrol", "")
        each.cancel(job, now=False)
        assert calls(slurm.commands, "scontrol")[-1] == f"-M big update JobId={job} Requeue=0"
        assert each.commands([job])["state"] == f"squeue -M big -j {job}"
    assert "-M big " in calls(slurm.commands, "squeue")[0]
    assert os.environ["ANSWER"]
