"""`swamp submit`, up to the point where SLURM takes over."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.backends import local
from swamp_dist.config import SlurmCluster, StageSettings
from swamp_dist.errors import UserError
from swamp_dist.loading import load, load_cluster
from swamp_dist.pipelines import run as pipeline
from swamp_dist.runs.folder import RunDir
from tests.backends.slurm.played import Slurm
from tests.end_to_end.command import write_job

SLURM = "backend: slurm\nnodes: 2\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_shards: Path) -> Path:
    """A folder with job and cluster file, and programs that play SLURM."""
    monkeypatch.chdir(tmp_path)
    write_job(tmp_path, tiny_shards)
    Path("cluster.yaml").write_text(SLURM)
    commands = tmp_path / "commands"
    commands.mkdir()
    for name, script in {
        "srun": "exit 1",
        "squeue": "exit 0",
        "scontrol": "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
        "scancel": "exit 1",
        "sinfo": "exit 1",
        "sbatch": 'echo "Submitted batch job 41"',
    }.items():
        (commands / name).write_text(f"#!/bin/sh\n{script}\n")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def submit(*more: str) -> Result:
    return CliRunner().invoke(cli.app, ["submit", "job.yaml", "--cluster", "cluster.yaml", *more])


def test_submission_leaves_what_it_runs_and_says_how_to_go_on(here: Path) -> None:
    done = submit("train.epochs=3")
    assert done.exit_code == 0, done.output
    folder = RunDir(Path("runs/tiny"))
    assert load(folder.stage_yaml, StageSettings).train.epochs == 3  # type: ignore[union-attr]
    assert load_cluster(folder.cluster_yaml) == SlurmCluster(nodes=2)
    kept = json.loads(folder.provenance_json.read_text())
    assert kept["ranks"] == 2
    assert len(kept["shards_sha256"]) == 64
    assert {"commit", "changed"} == set(kept["git"])
    assert kept["git"]["changed"] == folder.source_patch.is_file()
    for expected in (
        "job:         41",
        "runs/tiny",
        "swamp logs runs/tiny --follow",
        "swamp status runs/tiny",
        "squeue -j 41",
        "scancel --signal=USR2 41",
        "24 (3 epochs of 8)",
    ):
        assert expected in done.output


def test_dry_run_prints_everything_and_leaves_nothing(here: Path) -> None:
    done = submit("--dry-run")
    assert done.exit_code == 0, done.output
    for expected in ("2 nodes x 1", "12 per rank", "#SBATCH --requeue", "srun ", "nothing was submitted"):
        assert expected in done.output
    assert not Path("runs").exists()


def test_what_does_not_fit_so_many_ranks_is_refused_before_submission(here: Path) -> None:
    Path("cluster.yaml").write_text(SLURM + "tasks_per_node: 7\n")
    done = submit()
    assert done.exit_code == 2
    assert "14 ranks do not divide data.lanes = 24" in done.output
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("backend: slrum\n", "found 'slrum'. Did you mean slurm?"),
        ("nodes: 2\n", "it is not given: is this a cluster file?"),
        (SLURM + "node: 3\n", "unknown key"),
        (SLURM + "gpus_per_node: 8\n", "a rank drives one GPU"),
    ],
)
def test_mistakes_in_a_cluster_file_are_named(here: Path, text: str, said: str) -> None:
    Path("cluster.yaml").write_text(text)
    done = submit()
    assert done.exit_code == 2
    assert said in done.output


def test_local_cluster_runs_the_ranks_here(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def run_ranks(_stage: Path, _folder: Path, ranks: int, **_: object) -> int:
        started.append(ranks)
        return 75

    monkeypatch.setattr(local, "run_ranks", run_ranks)
    Path("cluster.yaml").write_text("backend: local\nranks: 3\n")
    assert "would run 3 ranks" in submit("--dry-run").output
    assert started == []
    done = submit()
    assert (done.exit_code, started) == (75, [3])
    assert "the same command continues" in done.output


def test_dry_run_for_a_ray_prints_the_plan_and_starts_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    Path("cluster.yaml").write_text("backend: ray\nworkers: 3\n")
    done = submit("--dry-run")
    assert done.exit_code == 0, done.output
    for expected in ("3 Ray Train workers", "8 per rank", "one of our own", "nothing was started"):
        assert expected in done.output
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert "the one at head:6379" in submit("--dry-run").output
    assert not Path("runs").exists()


def test_a_ray_inside_an_allocation_is_one_task_a_node(here: Path) -> None:
    text = "launcher: ray\ntasks_per_node: 3\ncpus_per_task: 2\n"
    Path("cluster.yaml").write_text(SLURM + text)
    done = submit("--dry-run")
    assert done.exit_code == 0, done.output
    assert "--ntasks-per-node=1" in done.output
    assert "--cpus-per-task=6" in done.output
    assert "-m swamp_dist.backends.ray.slurm_node " in done.output
    assert "export RAY_AUTH_TOKEN=$(od" in done.output


def test_a_finished_stage_is_not_submitted(here: Path) -> None:
    from tests.test_cli import finished

    finished(Path("runs/tiny"), 1.0)
    done = submit()
    assert done.exit_code == 0
    assert "nothing to submit" in done.output


def test_a_live_job_is_never_joined_by_another_run(slurm: Slurm) -> None:
    assert submit().exit_code == 0
    run_here = ["run", "job.yaml"]
    for again in (submit(), CliRunner().invoke(cli.app, run_here)):
        assert again.exit_code == 3
        assert "held by SLURM job 41, which is PENDING" in again.output
        assert "swamp cancel runs/tiny" in again.output
    RunDir(Path("runs/tiny")).events_jsonl.unlink()  # as of a submission killed right after sbatch
    assert "held by SLURM job 41" in submit().output
    Path("cluster.yaml").write_text("backend: ray\nworkers: 3\n")
    assert "held by SLURM job 41" in submit().output
    assert slurm.submissions == 1


def test_other_settings_are_said_not_to_be_applied_to_a_live_run(slurm: Slurm) -> None:
    assert submit().exit_code == 0
    assert "not applied" not in submit().output
    Path("cluster.yaml").write_text(SLURM + "time_limit: 90\n")
    assert "these are not applied to it: time_limit (runs/tiny/cluster.yaml)" in submit().output
    Path("cluster.yaml").write_text(SLURM)
    again = submit("train.epochs=9")
    assert again.exit_code == 3
    assert "other settings than were asked for, which are not applied" in " ".join(again.output.split())
    with RunDir(Path("runs/here")).hold(lambda _: None):
        here = ("--run-dir", "runs/here")
        RunDir(Path("runs/here")).stage_yaml.write_text(RunDir(Path("runs/tiny")).stage_yaml.read_text())
        assert "not applied" not in submit(*here).output
        assert "are not applied to it" in submit("train.epochs=9", *here).output


def test_a_finished_stage_needs_no_scheduler(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    from swamp_dist.backends.follow import run_as_job
    from swamp_dist.backends.slurm.backend import SlurmBackend
    from tests.test_cli import finished

    finished(Path("runs/tiny"), 1.0)
    monkeypatch.setenv("PATH", "")
    assert submit().exit_code == 0
    assert run_as_job(SlurmBackend(SlurmCluster()), RunDir(Path("runs/tiny")), lambda: "") == 0


def test_without_the_schedulers_answer_nothing_is_submitted_or_started(slurm: Slurm) -> None:
    assert submit().exit_code == 0
    (slurm.commands / "squeue").write_text("#!/bin/sh\necho 'Unable to contact controller' >&2; exit 1\n")
    for again, what in (
        (submit(), "submitted"),
        (CliRunner().invoke(cli.app, ["run", "job.yaml"]), "started"),
    ):
        assert again.exit_code == 2
        assert f"the scheduler gives no answer, so nothing was {what}" in again.output
    new = submit("--run-dir", "runs/new")
    assert "so nothing was submitted.\nIt says: squeue: Unable to contact controller\nFix: " in new.output
    assert "without a cluster, on this machine: swamp run JOB." in new.output
    assert not Path("runs/new").exists()
    assert slurm.submissions == 1
    slurm.set("41", "FAILED")
    assert submit("--dry-run").exit_code == 0


def test_a_dry_run_looks_for_a_live_job_and_notes_none(slurm: Slurm) -> None:
    assert submit().exit_code == 0
    folder = RunDir(Path("runs/tiny"))
    refused = submit("--dry-run")
    assert (refused.exit_code, "held by SLURM job 41" in refused.output) == (3, True)
    folder.events_jsonl.unlink()  # as of a submission killed right after sbatch
    assert submit("--dry-run").exit_code == 3
    assert not folder.events_jsonl.exists()
    (slurm.commands / "squeue").write_text("#!/bin/sh\necho 'Unable to contact controller' >&2; exit 1\n")
    unknown = submit("--dry-run")
    assert unknown.exit_code == 0, unknown.output
    said = "not known whether a job works on runs/tiny already: squeue: Unable to contact controller"
    assert said in " ".join(unknown.output.split())


SWEEP = """
name: rates
job: job.yaml
vary: {train.optimizer.lr: [1.0e-3, 1.0e-4]}
seeds: [0, 1]
evaluate: {split: validation}
metrics: [pair/a_to_b/r_at_1]
"""


@pytest.fixture
def slurm(here: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A played scheduler with a queue."""
    played = Slurm(here / "slurm")
    monkeypatch.setenv("PATH", played.path)
    return played


