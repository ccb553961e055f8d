"""Retrieval examples of runs that were made up: pictures once and small, texts as cards."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from swamp_dist.config import EvaluateSettings
from swamp_dist.errors import UserError
from swamp_dist.inference import TrainedModel, load_model
from swamp_dist.report import examples
from swamp_dist.report.beside import QUERIES, find_beside
from swamp_dist.report.build import Asked, build_report
from swamp_dist.report.examples import find_examples
from swamp_dist.report.subject import open_subject
from tests.pages.parsed import EVIL, Parsed
from tests.prototypes.made import FEATURES, PICTURES, feature_set, picture_set, run_over
from tests.test_cli_hints import swamp, told


def test_pictures_are_thumbnails_that_stand_in_the_page_once_and_captions_stay_text(tmp_path: Path) -> None:
    run = run_over(
        picture_set(tmp_path / "set", 12, [EVIL]), tmp_path / "run", PICTURES, ("image", "text"), 3
    )
    asked = Asked("swamp report RUN", examples=True, prototypes=True)
    page = build_report(open_subject(run, None), asked).html
    uris = re.findall(r"url\(data:image/(?:png|jpeg);base64,([^)]+)\)", page)
    assert 8 <= len(uris) == len(set(uris)) <= 12
    for uri in uris:
        with Image.open(io.BytesIO(base64.b64decode(uri))) as picture:
            assert max(picture.size) <= 96
    parsed = Parsed(page)
    assert len(parsed.named("article")) == 2 * 3 * 4
    assert len(parsed.named("script")) == 1
    assert len(parsed.named("img")) == 1  # the sheet of prototypes
    assert "\\u001b[2J\\u202e\\u0000" in parsed.said
    assert not set("\x1b\u202e\0") & set(page)
    assert "left-out" not in page


def test_ranks_are_those_of_the_evaluation(tmp_path: Path) -> None:
    run = run_over(picture_set(tmp_path / "set", 18), tmp_path / "run", PICTURES, ("image", "text"), 3)
    model = load_model(run, device="cpu")
    figures = model.evaluate("test")
    found = find_examples("run", model, EvaluateSettings(split="test"), 100)
    for direction, key in zip(found.directions, ("pair/a_to_b", "pair/b_to_a"), strict=True):
        ranks = [each.rank for each in direction.chosen.drawn]
        metrics = figures.metrics[key]
        assert len(ranks) == metrics.num_queries
        assert 100 * sum(rank <= 5 for rank in ranks) / len(ranks) == pytest.approx(metrics.r_at_5)


def test_features_are_told_by_captions_or_keys_and_classes_are_asked_for(tmp_path: Path) -> None:
    run = run_over(feature_set(tmp_path / "set", True), tmp_path / "run", FEATURES, ("a", "b"), None)
    page = build_report(open_subject(run, None), Asked("swamp report RUN", examples=True)).html
    assert "somebody flies a" in page
    assert 'role="img" aria-label="somebody' not in page
    left_out = build_report(open_subject(run, None), Asked("swamp report RUN", prototypes=True)).left_out
    assert any("holds no prototypes" in why for _, why in left_out)
    said = told(swamp("report", str(run), "--examples", "--split", "tset"))
    assert "no split 'tset'" in said
    assert not (run / "report.html").exists()


def test_more_pairs_than_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_over(feature_set(tmp_path / "set", False), tmp_path / "run", FEATURES, ("a", "b"), 2)
    monkeypatch.setattr(examples, "MOST_PAIRS", 399)
    with pytest.raises(UserError, match="20 x 20 pairs of entries are more than the 399"):
        find_examples("run", load_model(run, device="cpu"), EvaluateSettings(split="test"), 2)


def test_the_same_queries_stand_beside_each_other_in_two_runs(tmp_path: Path) -> None:
    manifest = picture_set(tmp_path / "set", 18)
    one = run_over(manifest, tmp_path / "one", PICTURES, ("image", "text"), 3)
    narrow = {**PICTURES, "a": {"kind": "cnn", "depth": 2, "width": 4}}
    two = run_over(manifest, tmp_path / "two", narrow, ("image", "text"), None)
    models = load_model(one, device="cpu"), load_model(two, device="cpu")
    found = find_beside(("one", "two"), models, EvaluateSettings(split="test"))
    for way, model_ranks in zip(found.directions, _ranks_of(models), strict=True):
        assert [each.query for each in way.first] == [each.query for each in way.second]
        assert len(way.first) == QUERIES
        assert [each.rank for each in way.first] != [each.rank for each in way.second]
        for ranked, ranks in zip((way.first, way.second), model_ranks, strict=True):
            assert [each.rank for each in ranked] == [ranks[each.query] for each in ranked]
    page = build_report(open_subject(one, None), Asked("swamp report RUN", beside=str(two))).html
    assert len(Parsed(page).named("article")) == 2 * QUERIES
    assert page.count("<ol>") == 4 * QUERIES


def _ranks_of(models: tuple[TrainedModel, TrainedModel]) -> Iterator[list[dict[int, int]]]:
    """Of both directions the ranks of all queries in both runs, as the examples of one run tell them."""
    settings = EvaluateSettings(split="test")
    whole = [find_examples("run", model, settings, 1000) for model in models]
    for ways in zip(*(each.directions for each in whole), strict=True):
        yield [{each.query: each.rank for each in way.chosen.drawn} for way in ways]


def test_a_run_over_other_fields_cannot_stand_beside(tmp_path: Path) -> None:
    one = run_over(picture_set(tmp_path / "set", 18), tmp_path / "one", PICTURES, ("image", "text"), 3)
    two = run_over(feature_set(tmp_path / "other", True), tmp_path / "two", FEATURES, ("a", "b"), 3)
    with pytest.raises(UserError, match=r"has the fields a and b, run .* has image and text"):
        build_report(open_subject(one, None), Asked("swamp report RUN", beside=str(two)))
