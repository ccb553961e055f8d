"""A sweep becomes a pipeline: which points are run, what they change, what their runs say."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.config import EvaluateSettings, SweepSettings
from swamp_dist.errors import UserError
from swamp_dist.pipelines.plan import plan_pipeline
from swamp_dist.pipelines.sweep import points, sweep_pipeline

R1 = "pair/a_to_b/r_at_1"
JOB = """
name: one
data: {shards: data/one, entries: 8}
objective: {swamp: {prototypes: 500, eta: 20}}
train: {epochs: 3}
evaluate: [{split: test}]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    Path("data/one").mkdir(parents=True)
    Path("data/one/manifest.json").touch()
    return tmp_path


def sweep(**changes: object) -> SweepSettings:
    values: dict[str, object] = {
        "name": "s",
        "job": "job.yaml",
        "vary": {"objective.swamp.prototypes": (100, 500), "objective.swamp.eta": (5, 20)},
        "seeds": (0, 1),
        "evaluate": EvaluateSettings(split="validation"),
        "metrics": (R1,),
    }
    return SweepSettings.model_validate(values | changes)


def test_one_setting_at_a_time_keeps_the_others_as_the_job_has_them() -> None:
    found = {p.stage: p.overrides for p in points(sweep())}
    assert found == {
        "as-the-job": (),
        "prototypes-100": ("objective.swamp.prototypes=100",),
        "eta-5": ("objective.swamp.eta=5",),
    }


def test_a_grid_has_every_combination_once() -> None:
    names = [p.stage for p in points(sweep(design="grid"))]
    assert sorted(names) == ["as-the-job", "eta-5", "prototypes-100", "prototypes-100_eta-5"]


def test_the_pipeline_runs_every_point_with_every_seed_and_judges_all_alike() -> None:
    plan = plan_pipeline(sweep_pipeline(sweep()), Path("runs/s"))
    assert {s.key for s in plan.stages} == {
        f"seed-{seed}/{name}" for seed in (0, 1) for name in ("as-the-job", "prototypes-100", "eta-5")
    }
    settings = {s.key: s.settings for s in plan.stages}
    assert settings["seed-1/eta-5"].seed == 1
    assert settings["seed-1/eta-5"].objective.swamp.eta == 5
    assert settings["seed-1/eta-5"].objective.swamp.prototypes == 500
    assert {e.split for s in plan.stages for e in s.settings.evaluate} == {"validation"}


def test_values_are_not_chosen_on_a_reported_split() -> None:
    on_test = EvaluateSettings(split="test")
    with pytest.raises(UserError, match="tune on the test data"):
        sweep_pipeline(sweep(evaluate=on_test))
    assert sweep_pipeline(sweep(evaluate=on_test, chooses=False)).tables


def test_a_split_called_test_is_never_chosen_on_even_where_the_job_reports_nothing() -> None:
    Path("job.yaml").write_text(JOB.replace("evaluate: [{split: test}]", ""))
    with pytest.raises(UserError, match="tune on the test data"):
        sweep_pipeline(sweep(evaluate=EvaluateSettings(split="test")))
    reports = ("evaluate=[{split: validation}]",)
    with pytest.raises(UserError, match="tune on the test data"):
        sweep_pipeline(sweep(overrides=reports))


def test_a_varied_value_has_the_last_word_over_the_overrides_of_all_runs() -> None:
    varied = sweep(vary={"objective.swamp.eta": (5, 10)}, overrides=("objective.swamp.eta=10",))
    plan = plan_pipeline(sweep_pipeline(varied), Path("runs/s"))
    etas = {s.name: s.settings.objective.swamp.eta for s in plan.stages}
    assert etas == {"as-the-job": 10, "eta-5": 5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vary": {"objective.swamp.prototipes": (1,)}}, "prototypes"),
        ({"vary": {"objective.swamp": (1,)}}, "objective.swamp"),
        ({"vary": {"objective.swamp.prototypes": (-1,)}}, "prototypes"),
        ({"metrics": ("pair/a_to_b/r_at_2",)}, "r_at_1"),
    ],
)
def test_mistakes_are_found_before_anything_runs(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sweep_pipeline(sweep(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"vary": {}},
        {"vary": {"train.epochs": ()}},
        {"seeds": (1, 1)},
        {"metrics": ()},
        {"vary": {"seed": (1,)}},
    ],
)
def test_a_sweep_over_nothing_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"vary|seeds|metrics"):
        sweep(**changes)


def test_a_value_that_names_another_run_waits_for_it_and_is_called_by_it() -> None:
    varied = {"objective.swamp.weight": (0, 0.5), "train.init_from": ("{runs.weight-0}",)}
    plan = plan_pipeline(sweep_pipeline(sweep(vary=varied)), Path("runs/s"))
    (started,) = [s for s in plan.stages if s.key == "seed-1/init_from-weight-0"]
    assert started.after == ("seed-1/weight-0",)
    assert started.settings.train is not None
    assert started.settings.train.init_from == Path("runs/s/seed-1/weight-0")
    with pytest.raises(UserError, match=r"\{runs.weight-1\} is no other run of it; they are as-the-job"):
        sweep_pipeline(sweep(vary={"train.init_from": ("{runs.weight-1}",)}))