def asked(*words: str) -> Result:
    return CliRunner().invoke(cli.app, [*words, "--cluster", "cluster.yaml"])


def test_a_sweep_is_handed_over_and_every_run_is_a_job(slurm: Slurm) -> None:
    Path("sweep.yaml").write_text(SWEEP)
    done = asked("sweep", "sweep.yaml", "--detach")
    assert done.exit_code == 0, done.output
    assert slurm.submissions == 4
    assert "swamp sweep sweep.yaml --cluster cluster.yaml" in done.output
    assert "swamp status runs/rates" in done.output
    assert load(Path("runs/rates/seed-1/lr-0.0001/stage.yaml"), StageSettings).seed == 1
    again = asked("sweep", "sweep.yaml", "--detach")
    assert (again.exit_code, slurm.submissions) == (0, 4)
    here = CliRunner().invoke(cli.app, ["sweep", "sweep.yaml"])  # on this machine, while the jobs wait
    assert here.exit_code == 3
    assert "held by SLURM job" in here.output


def test_a_set_is_built_by_an_array_and_a_job_that_closes_it(slurm: Slurm) -> None:
    Path("recipe.yaml").write_text(
        "name: built\nsource: {kind: synthetic, splits: {train: {classes: [0, 4], total: 16}}}\n"
    )
    command = ("shards", "build", "recipe.yaml", "--out", "data/built", "--parts", "3")
    done = asked(*command)
    assert done.exit_code == 0, done.output
    assert "#SBATCH --array=0-2%3" in slurm.script("41")
    assert "--part ${SLURM_ARRAY_TASK_ID}/3" in slurm.script("41")
    assert slurm.dependency("42") == "afterany:41"
    assert "--part" not in slurm.script("42")
    assert "srun" not in slurm.script("42")
    assert "nothing was submitted" in asked(*command).output
    slurm.set("41", "FAILED")
    slurm.set("42", "NODE_FAIL")
    assert asked(*command).exit_code == 0
    assert slurm.submissions == 4


