"""Draws by class: pure, uniform, and near negatives as the literal formula in float64 has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import chisquare

from swamp_dist.data.partner_draws import ClassEntries, NearClasses, draw_words, other_classes


def words(count: int) -> np.ndarray:
    return draw_words(3, 1, ["key"], count).partner


def test_a_draw_depends_on_seed_epoch_key_and_pair_alone() -> None:
    both = draw_words(3, 1, ["one", "two"], 2)
    alone = draw_words(3, 1, ["two"], 4)  # more pairs, other neighbours
    for together, by_itself in zip(both, alone, strict=True):
        assert together[2:].tolist() == by_itself[:2].tolist()
    others = [draw_words(4, 1, ["two"], 1), draw_words(3, 2, ["two"], 1), draw_words(3, 1, ["three"], 1)]
    found = {int(each.partner[0]) for each in others} | {int(w) for w in both.partner}
    assert len(found) == 7


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(0, 2**64 - 1))
def test_a_partner_has_the_class_that_was_asked_for(labels: list[int], word: int) -> None:
    by_class = ClassEntries(np.array(labels))
    assert by_class.classes.tolist() == sorted(set(labels))
    drawn = by_class.draw(by_class.classes, np.full(len(by_class.classes), word, dtype=np.uint64))
    assert [labels[i] for i in drawn] == by_class.classes.tolist()


def test_partners_and_other_classes_are_uniform() -> None:
    n, labels = 6000, np.array([0, 2, 2, 0, 2, 5, 2, 2])
    drawn = ClassEntries(labels).draw(np.full(n, 2), words(n))
    counts = np.bincount(drawn, minlength=8)
    assert counts[labels != 2].sum() == 0
    assert chisquare(counts[labels == 2]).pvalue > 0.01
    classes = other_classes(np.array([0, 2, 5, 9]), np.full(n, 2), words(n))
    counts = np.bincount(classes, minlength=10)
    assert counts.nonzero()[0].tolist() == [0, 5, 9]
    assert chisquare(counts[[0, 5, 9]]).pvalue > 0.01


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_near_classes_follow_the_formula_and_never_are_the_own_class(scale: float) -> None:
    n, rng = 20_000, np.random.default_rng(0)
    vectors = rng.standard_normal((6, 8)).astype(np.float32)
    vectors *= scale * 0.1 / np.linalg.norm(vectors, axis=1, keepdims=True)
    present = np.array([0, 1, 3, 4, 5])
    near = NearClasses(vectors, present, 0.1)
    exact = vectors[present].astype(np.float64)
    logits = -((exact - vectors[3].astype(np.float64)) ** 2).sum(axis=1) / 0.1
    logits[2] = -np.inf
    expected = softmax(logits)
    assert near.probabilities(3) == pytest.approx(expected, rel=1e-9)
    drawn = np.bincount(near.draw(np.full(n, 3), words(n)), minlength=6)
    assert drawn[[2, 3]].tolist() == [0, 0]
    likely = expected * n > 5
    counts, means = drawn[present][likely], expected[likely]
    assert counts.sum() > 0.999 * n
    assert len(counts) == 1 or chisquare(counts, means / means.sum() * counts.sum()).pvalue > 0.01


def test_vectors_far_apart_give_the_nearest_class_where_float32_gives_nan() -> None:
    vectors = np.array([[0.0], [40.0], [90.0]], dtype=np.float32)
    with np.errstate(invalid="ignore"):
        shares = np.exp(-((vectors[1:] - vectors[0]) ** 2)[:, 0] / np.float32(0.1))
        assert np.isnan(shares / shares.sum()).all()
    near = NearClasses(vectors, np.arange(3), 0.1)
    assert near.probabilities(0).tolist() == [0, 1, 0]
    extremes = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert near.draw(np.array([0, 0]), extremes).tolist() == [1, 1]
    equal = NearClasses(np.zeros((3, 2), np.float32), np.arange(3), 0.1)
    assert equal.probabilities(2).tolist() == [0.5, 0.5, 0]
    assert equal.draw(np.array([2, 0]), extremes).tolist() == [0, 2]
