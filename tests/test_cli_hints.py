"""Mistakes that everybody makes once: each is answered with what leads on, by its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.config import StageSettings
from swamp_dist.errors import ExitCode
from swamp_dist.loading import load
from swamp_dist.runs.graph import GraphNode, write_graph
from tests.runs.written_runs import DEAD, started, write

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "job": "jobs/pretrain/synthetic.yaml",
    "pipeline": "jobs/pipelines/smoke.yaml",
    "sweep": "jobs/sweeps/table13.yaml",
    "recipe": "shards/synthetic.yaml",
    "cluster": "jobs/clusters/slurm.yaml",
}


def swamp(*arguments: str, columns: int = 80) -> Result:
    return CliRunner().invoke(
        cli.app, arguments, env={"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)}
    )


def told(result: Result, code: int = 2) -> str:
    """What was said, as one line, without the frame around it."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return " ".join(result.output.replace("│", " ").split())


@pytest.mark.parametrize("columns", [80, 100, 120])
@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["run", FILES["pipeline"]], "a job was expected. Fix: swamp pipeline jobs/pipelines/smoke.yaml"),
        (["run", FILES["sweep"]], f"swamp sweep {FILES['sweep']}"),
        (["run", FILES["recipe"]], f"swamp shards build {FILES['recipe']}"),
        (["run", FILES["cluster"]], f"swamp submit JOB --cluster {FILES['cluster']}"),
        (["pipeline", FILES["job"]], "pipeline was expected. Fix: swamp run jobs/pretrain/synthetic.yaml"),
        (["sweep", FILES["pipeline"]], f"swamp pipeline {FILES['pipeline']}"),
        (["shards", "build", FILES["job"]], f"swamp run {FILES['job']}"),
        (["submit", FILES["job"], "--cluster", FILES["job"]], "this is a job; a cluster file was expected"),
        (["run", FILES["job"], "--epochs", "5"], "Settings are given as KEY=VALUE: train.epochs=5"),
        (["run", FILES["job"], "--lr", "1"], "train.optimizer.lr=1"),
        (["run", FILES["job"], "--lr=1e-3"], "train.optimizer.lr=1e-3"),
        (["run", FILES["job"], "--lr"], "train.optimizer.lr=..."),
        (["run", "README.md"], "README.md: this is no job file. Fix: name one: a job, pipeline,"),
        (["train", FILES["job"]], "No such command 'train'. It is: swamp run JOB"),
        (["evaluate", "runs/x"], "It is: swamp eval RUN, or run JOB weights=RUN"),
        (["logs", FILES["pipeline"]], "is a file: expected a run folder. Fix: name the folder of its runs"),
        (["statsu"], "Did you mean 'status'"),
        (["table", "no/such/folder"], "no/such/folder"),
    ],
    ids=str,
)  # fmt: skip
def test_the_hint_leads_on(
    arguments: list[str], hint: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert hint in told(swamp(*arguments, columns=columns))


def test_every_kind_of_file_is_taken_by_its_own_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for file in FILES.values():
        assert swamp("show", file).exit_code == 0


def test_a_tab_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text("name: x\ntrain:\n\tepochs: 3\n")
    said = told(swamp("show", "job.yaml"))
    assert "job.yaml" in said
    assert "Fix: line 3 begins with a tab; indent with blanks" in said
    assert "<unicode string>" not in said


def test_a_missing_base_names_the_file_that_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("base: gone/base.yaml\nname: x\n")
    said = told(swamp("show", "mine.yaml"))
    assert "gone/base.yaml does not exist" in said
    assert "It is the `base:` of mine.yaml, relative to it" in said


def test_another_kind_over_a_base_leaves_its_keys_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("below.yaml").write_text(
        "name: x\ndata: {shards: d}\nmodel: {embedding_dim: 8, a: {kind: mlp, hidden: [4]}}\ntrain: {}\n"
    )
    Path("above.yaml").write_text("base: below.yaml\nmodel: {a: {kind: gated}}\n")
    assert load(Path("above.yaml"), StageSettings).model.a.kind == "gated"
    assert load(Path("below.yaml"), StageSettings, ["model.a.kind=gated"]).model.a.kind == "gated"
    Path("wrong.yaml").write_text("base: below.yaml\nmodel: {a: {kind: gated, hidden: [4]}}\n")
    assert "model.a.hidden" in told(swamp("show", "wrong.yaml"))  # its own mistake stays one


def test_logs_of_a_pipeline_name_its_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("runs/two/seed-0/one"), started(DEAD), ("failed", 1.0, {"reason": "no space left"}))
    write_graph(Path("runs/two"), [GraphNode("seed-0/one", ()), GraphNode("seed-0/next", ("seed-0/one",))])
    Path("runs/two/logs").mkdir()  # as a pipeline that was held leaves it
    said = told(swamp("logs", "runs/two"))
    assert (
        "runs/two is the folder of a pipeline: name one of its runs: swamp logs runs/two/seed-0/one" in said
    )


def test_a_table_of_no_finished_runs_says_where_they_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path("runs/one"), started(DEAD))
    said = told(swamp("table", "runs"))
    assert "holds no finished run" in said
    assert "swamp status runs" in said


def test_short_help_version_and_completion() -> None:
    for verb in ([], ["run"], ["shards", "build"]):
        assert swamp(*verb, "-h").output == swamp(*verb, "--help").output
    assert swamp("--version").output.startswith("swamp_dist ")
    shown = CliRunner().invoke(cli.app, [], prog_name="swamp", env={"_SWAMP_COMPLETE": "source_bash"})
    assert "complete" in shown.output
    assert "--install-completion" in swamp("-h", columns=120).output


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["run", "job.yaml"], ExitCode.REQUEUE),
        (["table", "runs"], ExitCode.INTERRUPTED),
    ],
)
def test_one_ctrl_c_has_its_documented_code_and_word(
    arguments: list[str], code: ExitCode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("swamp_dist.cli.stages.load_stage", interrupt)
    monkeypatch.setattr("swamp_dist.cli.tables._built", interrupt)
    said = told(swamp(*arguments), code)
    assert said == (
        "interrupted"
        if code == ExitCode.INTERRUPTED
        else ("stopped with its progress saved; the same command continues")
    )