def test_the_command_that_continues_a_graph_has_its_overrides_and_quotes(slurm: Slurm) -> None:
    Path("my sweep.yaml").write_text(SWEEP)
    words = ("sweep", "my sweep.yaml", "seeds=[3, 4]", "--run-dir", "the runs")
    done = asked(*words, "--detach")
    assert done.exit_code == 0, done.output
    printed = next(x for x in done.output.splitlines() if x.startswith("next:"))
    said = shlex.split(printed.removeprefix("next:").partition("  (waits")[0])
    assert said[:4] == ["swamp", *words[:3]]
    assert set(said[4:]) == {"--cluster", "cluster.yaml", "--run-dir", "the runs"}


@pytest.mark.parametrize("more", [[], ["--detach"]])
def test_settings_are_not_changed_under_a_live_job(slurm: Slurm, more: list[str]) -> None:
    Path("sweep.yaml").write_text(SWEEP)
    assert asked("sweep", "sweep.yaml", "--detach").exit_code == 0
    folder = RunDir(min(Path("runs/rates").glob("seed-0/*")))
    before = folder.stage_yaml.read_text()
    done = asked("sweep", "sweep.yaml", "overrides=[train.epochs=9]", *more)
    assert done.exit_code == 3, done.output
    assert f"run folder {folder.path} is held by SLURM job 4" in " ".join(done.output.split())
    assert folder.stage_yaml.read_text() == before
    assert slurm.submissions == 4


@pytest.mark.parametrize("more", [["--ray"], ["--force"], ["--part", "0/3"], ["--workers", "2"]])
def test_options_of_a_build_here_are_refused_for_a_cluster(slurm: Slurm, more: list[str]) -> None:
    Path("recipe.yaml").write_text("name: x\nsource: {kind: synthetic, splits: {train: {total: 16}}}\n")
    done = asked("shards", "build", "recipe.yaml", *more)
    assert done.exit_code == 2
    assert slurm.submissions == 0


def test_an_interrupted_driver_says_that_jobs_go_on(slurm: Slurm, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **given: object) -> None:
        assert given["cluster"] == SlurmCluster(nodes=2)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_pipeline", interrupted)
    Path("graph.yaml").write_text("name: one\nstages: {one: {job: job.yaml}}\n")
    done = asked("pipeline", "graph.yaml")
    assert done.exit_code == 75
    assert "go on without this command" in done.output
    assert "swamp cancel runs/one" in done.output


def test_without_a_scheduler_nothing_of_a_graph_starts(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(here))
    Path("graph.yaml").write_text("name: one\nstages: {one: {job: job.yaml}}\n")
    for more in ([], ["--detach"]):
        done = asked("pipeline", "graph.yaml", *more)
        assert done.exit_code == 2
        assert "srun is not on PATH" in done.output
    assert not Path("runs").exists()


def test_an_unknown_backend_is_refused_wherever_a_file_is_read(here: Path) -> None:
    Path("cluster.yaml").write_text("backend: moon\n")
    with pytest.raises(UserError, match="expected one of local, ray, slurm"):
        load_cluster(Path("cluster.yaml"))
    shown = CliRunner().invoke(cli.app, ["show", "cluster.yaml"])
    assert shown.exit_code == 2
