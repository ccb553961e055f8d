from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.config import StageSettings
from swamp_dist.evaluate.results import result_to_json
from swamp_dist.launch import local, pipeline, preflight
from swamp_dist.launch.console import Report, StageStatus
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.rundir import RunDir, RunDirHeld
from swamp_dist.loading import load
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StageResult

JOB = "name: tiny\ndata: {shards: data/tiny, entries: 8}\ntrain: {epochs: 3}\nevaluate: [{split: test}]\n"
PIPELINE = """
name: two
matrix: {seed: [0, 1]}
stages: {one: {job: job.yaml}}
tables:
  - title: Closing
    metrics: [pair/a_to_b/r_at_1]
    rows: [{label: ours, stage: one}]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    Path("two.yaml").write_text(PIPELINE)
    return tmp_path


def swamp(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def finished(run_dir: Path, recall: float) -> None:
    metrics = {
        f"pair/{way}": RetrievalMetrics(way, "pair", recall, 20.0, 30.0, 4.0, 100, 100)
        for way in ("a_to_b", "b_to_a")
    }
    result = StageResult("tiny", run_dir, None, None, 0, (EvaluationResult("test", metrics, {}),), {})
    run_dir.mkdir(parents=True)
    RunDir(run_dir).result_json.write_text(json.dumps(result_to_json(result)))


def test_help_and_show_load_nothing_heavy() -> None:
    code = (
        "import sys, swamp_dist.cli as c\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(c.app, ['--help']).exit_code == 0\n"
        "assert CliRunner().invoke(c.app, ['show', 'job.yaml']).exit_code == 0\n"
        "shown = CliRunner().invoke(c.app, ['show', '--cost', 'job.yaml', '--gpus-per-node', '4'])\n"
        "assert shown.exit_code == 0 and 'sent: column masses' in shown.output, shown.output\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'webdataset', 'tensorboard', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "verb",
    [
        [],
        ["run"],
        ["show"],
        ["shards", "build"],
        ["shards", "verify"],
        ["pipeline"],
        ["table"],
        ["smoke"],
        ["import"],
        ["export"],
    ],
)
def test_every_verb_helps_with_an_example(verb: list[str]) -> None:
    shown = swamp(*verb, "--help")
    assert shown.exit_code == 0
    assert "swamp " + " ".join(verb) in " ".join(shown.output.split())


def test_show_explains_and_marks_what_is_not_default() -> None:
    shown = swamp("show", "job.yaml", "train.optimizer.lr=3e-5")
    assert shown.exit_code == 0
    lines = {
        line.split()[0] if line[0] != "*" else line.split()[1]: line
        for line in shown.output.splitlines()
        if line
    }
    assert lines["train.optimizer.lr"].split()[:4] == ["*", "train.optimizer.lr", "3e-05", "0.0001"]
    assert "Peak learning rate" in lines["train.optimizer.lr"]
    assert lines["train.select"].startswith("train.select")
    changed = swamp("show", "job.yaml", "--changed").output
    assert "train.epochs" in changed
    assert "train.select" not in changed


def test_show_works_for_pipelines() -> None:
    shown = swamp("show", "two.yaml")
    assert shown.exit_code == 0
    assert "stages.one.job" in shown.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "job.yaml", "train.epoch=3"], "did you mean train.epochs?"),
        (["run", "job.yaml", "train.epochs"], "expected key=value"),
        (["show", "jobb.yaml"], "Did you mean:\n  job.yaml"),
        (["pipeline", "two.yaml"], "no shards in data/tiny"),
        (["smoke"], "jobs/pipelines/smoke.yaml does not exist"),
        (["table", "runs"], "runs does not exist"),
        (["shards", "build", "job.yaml"], "source"),
    ],
)
def test_mistakes_are_one_message_and_code_2(arguments: list[str], said: str) -> None:
    refused = swamp(*arguments)
    assert refused.exit_code == ExitCode.USER_MISTAKE
    assert refused.stderr.startswith("error: ")
    assert said in refused.stderr
    assert "Traceback" not in refused.output
    assert not Path("runs").exists()


def test_run_writes_the_stage_and_passes_the_code_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, Path, int]] = []

    def played(stage_yaml: Path, run_dir: Path, ranks: int, **_: object) -> int:
        calls.append((stage_yaml, run_dir, ranks))
        return ExitCode.REQUEUE

    monkeypatch.setattr(local, "run_ranks", played)
    monkeypatch.setattr(preflight, "check_stage", lambda *_: None)  # there are no shards
    ended = swamp("run", "job.yaml", "seed=4", "--ranks", "2", "--run-dir", "out")
    assert ended.exit_code == ExitCode.REQUEUE
    assert "the same command continues" in ended.output
    assert calls == [(Path("out/stage.yaml"), Path("out"), 2)]
    assert load(Path("out/stage.yaml"), StageSettings).seed == 4


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunDirHeld("held by process 3"), ExitCode.HELD), (KeyboardInterrupt(), ExitCode.INTERRUPTED)],
)
def test_other_endings_have_their_codes(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: ExitCode
) -> None:
    def played(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(local, "run_ranks", played)
    monkeypatch.setattr(preflight, "check_stage", lambda *_: None)  # there are no shards
    ended = swamp("run", "job.yaml")
    assert ended.exit_code == code
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("state", ["done", "failed"])
def test_pipeline_ends_with_table_folders_and_next_command(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    def played(settings: object, run_dir: Path, report: Report, cluster: object) -> list[StageStatus]:
        assert cluster is None
        first, second = run_dir / "seed-0/one", run_dir / "seed-1/one"
        finished(first, 40.0)
        statuses = [
            StageStatus("seed-0/one", first, "done"),
            StageStatus("seed-1/one", second, "failed" if state == "failed" else "done", message="see x.log"),
        ]
        if state == "done":
            finished(second, 60.0)
        report(statuses)
        return statuses

    monkeypatch.setattr(pipeline, "run_pipeline", played)
    ended = swamp("pipeline", "two.yaml", "--run-dir", "out")
    assert "Closing" in ended.output
    assert "tensorboard --logdir out" in ended.output
    assert "seed-0/one: done" in ended.stderr
    if state == "done":
        assert ended.exit_code == 0
        assert "50.00" in ended.output
        assert "swamp table two.yaml --run-dir out" in ended.output
    else:
        assert ended.exit_code == ExitCode.FAILED
        assert "see x.log" in ended.stderr
        assert "swamp pipeline two.yaml --run-dir out" in ended.output


def test_table_of_a_pipeline_and_of_runs() -> None:
    finished(Path("runs/two/seed-0/one"), 40.0)
    finished(Path("runs/two/seed-1/one"), 60.0)
    assert "50.00" in swamp("table", "two.yaml").output
    shown = swamp("table", "runs/two", "--markdown")
    assert shown.exit_code == 0
    assert "runs/two/seed-1/one" in shown.output
    assert "60.00" in shown.output


def test_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "swamp_dist", "run", "nowhere.yaml"], capture_output=True, text=True
    )
    assert done.returncode == ExitCode.USER_MISTAKE
    assert "nowhere.yaml does not exist" in done.stderr
    assert "Traceback" not in done.stderr
