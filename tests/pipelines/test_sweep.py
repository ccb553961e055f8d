"""A sweep becomes a pipeline: which points are run, what they change, what their runs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swamp_dist.config import EvaluateSettings, SweepSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate.results import result_to_json
from swamp_dist.pipelines.plan import plan_pipeline
from swamp_dist.pipelines.plots import plot_curves
from swamp_dist.pipelines.sweep import curves, points, sweep_pipeline
from swamp_dist.runs.folder import RunDir
from tests.evaluate.test_results import stage

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


def finished(run: Path, recall: float) -> None:
    run.mkdir(parents=True)
    RunDir(run).result_json.write_text(json.dumps(result_to_json(stage(run, recall))))


def test_curves_hold_the_runs_of_each_value_and_gaps_stay_gaps(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed, recall in ((0, 10.0), (1, 20.0)):
        finished(runs / f"seed-{seed}/as-the-job", recall)
    finished(runs / "seed-0/prototypes-100", 5.0)
    by_prototypes, by_eta = curves(sweep(), runs)
    assert (by_prototypes.values, by_prototypes.runs) == ((100, 500), ((5.0,), (10.0, 20.0)))
    assert (by_eta.values, by_eta.runs, by_eta.job_value) == ((5, 20), ((), (10.0, 20.0)), 20)


def test_a_grid_shows_a_value_with_all_that_was_combined_with_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, recall in (("as-the-job", 1.0), ("eta-5", 2.0), ("prototypes-100_eta-5", 3.0)):
        finished(runs / "seed-0" / name, recall)
    by_prototypes, by_eta = curves(sweep(design="grid"), runs)
    assert by_prototypes.runs == ((3.0,), (1.0, 2.0))
    assert sorted(by_eta.runs[0]) == [2.0, 3.0]


def test_every_setting_with_runs_is_plotted_and_the_same_runs_give_the_same_file(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    finished(runs / "seed-0/as-the-job", 10.0)
    finished(runs / "seed-0/prototypes-100", 5.0)
    found = curves(sweep(), runs)
    (first, second) = plot_curves(found, R1, tmp_path / "plots")
    assert first.name == "objective.swamp.prototypes.svg"
    assert "objective.swamp.prototypes" in first.read_text()
    assert second.exists()
    before = first.stat().st_size
    plot_curves(found, R1, tmp_path / "plots")
    assert first.stat().st_size == before
    assert plot_curves(curves(sweep(), tmp_path / "none"), R1, tmp_path / "empty") == []
