"""Metric names and the JSON form of results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from swamp_dist.config import EvaluateSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate import results
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StageResult


def metrics(r_at_1: float, direction: str = "text->video", relevance: str = "pair") -> RetrievalMetrics:
    found = RetrievalMetrics(direction, relevance, r_at_1, 50.0, 75.0, 5.5, 100, 80)
    if relevance == "pair":
        return found
    of_classes = {"precision_at": {5: 3.0}, "map_at": {5: 4.0}, "map_at_hits": {5: 6.0}, "hit_at": {6: 7.0}}
    return replace(found, map=12.5, **of_classes)


def evaluation(r_at_1: float = 20.0) -> EvaluationResult:
    found = {
        f"{relevance}/{key}": metrics(r_at_1 + i, direction, relevance)
        for relevance in ("pair", "class")
        for i, (key, direction) in enumerate((("a_to_b", "text->video"), ("b_to_a", "video->text")))
    }
    return EvaluationResult("test", found, {key: replace(m, r_at_1=1.25) for key, m in found.items()})


def stage(run_dir: Path, r_at_1: float = 20.0) -> StageResult:
    return StageResult(
        "demo", run_dir, run_dir / "weights.safetensors", 40, 50, (evaluation(r_at_1),), {"seed": 3}
    )


def test_figures_are_looked_up_by_name() -> None:
    found = evaluation()
    assert results.metric_value(found, "pair/a_to_b/r_at_1") == 20
    assert results.metric_value(found, "pair/mean/r_at_1") == 20.5
    assert results.metric_value(found, "pair/b_to_a/median_rank") == 5.5
    assert results.metric_value(found, "class/b_to_a/map") == 12.5
    assert results.metric_value(found, "class/mean/p_at_5") == 3
    assert results.metric_value(found, "class/a_to_b/map_at_5") == 4
    assert results.metric_value(found, "class/a_to_b/map_at_5_hits") == 6
    assert results.metric_value(found, "class/mean/hit_at_6") == 7
    assert results.chance_value(found, "class/a_to_b/r_at_1") == 1.25


@pytest.mark.parametrize(
    "name", ["pair/a_to_b/r_at1", "pair/a_to_b", "pair/a_to_b/map", "pairs/mean/r_at_1", ""]
)
def test_an_unknown_name_is_refused_with_the_valid_ones(name: str) -> None:
    with pytest.raises(UserError, match=r"(?s)Known names:.*class/\{a_to_b,b_to_a,mean\}/\S*map_at_5"):
        results.metric_value(evaluation(), name)


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'pair/a_to_b/r_at_1'"):
        results.metric_value(evaluation(), "pair/a_to_b/r_at1")


def test_weights_that_were_given_keep_the_name_they_were_given(tmp_path: Path) -> None:
    trained = stage(tmp_path / "run")
    given = replace(trained, weights=Path("runs/other@9"), selected_step=None, steps=0)
    for result, moved in ((trained, tmp_path / "moved/weights.safetensors"), (given, Path("runs/other@9"))):
        written = results.result_to_json(result)
        assert results.result_from_json(written, result.run_dir).weights == result.weights
        assert results.result_from_json(written, tmp_path / "moved").weights == moved


def test_promised_names_are_the_names_that_come() -> None:
    settings = EvaluateSettings(split="test", relevance=("pair", "class"), precision_at=(5,), hit_at=(6,))
    assert results.promised_metrics(settings) == results.metric_names(evaluation().metrics)


def test_lower_is_better_for_median_ranks_only() -> None:
    assert results.better("pair/a_to_b/median_rank", 3, 4)
    assert not results.better("pair/a_to_b/median_rank", 4, 4)
    assert results.better("pair/a_to_b/r_at_1", 4, 3)
    assert not results.better("class/mean/map", 3, 4)


def test_normalised_scores_have_a_name_in_json_and_tables() -> None:
    plain, found = evaluation(), replace(evaluation(), normalised="qb_norm by train")
    assert results.from_json(results.to_json(found)) == found
    assert "normalised" not in results.to_json(plain)
    assert results.splits_text(found) == f"{results.splits_text(plain)} (qb_norm by train)"
    with pytest.raises(TypeError):
        results.from_json(results.to_json(plain) | {"normalised": 1})


def test_an_evaluation_survives_json() -> None:
    assert results.from_json(json.loads(json.dumps(results.to_json(evaluation())))) == evaluation()


def test_a_result_without_the_figures_of_later_versions_is_read() -> None:
    old = results.to_json(evaluation())
    for part in ("metrics", "chance"):
        for values in old[part].values():
            values.pop("map_at_hits", None), values.pop("hit_at", None)
    found = results.from_json(old)
    assert results.metric_value(found, "class/mean/map_at_5") == 4
    assert "class/mean/map_at_5_hits" not in results.metric_names(found.metrics)
    assert results.to_json(found) == old


@pytest.mark.parametrize(
    ("figure", "heading"),
    [
        ("r_at_10", "R@10"),
        ("median_rank", "MedR"),
        ("map", "mAP"),
        ("p_at_200", "P@200"),
        ("map_at_200", "mAP@200"),
        ("map_at_200_hits", "mAP@200/hits"),
        ("hit_at_201", "hit@201"),
        ("rsum", "rsum"),
    ],
)
def test_headings_say_what_a_figure_is(figure: str, heading: str) -> None:
    assert results.figure_heading(figure) == heading


@pytest.mark.parametrize("figure", ["r_at_5", "map", "p_at_7", "map_at_7", "map_at_7_hits", "hit_at_8"])
def test_the_cut_offs_that_a_metric_needs_give_it(figure: str) -> None:
    name = f"class/mean/{figure}"
    precision_at, hit_at = results.cutoffs_of(name)
    asked = EvaluateSettings(split="v", relevance=("class",), precision_at=precision_at, hit_at=hit_at)
    assert name in results.promised_metrics(asked)
    assert len(precision_at) + len(hit_at) == ("7" in figure or "8" in figure)


def test_a_stage_result_survives_json_and_a_move_of_its_folder(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    (new / "result.json").write_text(json.dumps(results.result_to_json(stage(old))))
    assert results.read_result(new) == stage(new)
    outside = replace(stage(old), weights=tmp_path / "elsewhere.safetensors")
    assert results.result_from_json(results.result_to_json(outside), new).weights == outside.weights
    without = replace(stage(old), weights=None)
    assert results.result_from_json(results.result_to_json(without), old) == without


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1, "name": "x"}'])
def test_a_broken_result_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(UserError, match="result.json"):
        results.read_result(tmp_path)


def test_a_run_that_is_not_done_has_no_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not done"):
        results.read_result(tmp_path / "s0")


def test_a_figure_that_changed_on_the_disk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(results.result_text(stage(tmp_path)))
    assert results.read_result(tmp_path) == stage(tmp_path)
    path.write_text(path.read_text().replace('"r_at_1": 20.0', '"r_at_1": 21.0'))
    with pytest.raises(UserError, match=r"result\.json was changed after it was written"):
        results.read_result(tmp_path)


def test_a_result_of_lists_in_lists_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"result\.json cannot be read"):
        results.read_result(tmp_path)
