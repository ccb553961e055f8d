"""A run's own stage.yaml says its paths as seen from the working folder; a job file as seen from itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from swamp_dist.config import StageSettings
from swamp_dist.loading import dump, load
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.stage_file import is_run_stage, load_stage

JOB = """\
name: s
data: {shards: data/s, recipe: s.yaml, a: a, b: b, entries: 16}
model: {embedding_dim: 8, a: {kind: mlp}, b: {kind: mlp}}
objective: {swamp: {prototypes: 4, queue: {size: 16}}}
train: {epochs: 1, optimizer: {lr: 1.0e-3}}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "s.yaml").touch()
    (tmp_path / "jobs" / "job.yaml").write_text(JOB)
    run = RunDir(Path("runs/s"))
    run.path.mkdir(parents=True)
    run.write_stage(load_stage(Path("jobs/job.yaml")))
    run.events_jsonl.touch()
    return run


def test_a_runs_own_stage_is_taken_as_it_was_written(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings = load_stage(run.stage_yaml, ["seed=7", "data.recipe=other.yaml"])
    assert (settings.seed, settings.data.recipe) == (7, Path("other.yaml"))
    assert load_stage(run.stage_yaml) == load_stage(Path("jobs/job.yaml"))
    assert load_stage(run.stage_yaml).data.recipe == Path("jobs/s.yaml")
    assert not caplog.text
    assert dump(load_stage(run.stage_yaml)) == run.stage_yaml.read_text()


def test_a_job_file_of_that_name_is_a_job_file(run: RunDir, caplog: pytest.LogCaptureFixture) -> None:
    run.events_jsonl.unlink()
    assert not is_run_stage(run.stage_yaml)
    assert load_stage(run.stage_yaml).data.recipe == load(run.stage_yaml, StageSettings).data.recipe
    assert "as in earlier versions" in caplog.text
