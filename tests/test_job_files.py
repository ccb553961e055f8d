"""Every file in jobs/ and shards/ loads, and every pipeline's graph, stages and table fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.config import (
    LocalCluster,
    PipelineSettings,
    RayCluster,
    ShardSettings,
    SlurmCluster,
    StageSettings,
    SweepSettings,
)
from swamp_dist.evaluate.metric_names import check_metric_name
from swamp_dist.evaluate.results import promised_metrics
from swamp_dist.loading import dump, kind_of, load, load_dumped
from swamp_dist.pipelines.plan import plan_pipeline
from swamp_dist.pipelines.sweep import points, sweep_pipeline
from swamp_dist.stage.advice import stage_warnings

ROOT = Path(__file__).parents[1]
FILES = sorted(p.relative_to(ROOT) for folder in ("jobs", "shards") for p in (ROOT / folder).rglob("*.yaml"))
PIPELINES = [f for f in FILES if f.parts[:2] == ("jobs", "pipelines")]
SWEEPS = [f for f in FILES if f.parts[:2] == ("jobs", "sweeps")]
STAGES = [f for f in FILES if f.parts[0] == "jobs" and f.parts[1] not in ("pipelines", "sweeps", "clusters")]

CLUSTERS = {
    "local": LocalCluster,
    "ray": RayCluster,
    "slurm": SlurmCluster,
    "slurm_cpu_test": SlurmCluster,
    "slurm_ray": SlurmCluster,
}


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_there_are_files() -> None:
    assert PIPELINES
    assert STAGES
    assert Path("jobs/pipelines/smoke.yaml") in PIPELINES
    assert [f for f in FILES if f.parts[0] == "shards"]


def test_files_are_yaml_and_documentation_only() -> None:
    others = [p for folder in ("jobs", "shards") for p in Path(folder).rglob("*") if p.is_file()]
    assert {p.suffix for p in others} <= {".yaml", ".md"}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_file_loads_as_what_its_folder_says(file: Path, tmp_path: Path) -> None:
    kind = kind_of(file)
    expected = (
        ShardSettings
        if file.parts[0] == "shards"
        else PipelineSettings
        if file in PIPELINES
        else SweepSettings
        if file in SWEEPS
        else CLUSTERS[file.stem]
        if file.parts[:2] == ("jobs", "clusters")
        else StageSettings
    )
    assert kind is expected
    settings = load(file, kind)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(settings))
    assert load_dumped(copy, kind) == settings


@pytest.mark.parametrize("file", STAGES, ids=str)
def test_stage_names_a_recipe_that_exists_and_a_metric_that_will(file: Path) -> None:
    stage = load(file, StageSettings)
    assert stage.data.recipe is None or stage.data.recipe.is_file()
    if stage.train is not None and stage.train.validate_on is not None:
        metric = stage.train.validate_on.metric
        relevance = metric.split("/")[0]
        known = [n for e in stage.evaluate for n in promised_metrics(e)]
        if any(n.startswith(relevance + "/") for n in known):
            check_metric_name(metric, known, str(file))


@pytest.mark.parametrize("file", PIPELINES, ids=str)
def test_pipeline_resolves_to_stages_that_load(file: Path, tmp_path: Path) -> None:
    plan = plan_pipeline(load(file, PipelineSettings), tmp_path)
    keys = {s.key for s in plan.stages}
    assert keys
    assert all(set(s.after) <= keys for s in plan.stages)
    assert len({s.run_dir for s in plan.stages}) == len(plan.stages)


@pytest.mark.parametrize("file", SWEEPS, ids=str)
def test_sweep_resolves_to_stages_that_load(file: Path, tmp_path: Path) -> None:
    settings = load(file, SweepSettings)
    plan = plan_pipeline(sweep_pipeline(settings), tmp_path)
    assert len(plan.stages) == len(settings.seeds) * len(points(settings))


@pytest.mark.parametrize("file", [*STAGES, *PIPELINES, *SWEEPS], ids=str)
def test_shipped_examples_warn_of_nothing_that_they_do_not_explain(file: Path, tmp_path: Path) -> None:
    stages = [load(file, StageSettings)] if file in STAGES else []
    if file not in STAGES:
        graph = (
            load(file, PipelineSettings) if file in PIPELINES else sweep_pipeline(load(file, SweepSettings))
        )
        stages = [stage.settings for stage in plan_pipeline(graph, tmp_path).stages]
    assert not {text for stage in stages for text in stage_warnings(stage)}
