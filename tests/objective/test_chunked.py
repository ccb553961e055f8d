from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from swamp_dist import distributed
from swamp_dist.config import ContrastiveSettings
from swamp_dist.distributed import World
from swamp_dist.objective import chunked, contrastive
from swamp_dist.objective.ranking import ranking_term
from swamp_dist.records import BatchPlan, PairEmbeddings
from tests.ranks import run_on_ranks

COUNT, EACH = 12, 3
MODES: dict[str, dict[str, Any]] = {
    "all": {"margin": 0.2, "in_entry_share": None},
    "in-entry weights": {"margin": 0.2, "in_entry_share": 0.3},
    "no margin": {"margin": 0.0, "in_entry_share": None},
    "hardest mean": {"negatives": "hardest", "margin": 0.2},
    "hardest sum": {"negatives": "hardest", "margin": 0.2, "reduction": "sum"},
    "start of hardest sum": {"negatives": "hardest", "reduction": "sum", "all_negatives_steps": 9},
}


def _term(world: World, mode: str, chunk: int | None) -> dict[str, Tensor]:
    """Loss and figures as means over ranks, and the averaged gradient of a shared linear map."""
    torch.manual_seed(COUNT)
    a, b = functional.normalize(torch.randn(2, COUNT, 5, dtype=torch.float64), dim=2)
    weight = torch.linspace(-1, 1, 25, dtype=torch.float64).reshape(5, 5).requires_grad_()
    plan = BatchPlan(COUNT // EACH, EACH, COUNT // EACH, world.size)
    rows = slice(world.rank * plan.local_pairs, (world.rank + 1) * plan.local_pairs)
    mine = PairEmbeddings(a[rows] @ weight, b[rows] @ weight.t(), None)
    columns = (distributed.gather_rows(x, world) for x in (mine.a, mine.b))
    entries = torch.arange(COUNT // EACH).repeat_interleave(EACH)[rows]
    settings = ContrastiveSettings.model_validate(MODES[mode] | {"chunk": chunk})
    loss, figures = ranking_term(settings, plan, mine, *columns, entries, 0, world)
    assert loss is not None
    loss.backward()
    assert weight.grad is not None
    found = {"loss": loss.detach(), "gradient": weight.grad} | figures
    return {name: distributed.mean_over_ranks(x.clone(), world) for name, x in found.items()}


def _terms(world: World, chunks: tuple[int | None, ...]) -> dict[tuple[str, int | None], dict[str, Tensor]]:
    return {(mode, chunk): _term(world, mode, chunk) for mode in MODES for chunk in chunks}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_blocks_of_columns_give_the_losses_gradients_and_figures_of_all_at_once(size: int) -> None:
    expected = _terms(distributed.alone(), (None,))
    for found in run_on_ranks(_terms, size, (1, 5, 12, 100)):
        for (mode, _), values in found.items():
            torch.testing.assert_close(values, expected[mode, None], rtol=1e-12, atol=1e-12)
            assert float(values["gradient"].abs().max()) > 1e-3


def _tied(count: int) -> Tensor:
    """Rows of which many are equal, of numbers whose products are exact."""
    torch.manual_seed(0)
    return torch.randint(0, 2, (count, 3), dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 3, 4, 16])
def test_ties_go_to_the_lowest_column_of_the_whole_batch(chunk: int) -> None:
    rows, columns = _tied(16)[4:9], _tied(16)
    scores = rows @ columns.t()
    scores.diagonal(4).fill_(-torch.inf)
    lowest = [row.index(max(row)) for row in scores.tolist()]
    assert any(row.count(max(row)) > 1 for row in scores.tolist())
    assert chunked.hardest_columns(rows, columns, 4, chunk).tolist() == lowest


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_tied_hardest_negatives_send_the_gradient_where_the_formula_does(chunk: int) -> None:
    gradients = []
    for is_chunked in (False, True):
        a, b, all_a, all_b = (
            x.clone().requires_grad_() for x in (_tied(16)[4:9], _tied(16)[3:8], _tied(16), _tied(17)[:16])
        )
        if is_chunked:
            loss, _ = chunked.hardest_negative(a, b, all_a, all_b, 4, 9.0, chunk)
        else:
            own = contrastive.similarities(a, b, all_a, all_b, 4)
            hard_a, hard_b = contrastive.hardest_negatives(own)
            positive = (a * b).sum(1, keepdim=True)
            loss = ((9.0 + hard_a - positive).relu() + (9.0 + hard_b - positive).relu()).mean()
        loss.backward()
        gradients.append([x.grad for x in (a, b, all_a, all_b)])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-12)


def test_a_nan_column_is_not_overlooked() -> None:
    columns = torch.eye(6, dtype=torch.float64)
    columns[2] = torch.nan
    assert chunked.hardest_columns(torch.eye(6, dtype=torch.float64)[:1], columns, 0, 2).tolist() == [2]


class _LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("mode", ["all", "in-entry weights", "hardest mean"])
def test_no_tensor_grows_with_rows_times_columns(mode: str) -> None:
    pairs, dim = 240, 4

    def largest(chunk: int | None) -> int:
        a, b = torch.randn(2, pairs, dim, dtype=torch.float64, requires_grad=True)
        settings = ContrastiveSettings.model_validate(MODES[mode] | {"chunk": chunk})
        plan = BatchPlan(pairs // EACH, EACH, 1, 1)
        entries = torch.arange(pairs) // EACH
        with _LargestTensor() as seen:
            loss, _ = ranking_term(
                settings, plan, PairEmbeddings(a, b, None), a, b, entries, 0, distributed.alone()
            )
            assert loss is not None
            loss.backward()
        return seen.elements

    assert largest(None) == pairs * pairs
    assert largest(8) == pairs * 8
