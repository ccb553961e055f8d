from __future__ import annotations

import json
from pathlib import Path

import pytest

from swamp_dist.pipelines.advice import pipeline_warnings
from swamp_dist.pipelines.plan import plan_pipeline
from swamp_dist.runs.folder import RunDir
from tests.pipelines.small_pipelines import RESULT, pipeline_files

QUIET = ["objective.swamp.temperature=0.1", "objective.contrastive.form=all"]


def test_a_warning_of_many_stages_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = pipeline_files(tmp_path)
    plan = plan_pipeline(settings, Path("runs"))

    (told,) = pipeline_warnings(plan)

    first = plan.stages[0].key
    assert told.startswith(f"{first} and 5 more stages: objective.swamp: with prototypes = 500")


def test_stages_that_are_done_or_well_set_are_not_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = pipeline_files(tmp_path)
    stages = settings.stages
    quiet = {
        name: stage.model_copy(update={"overrides": (*stage.overrides, *QUIET)})
        for name, stage in stages.items()
    }
    assert pipeline_warnings(plan_pipeline(settings.model_copy(update={"stages": quiet}), Path("runs"))) == []

    plan = plan_pipeline(settings, Path("runs"))
    for stage in plan.stages[1:]:
        RunDir(stage.run_dir).create()
        RunDir(stage.run_dir).result_json.write_text(json.dumps(RESULT | {"name": "demo"}))
    (told,) = pipeline_warnings(plan)
    assert told.startswith(f"{plan.stages[0].key}: objective.swamp")


def test_a_known_warning_gives_its_reason_in_place_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = pipeline_files(tmp_path)
    reason = "known_warnings={high_floor: as published}"
    known = settings.model_copy(update={"overrides": (*settings.overrides, reason)})
    (told,) = pipeline_warnings(plan_pipeline(known, Path("runs")))
    assert told.endswith("known warning high_floor: as published")
    other = settings.model_copy(update={"overrides": ("known_warnings={plateau: no such thing here}",)})
    (told,) = pipeline_warnings(plan_pipeline(other, Path("runs")))
    assert "objective.swamp: with prototypes = 500" in told
