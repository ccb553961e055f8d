"""What a sweep's runs say by setting and metric, and the plots of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from swamp_dist.config import SweepSettings
from swamp_dist.evaluate.intervals import summarize
from swamp_dist.evaluate.results import result_to_json
from swamp_dist.pipelines.plots import plot_curves
from swamp_dist.pipelines.sweep import Value
from swamp_dist.pipelines.sweep_curves import Curve, curves, value_axis
from swamp_dist.runs.folder import RunDir
from tests.evaluate.test_results import stage
from tests.pipelines.test_sweep import JOB, R1, sweep

RANK = "pair/a_to_b/median_rank"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(JOB)
    Path("data/one").mkdir(parents=True)
    Path("data/one/manifest.json").touch()
    return tmp_path


def finished(run: Path, recall: float) -> None:
    run.mkdir(parents=True)
    RunDir(run).result_json.write_text(json.dumps(result_to_json(stage(run, recall))))


def test_curves_hold_the_runs_of_each_value_and_gaps_stay_gaps(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed, recall in ((0, 10.0), (1, 20.0)):
        finished(runs / f"seed-{seed}/as-the-job", recall)
    finished(runs / "seed-0/prototypes-100", 5.0)
    finished(runs / "seed-1/prototypes-100", 5.0)
    RunDir(runs / "seed-1/prototypes-100").result_json.write_text("torn")
    by_prototypes, by_eta = curves(sweep(), runs)
    assert (by_prototypes.values, by_prototypes.runs) == ((100, 500), ((5.0,), (10.0, 20.0)))
    assert (by_eta.values, by_eta.runs, by_eta.job_value) == ((5, 20), ((), (10.0, 20.0)), 20)
    assert by_prototypes.best == 1
    assert by_prototypes.summaries == (summarize([5.0]), summarize([10.0, 20.0]))
    assert (by_eta.best, by_eta.summaries[0]) == (1, None)


def test_a_grid_shows_a_value_with_all_that_was_combined_with_it(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, recall in (("as-the-job", 1.0), ("eta-5", 2.0), ("prototypes-100_eta-5", 3.0)):
        finished(runs / "seed-0" / name, recall)
    by_prototypes, by_eta = curves(sweep(design="grid"), runs)
    assert by_prototypes.runs == ((3.0,), (1.0, 2.0))
    assert sorted(by_eta.runs[0]) == [2.0, 3.0]
    assert by_prototypes.averaged == (by_eta.setting,)
    assert by_eta.averaged == ("objective.swamp.prototypes",)


def test_a_bar_is_over_seeds_alone(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in (0, 1):
        for name, recall in (("as-the-job", 1.0), ("eta-5", 2.0), ("prototypes-100_eta-5", 3.0)):
            finished(runs / f"seed-{seed}" / name, recall + seed)
    pooled = curves(sweep(design="grid"), runs)
    known = [each for curve in pooled for each in curve.summaries if each is not None]
    assert [each.low for each in known] == [None] * 4
    drawn = [file.read_text() for file in plot_curves(pooled, "s", tmp_path / "plots")]
    assert all("95%" not in text for text in drawn)
    assert "and seeds -->" in drawn[0]
    apart = [each for curve in curves(sweep(), runs) for each in curve.summaries if each is not None]
    assert all(each.low is not None for each in apart)
    alone = sweep(design="grid", vary={"objective.swamp.prototypes": (100, 500)})
    assert curves(alone, runs)[0].averaged == ()


def with_lambda(**changes: object) -> SweepSettings:
    varied = {"objective.swamp.prototypes": (100, 500), "objective.swamp.weight": (0, 0.5)}
    return sweep(vary=varied, metrics=(R1, RANK), **changes)


def test_every_metric_has_a_curve_with_the_contrastive_line_where_lambda_is_varied(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in (0, 1):
        for name, recall in (("as-the-job", 10.0), ("prototypes-100", 5.0), ("weight-0", 8.0)):
            finished(runs / f"seed-{seed}" / name, recall + seed)
    found = curves(with_lambda(), runs)
    assert [(c.setting.split(".")[-1], c.metric) for c in found] == [
        ("prototypes", R1), ("prototypes", RANK), ("weight", R1), ("weight", RANK)
    ]  # fmt: skip
    assert found[0].contrastive == (8.0, 9.0)
    assert found[0].split == "test"
    assert found[2].contrastive == ()
    assert found[2].values[0] == 0
    assert curves(sweep(), runs)[0].contrastive == ()


def test_the_best_of_ranks_is_the_lowest() -> None:
    runs = ((3.0,), (1.0, 2.0), (9.0,))
    assert Curve("k", RANK, "validation", (1, 2, 3), runs, 1).best == 1
    assert Curve("k", R1, "validation", (1, 2, 3), runs, 1).best == 2
    assert Curve("k", R1, "validation", (1,), ((),), 1).best is None


@pytest.mark.parametrize(
    ("values", "positions", "is_log"),
    [
        ((5, 10, 20), (5, 10, 20), False),
        ((0.001, 0.01, 0.1), (-3, -2, -1), True),
        ((0, 0.001, 0.01, 0.1), (-4, -3, -2, -1), True),
        ((-1, 1, 100), (-1, 1, 100), False),
        ((0, 5), (0, 5), False),
        (("hard", "soft"), (0, 1), False),
        ((False, True), (0, 1), False),
        ((None, "{runs.weight-0}"), (0, 1), False),
    ],
)
def test_values_that_are_spread_wide_stand_by_their_logarithm(
    values: tuple[Value, ...], positions: tuple[float, ...], is_log: bool
) -> None:
    axis = value_axis(values)
    assert axis.positions == pytest.approx(positions)
    assert axis.is_log == is_log
    assert axis.is_number == all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    assert all(math.isfinite(x) for x in axis.positions)
    assert not any("{" in label for label in axis.labels)


def test_every_setting_with_runs_is_plotted_and_the_same_runs_give_the_same_file(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for seed in (0, 1):
        for name, recall in (("as-the-job", 10.0), ("prototypes-100", 5.0), ("weight-0", 8.0)):
            finished(runs / f"seed-{seed}" / name, recall + seed)
    found = curves(with_lambda(), runs)
    (first, second) = plot_curves(found, "s", tmp_path / "plots")
    assert first.name == "objective.swamp.prototypes.svg"
    drawn = first.read_text()
    for told in (
        "s: objective.swamp.prototypes on test, up to 2 runs per value, mean and 95% t interval",
        R1, RANK, "contrastive alone (lambda 0)", "best mean", "95% interval", "the job's value",
    ):  # fmt: skip
        assert f"<!-- {told} -->" in drawn, told
    assert "contrastive alone" not in second.read_text()
    plot_curves(found, "s", tmp_path / "plots")
    assert first.read_text() == drawn
    assert plot_curves(curves(sweep(), tmp_path / "none"), "s", tmp_path / "empty") == []
