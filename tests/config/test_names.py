"""Names in every kind of settings file are names of folders, and runs stay where they belong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from swamp_dist import cli
from swamp_dist.config import PipelineSettings, Settings, ShardSettings, StageSettings, SweepSettings
from swamp_dist.errors import UserError
from swamp_dist.loading import load
from swamp_dist.pipelines.plan import plan_pipeline
from swamp_dist.pipelines.sweep import sweep_pipeline
from tests.pipelines.small_pipelines import pipeline_files
from tests.test_file_names import BAD

JOB = "name: {}\ndata: {{shards: set}}\nevaluate: [{{split: test}}]\n"
RECIPE = "name: {}\nsource: {{kind: synthetic, splits: {{train: {{classes: [0, 4], total: 16}}}}}}\n"
SPLIT = "name: x\nsource: {{kind: synthetic, splits: {{{}: {{classes: [0, 4], total: 16}}}}}}\n"
PIPELINE = "name: {}\nstages: {{one: {{job: job.yaml}}}}\n"
STAGE_OF_A_PIPELINE = "name: x\nstages: {{{}: {{job: job.yaml}}}}\n"
MATRIX = "name: x\nmatrix: {{{}: [1]}}\nstages: {{one: {{job: job.yaml}}}}\n"
SWEEP = """name: {}
job: job.yaml
vary: {{model.embedding_dim: [1]}}
evaluate: {{split: validation}}
metrics: [pair/a_to_b/r_at_1]
"""
PLACES: list[tuple[type[Settings], str, str]] = [
    (StageSettings, JOB, "name"),
    (ShardSettings, RECIPE, "name"),
    (ShardSettings, SPLIT, "source.splits."),
    (PipelineSettings, PIPELINE, "name"),
    (PipelineSettings, STAGE_OF_A_PIPELINE, "stages."),
    (PipelineSettings, MATRIX, "matrix."),
    (SweepSettings, SWEEP, "name"),
]


@pytest.mark.parametrize(("kind", "text", "key"), PLACES, ids=[f"{k.__name__}-{key}" for k, _, key in PLACES])
def test_no_file_gives_a_folder_a_name_that_leads_elsewhere(
    tmp_path: Path, kind: type[Settings], text: str, key: str
) -> None:
    file = tmp_path / "file.yaml"
    file.write_text(text.format("good"))
    load(file, kind)
    line = next(n for n, line in enumerate(text.splitlines(), 1) if line.count("{}"))
    for name in (name for name in BAD if "\ud800" not in name):
        file.write_text(text.format(json.dumps(name)))
        with pytest.raises(UserError) as refused:
            load(file, kind)
        said = str(refused.value)
        assert f"  {key}" in said, said
        assert f"{file}:{line}" in said, said


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB.format("tiny"))
    return tmp_path


def swamp(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, arguments)


def test_matrix_values_that_make_too_long_a_name_are_refused(in_a_folder: Path) -> None:
    settings = PipelineSettings.model_validate(
        {"name": "p", "matrix": {"seed": ["x" * 250]}, "stages": {"one": {"job": "job.yaml"}}}
    )
    with pytest.raises(UserError, match="folder of a cell.*at most 200 bytes"):
        plan_pipeline(settings, in_a_folder / "runs")


def test_swept_values_that_make_too_long_a_name_are_refused(in_a_folder: Path) -> None:
    settings = SweepSettings.model_validate(
        {
            "name": "s",
            "job": "job.yaml",
            "vary": {"data.a": ["x" * 250]},
            "evaluate": {"split": "validation"},
            "metrics": ["pair/a_to_b/r_at_1"],
        }
    )
    with pytest.raises(UserError, match="run's folder.*at most 200 bytes"):
        sweep_pipeline(settings)


@pytest.mark.parametrize("verb", [["run"], ["submit", "--dry-run", "--cluster", "cluster.yaml"]])
def test_a_run_is_refused_in_the_folder_of_a_shard_set(
    in_a_folder: Path, tiny_shards: Path, verb: list[str]
) -> None:
    (in_a_folder / "cluster.yaml").write_text("backend: local\n")
    before = sorted(p.name for p in tiny_shards.iterdir())
    job = ["job.yaml", f"data.shards={tiny_shards}"]
    refused = swamp(verb[0], *job, *verb[1:], "--run-dir", str(tiny_shards))
    assert refused.exit_code == 2
    assert "holds a shard set" in refused.stderr
    assert sorted(p.name for p in tiny_shards.iterdir()) == before


def test_a_pipeline_keeps_shard_sets_and_runs_apart(in_a_folder: Path) -> None:
    shards = [{"recipe": "recipe.yaml", "out": "runs/seed-{seed}/pre"}]
    with pytest.raises(UserError, match=r"shards runs/seed-0/pre: stage seed-0/pre would be written"):
        plan_pipeline(pipeline_files(in_a_folder, shards=shards), Path("runs"))


def test_replacing_a_shard_set_removes_no_run(in_a_folder: Path) -> None:
    (in_a_folder / "recipe.yaml").write_text(RECIPE.format("x"))
    build = ["shards", "build", "recipe.yaml", "--out", "set"]
    assert swamp(*build).exit_code == 0
    Path("set/result.json").write_text("{}")
    refused = swamp(*build, "source.seed=1", "--force")
    assert refused.exit_code == 2
    assert "holds a run beside the shard set (result.json)" in refused.stderr
    assert Path("set/result.json").exists()
