"""Scores and bounds against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from swamp_dist.evaluate import scores

Rows = tuple[Tensor, Tensor]


def exact_score(left: Tensor, right: Tensor) -> Fraction:
    return sum(
        (Fraction(x) * Fraction(y) for x, y in zip(left.tolist(), right.tolist(), strict=True)), Fraction()
    )


@st.composite
def finite_rows(draw: st.DrawFn) -> Rows:
    """Rows with entries of many sizes, whose sums cancel; underflow and nearly overflow included."""
    n, m, dim = (
        draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 5, 255, 256, 257, 600])),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    spread, size = draw(st.sampled_from([0, 4, 10])), draw(st.sampled_from([-25, -19, 0, 5]))
    rows = torch.randn(n + m, dim, generator=generator)
    rows *= 10.0 ** (spread * torch.rand(n + m, dim, generator=generator) - spread + size)
    rows[:, dim // 2 :] = -rows[:, : dim - dim // 2] if draw(st.booleans()) else rows[:, dim // 2 :]
    return rows[:n], rows[n:]


@settings(max_examples=60, deadline=None)
@given(finite_rows())
def test_all_scores_are_within_their_bounds_of_the_exact_product(rows: Rows) -> None:
    queries, gallery = rows
    n, m = len(queries), len(gallery)
    norms, item_norms = scores.row_norms(queries), scores.row_norms(gallery)
    pairs = torch.arange(n).repeat_interleave(m), torch.arange(m).repeat(n)
    score = scores.pair_scores(queries, gallery, *pairs).view(n, m)
    low, high = scores.float64_intervals(queries, gallery, norms, item_norms)
    bound = scores.float32_bound(norms, float(item_norms.max()), queries.shape[1])
    fast = scores.float32_scores(queries, gallery)
    assert ((low <= score) & (score <= high)).all()
    assert ((fast.double() - score).abs() <= bound[:, None]).all()
    for i in range(n):
        for j in range(m):
            exact = exact_score(queries[i], gallery[j])
            assert abs(Fraction(fast[i, j].item()) - exact) <= Fraction(bound[i].item())
            assert Fraction(norms[i].item()) ** 2 >= exact_score(queries[i], queries[i])
            assert abs(Fraction(score[i, j].item()) - exact) <= Fraction(
                float(norms[i] * item_norms[j]) * 2.0**-23 + 1e-44
            )


@pytest.mark.parametrize("size", [1e19, 1e30])
def test_rows_whose_float32_product_could_overflow_have_no_bound(size: float) -> None:
    norms = scores.row_norms(torch.full((2, 9), size))
    assert scores.float32_bound(norms, float(norms.max()), 9).tolist() == [torch.inf, torch.inf]


def test_equal_rows_tie_wherever_they_stand() -> None:
    """Duplicated captions must tie: a matrix product of the same two rows differs with its place."""
    generator = torch.Generator().manual_seed(0)
    queries, row = torch.randn(5, 515, generator=generator), torch.randn(1, 515, generator=generator)
    gallery = row.repeat(4099, 1)
    pairs = torch.arange(5).repeat_interleave(4099), torch.arange(4099).repeat(5)
    found = scores.pair_scores(queries, gallery, *pairs).view(5, -1)
    assert torch.equal(found, found[:, :1].expand_as(found))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("together", [1, 3, 1000])
def test_a_score_depends_on_its_two_rows_alone(
    monkeypatch: pytest.MonkeyPatch, threads: int, together: int
) -> None:
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.standard_normal((40, 4099)).astype(np.float32))
    index = torch.arange(40)
    expected = scores.pair_scores(rows, rows, index, index.flip(0))
    monkeypatch.setattr(scores, "PAIR_BYTES", together * 8 * 4099)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    found = torch.cat([scores.pair_scores(rows, rows, part, 39 - part) for part in index.split(11)])
    torch.set_num_threads(before)
    assert torch.equal(found, expected)


def test_the_float32_product_stays_float32_where_faster_formats_are_allowed() -> None:
    backend = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = backend.fp32_precision
    rows = torch.nn.functional.normalize(
        torch.randn(64, 512, generator=torch.Generator().manual_seed(0)), dim=1
    )
    backend.fp32_precision = "bf16"
    try:
        found = scores.float32_scores(rows, rows)
    finally:
        backend.fp32_precision = before
    bound = scores.float32_bound(scores.row_norms(rows), 1.0001, 512)
    assert ((found.double() - rows.double() @ rows.double().T).abs() <= bound[:, None]).all()
