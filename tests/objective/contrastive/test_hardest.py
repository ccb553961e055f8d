"""The sparse path against loops over every pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from swamp_dist import distributed
from swamp_dist.distributed import World, alone
from swamp_dist.objective.contrastive import hardest
from swamp_dist.objective.contrastive.columns import Gathered, pieces
from tests.ranks import run_on_ranks

MARGIN, COUNT, DIM = 0.25, 24, 5
KINDS = ("random", "tied", "equal rows", "excluded", "one key", "excluded and tied")
Batch = tuple[Tensor, Tensor, Tensor | None]
"""Rows a, b (B, D) and keys (B,); pairs of one key are no negatives of each other."""


def _batch(kind: str, count: int = COUNT) -> Batch:
    """float64; products of tied and equal rows are exact."""
    random = torch.Generator().manual_seed(1)  # the global one belongs to all threads
    a, b = functional.normalize(torch.randn(2, count, DIM, generator=random, dtype=torch.float64), dim=2)
    if "tied" in kind:
        a, b = torch.randint(-1, 2, (2, count, DIM), generator=random).double() / 2
    if kind == "equal rows":
        a, b = a.mul(8).round().div(8)[torch.arange(count) // 4], b.mul(8).round().div(8)
    keys = torch.randint(0, 5, (count,), generator=random) if "excluded" in kind else None
    return a, b, torch.zeros(count, dtype=torch.int64) if kind == "one key" else keys


def _literal(batch: Batch) -> dict[str, Tensor]:
    """Eq. 1 as a mean, its gradients and who is hardest, pair by pair."""
    a, b, keys = batch
    x, count = (a @ b.t()).tolist(), len(a)
    loss, on_a, on_b, found = 0.0, torch.zeros_like(a), torch.zeros_like(b), []
    names = list(range(count)) if keys is None else keys.tolist()
    chosen: dict[str, list[int]] = {"of_a": [], "of_b": []}
    for i in range(count):
        negatives = [j for j in range(count) if j != i and (keys is None or names[j] != names[i])]
        for side, score in (("of_a", lambda j, i=i: x[i][j]), ("of_b", lambda j, i=i: x[j][i])):
            chosen[side].append(_first_largest(negatives, score, i))
            if not negatives:
                continue
            hard = chosen[side][-1]
            found.append(score(hard))
            violation = MARGIN + score(hard) - x[i][i]
            if violation <= 0:
                continue
            loss += violation
            row_a, row_b = (i, hard) if side == "of_a" else (hard, i)
            on_a[row_a] += b[row_b]
            on_b[row_b] += a[row_a]
            on_a[i] -= b[i]
            on_b[i] -= a[i]
    return {
        "loss": torch.tensor(loss / count, dtype=a.dtype),
        "on_a": on_a / count,
        "on_b": on_b / count,
        "hardest": torch.tensor(sum(found) / (2 * count), dtype=a.dtype),
        **{side: torch.tensor(indices) for side, indices in chosen.items()},
    }


def _first_largest(negatives: list[int], score: Callable[[int], float], itself: int) -> int:
    """The lowest of equals; nan is larger than any number. `itself` where there is none."""
    nan = [j for j in negatives if math.isnan(score(j))]
    return nan[0] if nan else max(negatives, key=lambda j: (score(j), -j), default=itself)


def _found(world: World, batch: Batch, chunk: int | None, order: int = 1) -> dict[str, Tensor]:
    """The same by all ranks; a mean over ranks is taken as DeepSpeed takes it."""
    local = len(batch[0]) // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    a, b = (side[mine].clone().requires_grad_() for side in batch[:2])
    keys, no_negatives = batch[2], None
    if keys is not None:
        no_negatives = lambda columns: keys[mine][:, None] == keys[columns][None]  # noqa: E731
    blocks = list(pieces(Gathered(distributed.gather(a.detach(), world)).lap(), chunk))[::order]
    of_b, of_a = hardest.search(b.detach(), blocks, world, no_negatives)
    found = hardest.hardest_negative(a, b, (of_b, of_a), MARGIN, world)
    gradients = torch.autograd.grad(found.loss, (a, b))
    means = {"loss": found.loss.detach(), "hardest": found.hardest}
    rows = {"of_a": of_a.position, "of_b": of_b.position}
    return {
        **{name: distributed.mean_over_ranks(x.clone(), world) for name, x in means.items()},
        **{name: distributed.gather(x, world) for name, x in rows.items()},
        **{
            f"on_{side}": distributed.gather(x, world) / world.size
            for side, x in zip("ab", gradients, strict=True)
        },
    }


Case = tuple[str, int | None, int]
"""Kind of the batch, columns of a block, and order of the blocks: 1 or -1."""


def _all_found(world: World, cases: list[Case], count: int) -> dict[Case, dict[str, Tensor]]:
    return {case: _found(world, _batch(case[0], count), *case[1:]) for case in cases}


def _check(results: list[dict[Case, dict[str, Tensor]]], count: int) -> None:
    expected = {kind: _literal(_batch(kind, count)) for kind in KINDS}
    for found in results:
        for case, values in found.items():
            torch.testing.assert_close(
                values, expected[case[0]], rtol=0, atol=1e-10, msg=lambda m, case=case: f"{case}: {m}"
            )


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_loss_and_its_gradients_are_those_of_loops(size: int) -> None:
    cases = [(kind, chunk, order) for kind in KINDS for chunk in (None, 1, 7) for order in (1, -1)]
    _check(run_on_ranks(_all_found, size, cases, COUNT), COUNT)


def test_the_loss_and_its_gradients_are_those_of_loops_on_64_ranks() -> None:
    cases = [(kind, 50, -1) for kind in KINDS]
    _check(run_on_ranks(_all_found, 64, cases, 128, how="threads"), 128)


def test_every_kind_of_batch_says_something() -> None:
    found = {kind: _literal(_batch(kind)) for kind in KINDS}
    assert float(found["one key"]["loss"]) == 0
    assert all(float(x["loss"]) > 0.1 for kind, x in found.items() if kind != "one key")
    tied = _batch("tied")
    x = (tied[0] @ tied[1].t()).fill_diagonal_(-9)
    assert int((x == x.amax(1, keepdim=True)).sum()) > 2 * COUNT
    assert len({tuple(row) for row in _batch("equal rows")[0].tolist()}) == COUNT // 4


_SCORES = st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]) | st.sampled_from([0.5, math.nan])


@st.composite
def _batches(draw: st.DrawFn) -> Batch:
    """Few distinct values, so that ties are everywhere; sometimes a nan."""
    count = draw(st.integers(2, 9))
    rows = st.lists(st.lists(_SCORES, min_size=2, max_size=2), min_size=count, max_size=count)
    a, b = (torch.tensor(draw(rows), dtype=torch.float64) for _ in "ab")
    keys = draw(st.none() | st.lists(st.integers(0, 2), min_size=count, max_size=count).map(torch.tensor))
    return a, b, keys


@given(_batches(), st.integers(1, 9), st.sampled_from([1, -1]))
def test_ties_nan_and_excluded_pairs_are_those_of_loops(batch: Batch, chunk: int, order: int) -> None:
    expected, found = _literal(batch), _found(alone(), batch, chunk, order)
    assert torch.equal(found["of_a"], expected["of_a"])
    assert torch.equal(found["of_b"], expected["of_b"])
    torch.testing.assert_close(found["loss"], expected["loss"], rtol=0, atol=1e-12, equal_nan=True)
    if not any(side.isnan().any() for side in batch[:2]):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("few", [0, 2**16], ids=["in parts", "at once"])
@pytest.mark.parametrize("rows", [1, 63, 64, 65, 200])
def test_maxima_of_columns_are_the_first_of_equals(
    rows: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardest, "_FEW", few)
    random = torch.Generator().manual_seed(rows)
    scores = torch.randint(0, 3, (rows, 40), generator=random).float()
    scores[torch.rand(rows, 40, generator=random) < 0.01] = torch.nan
    value, index = hardest._first_of_columns(scores)
    columns = scores.t().tolist()
    lowest = [_first_largest(list(range(rows)), column.__getitem__, 0) for column in columns]
    assert index.tolist() == lowest
    torch.testing.assert_close(value, scores[lowest, torch.arange(40)], equal_nan=True)


def _of_a_nan(world: World) -> float:
    a, b, _ = _batch("random", 12)
    a[7] = torch.nan
    return float(_found(world, (a, b, None), 5)["loss"])


@pytest.mark.parametrize("size", [1, 3])
def test_a_nan_reaches_the_loss_of_every_world(size: int) -> None:
    assert all(math.isnan(loss) for loss in run_on_ranks(_of_a_nan, size))


class _LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize(("chunk", "largest"), [(None, 240 * 240), (8, 240 * 8)])
def test_no_tensor_grows_with_rows_times_columns(chunk: int | None, largest: int) -> None:
    a, b = torch.randn(2, 240, 4, requires_grad=True)
    with _LargestTensor() as seen:
        blocks = pieces(Gathered(a.detach()).lap(), chunk)
        best = hardest.search(b, blocks, alone())
        hardest.hardest_negative(a, b, best, MARGIN, alone()).loss.backward()
    assert seen.elements <= largest
    assert chunk is not None or seen.elements == largest
