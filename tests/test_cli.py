from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.backends import local
from swamp_dist.config import StageSettings
from swamp_dist.errors import ExitCode, RunDirHeld
from swamp_dist.evaluate.results import result_to_json
from swamp_dist.loading import load
from swamp_dist.monitor.status import look
from swamp_dist.pipelines import run as pipeline
from swamp_dist.pipelines.live_view import Report
from swamp_dist.pipelines.run import StageEnd
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StageResult
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage import open as stage_open

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
        "heavy = {'torch', 'ray', 'deepspeed', 'webdataset', 'tensorboard', 'numpy', 'PIL'} & "
        "set(sys.modules)\n"
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
        ["shards", "index"],
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            [],
            "lambda = 0.25 multiplies SwAMP's mean over the batch, beside 1 times the contrastive",
        ),
        (
            ["objective.contrastive.reduction=sum", "objective.contrastive.weight=2"],
            "beside 2 times the contrastive term's sum over the batch: as lambda / 8 beside its mean.",
        ),
        (["objective.swamp.weight_as=gradient_ratio"], "lambda = min(0.25, 0.3 |g_c| / |g_s|) multiplies"),
        (["objective.swamp.weight=0"], None),
    ],
)
def test_show_says_what_lambda_stands_beside(changes: list[str], said: str | None) -> None:
    shown = swamp("show", "job.yaml", "--changed", *changes)
    assert shown.exit_code == 0
    last = shown.output.rstrip().splitlines()[-1]
    assert ("lambda" not in last) if said is None else (said in last)


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
        (["shards", "build", "job.yaml"], "this is a job; a shard recipe was expected"),
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
    monkeypatch.setattr(stage_open, "resolve", lambda *_: "resolved")  # there are no shards
    ended = swamp("run", "job.yaml", "seed=4", "--ranks", "2", "--run-dir", "out")
    assert ended.exit_code == ExitCode.REQUEUE
    assert "the same command continues" in ended.output
    assert calls == [(Path("out/stage.yaml"), Path("out"), 2)]
    assert load(Path("out/stage.yaml"), StageSettings).seed == 4


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunDirHeld("held by process 3"), ExitCode.HELD), (KeyboardInterrupt(), ExitCode.REQUEUE)],
)
def test_other_endings_have_their_codes(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: ExitCode
) -> None:
    def played(*_: object, **__: object) -> int:
        raise error

    monkeypatch.setattr(local, "run_ranks", played)
    monkeypatch.setattr(stage_open, "resolve", lambda *_: "resolved")  # there are no shards
    ended = swamp("run", "job.yaml")
    assert ended.exit_code == code
    assert "Traceback" not in ended.output


@pytest.mark.parametrize("state", ["done", "failed"])
def test_pipeline_ends_with_table_folders_and_next_command(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    def played(settings: object, run_dir: Path, report: Report, cluster: object) -> list[StageEnd]:
        assert cluster is None
        first, second = run_dir / "seed-0/one", run_dir / "seed-1/one"
        finished(first, 40.0)
        ends = [
            StageEnd("seed-0/one", first, "done"),
            StageEnd("seed-1/one", second, "failed" if state == "failed" else "done", message="see x.log"),
        ]
        if state == "done":
            finished(second, 60.0)
        report([look(RunDir(end.run_dir), key=end.key) for end in ends])
        return ends

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


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.ENOTDIR, 9999])
@pytest.mark.parametrize("verb", ["run", "show"])
def test_an_error_of_the_system_in_a_verb_is_one_screen(
    monkeypatch: pytest.MonkeyPatch, verb: str, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, "told by the system", "some/file")

    monkeypatch.setattr(cli.stages, "kind_of", refuse)
    monkeypatch.setattr(cli.stages, "load_stage", refuse)
    done = swamp(verb, "job.yaml")
    assert done.exit_code == ExitCode.USER_MISTAKE
    assert "error: some/file: told by the system" in done.output
    assert not isinstance(done.exception, OSError)


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "{job}", "--run-dir", "{file}/run"),
        ("run", "{job}", "--run-dir", "{loop}/run"),
        ("run", "{job}", "--run-dir", "{long}"),
        ("run", "{long}"),
        ("status", "{loop}"),
        ("status", "{long}"),
        ("logs", "{loop}"),
        ("table", "{long}"),
        ("export", "{loop}", "--out", "x.pth"),
        ("export", "{long}", "--out", "x.pth"),
        ("shards", "verify", "{loop}"),
        ("shards", "index", "{loop}"),
        ("shards", "build", "{long}"),
        ("cancel", "{long}"),
    ],
    ids=" ".join,
)
def test_paths_that_lead_nowhere_are_one_screen(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "job.yaml").write_text("name: x\ndata: {shards: s}\nevaluate: [{split: test}]\n")
    named = {"job": "job.yaml", "file": "file", "loop": "loop", "long": "n" * 300}
    paths = {name: str(tmp_path / path) for name, path in named.items()}
    done = swamp(*(part.format(**paths) for part in arguments))
    assert done.exit_code == ExitCode.USER_MISTAKE, done.output
    assert isinstance(done.exception, SystemExit), done.exception
    assert len(done.output.splitlines()) <= 25, done.output


def test_a_terminal_without_the_characters_gets_escapes() -> None:
    code = (
        "from swamp_dist.printable import write_all_characters as w; w(); print('Gr\\u00f6\\u00dfe \\u2192')"
    )
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=ascii_only, capture_output=True, text=True)
    assert done.stdout == "Gr\\xf6\\xdfe \\u2192\n", done.stderr
