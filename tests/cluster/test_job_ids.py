"""On a real SLURM: an id is used only for a job that carries the run folder, whatever sbatch prints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from swamp_dist import cli
from swamp_dist.backends import follow
from swamp_dist.backends.jobs import live_job
from swamp_dist.backends.registry import scheduler_of
from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.errors import ExitCode
from tests.cluster.played import played
from tests.cluster.slurm import Job, slurm
from tests.runs.written_runs import fake_command

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
HELD = {"sbatch": ["hold"]}
"""Jobs that wait for ever cost nothing."""


@pytest.fixture(scope="module")
def foreign(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    """A job of somebody else."""
    words = ("--parsable", "--hold", "--comment=/home/other/run", "--output=/dev/null", "--wrap=true")
    job = Job(slurm("sbatch", *words), tmp_path_factory.mktemp("other"))
    yield job
    slurm("scancel", job.number)


@pytest.fixture
def wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in front of SLURM's commands on PATH, for a site's own."""
    (tmp_path / "site").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "site"


def asked(*words: object) -> str:
    done = CliRunner().invoke(cli.app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


@pytest.mark.parametrize(
    "site",
    [
        "echo Hours left on your account:; echo FOREIGN; exec REAL $WORDS",
        "echo FOREIGN; echo Submitted batch job $(REAL $WORDS)",
        "REAL $WORDS >&2; echo FOREIGN",
        "REAL $WORDS; echo Submitted batch job FOREIGN",
    ],
)
def test_a_greeting_with_a_number_leads_to_no_other_job(
    tmp_path: Path, wrapper: Path, foreign: Job, site: str
) -> None:
    script = site.replace("FOREIGN", foreign.number).replace("REAL", str(shutil.which("sbatch")))
    fake_command(wrapper, "sbatch", script.replace("$WORDS", '"$@"'))
    stage = played(tmp_path / "run", settings=HELD)
    job = stage.submit()
    assert job.number != foreign.number
    assert f"Comment={stage.folder.path}" in slurm("scontrol", "show", "job", job.number)
    assert f"job {job.number} was taken out of the queue" in asked("cancel", stage.folder.path)
    assert (job.state(), foreign.state()) == ("CANCELLED", "PENDING")


def test_a_cluster_in_the_answer_is_asked_from_then_on(tmp_path: Path, wrapper: Path) -> None:
    """This SLURM has no database that would know clusters by name: the site's commands take the name off."""
    for name in ("squeue", "scontrol", "scancel"):
        script = f'[ "$1 $2" = "-M swamp" ] || exit 1; shift 2; exec {shutil.which(name)} "$@"'
        fake_command(wrapper, name, script)
    fake_command(wrapper, "sbatch", f"""{shutil.which("sbatch")} "$@" | sed 's/$/;swamp/'""")
    stage = played(tmp_path / "run", settings=HELD)
    number = stage.submit().number
    known = live_job(SlurmBackend(stage.cluster.model_copy(update={"cluster": "swamp"})), stage.folder)
    assert known is not None
    assert (known.id, known.phase) == (number, "waiting")
    assert scheduler_of(stage.folder).title == "SLURM cluster swamp"
    assert f"job {number} was taken out of the queue" in asked("cancel", stage.folder.path)


def test_a_number_that_is_anothers_now_is_neither_followed_nor_cancelled(
    tmp_path: Path, foreign: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = played(tmp_path / "run")
    stage.folder.append_event("submitted", job=foreign.number, owner=str(stage.folder.path))
    backend = SlurmBackend(stage.cluster)
    assert live_job(backend, stage.folder) is None
    for now in ([], ["--now"]):
        assert "nothing works on this run" in asked("cancel", stage.folder.path, *now)
    monkeypatch.setattr(follow, "ASK_SECONDS", 0.0)
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.0)
    ended = follow.follow(backend, stage.folder, foreign.number)
    assert (ended.code, "is unknown to the scheduler" in ended.reason) == (ExitCode.FAILED, True)
    shown = slurm("scontrol", "show", "job", foreign.number)
    assert "JobState=PENDING" in shown
    assert "Requeue=1" in shown
