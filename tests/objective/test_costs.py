"""The formulas against what a step really does: operations, bytes held, collectives and bytes sent."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone
from swamp_dist.objective import costs, memory
from swamp_dist.objective.sinkhorn import StreamedScores, solve
from swamp_dist.objective.swamp import build_objective
from swamp_dist.records import BatchPlan, LossTerms, PairEmbeddings
from tests.ranks import run_on_ranks

BATCH, DIM, PROTOTYPES, EACH = 12, 6, 7, 3
NAMES = {
    "all_reduce": "all_reduce",
    "all_gather_single": "all_gather",
    "reduce_scatter_single": "reduce_scatter",
}
CASES: dict[str, dict[str, Any]] = {
    "replicated, split": {"layout": "replicated", "solve": "split"},
    "replicated, whole": {"layout": "replicated", "solve": "whole"},
    "sharded": {"layout": "sharded"},
    "sharded, streamed": {"layout": "sharded", "memory": 1},
    "sharded, SwAMP alone": {"layout": "sharded", "weight": 0},
    "replicated, SwAMP alone": {"layout": "replicated", "solve": "split", "weight": 0},
    "warm": {"layout": "sharded", "warm": True},
    "warm, small epsilon": {"layout": "sharded", "warm": True, "eta": 50.0},
    "cold, small epsilon": {"layout": "sharded", "eta": 50.0},
    "entry weights off": {"layout": "replicated", "in_entry_share": None},
    "contrastive alone": {"swamp": 0},
}


def _settings(
    layout: str = "auto",
    solve: str = "auto",
    memory: int = 2**32,
    weight: float = 1,
    warm: bool = False,
    eta: float = 5.0,
    in_entry_share: float | None = 0.5,
    swamp: float = 0.5,
) -> ObjectiveSettings:
    tree = {
        "contrastive": {"weight": weight, "in_entry_share": in_entry_share},
        "swamp": {
            "weight": swamp,
            "prototypes": PROTOTYPES,
            "eta": eta,
            "queue": {"size": 20, "start_when_filled": 0, "layout": layout, "solve": solve},
            "sinkhorn": {"iterations": 3, "warm_start": warm, "score_memory": memory},
        },
    }
    return ObjectiveSettings.model_validate(tree)


def _step(settings: ObjectiveSettings, world: World, steps: int) -> Callable[[], LossTerms]:
    """A step of the objective with its backward pass, ready to run after `steps` others."""
    plan = BatchPlan(BATCH // EACH, EACH, 4, world.size)
    objective = build_objective(settings, plan, DIM, torch.device("cpu"), rank=world.rank)
    local = BATCH // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    prototypes = None if settings.swamp.weight == 0 else torch.randn(PROTOTYPES, DIM)

    def step(number: int) -> LossTerms:
        torch.manual_seed(number)
        rows = functional.normalize(torch.randn(2, BATCH, DIM), dim=2)
        leaves = [x.clone().requires_grad_() for x in (rows[0, mine], rows[1, mine])]
        p = None if prototypes is None else functional.normalize(prototypes, dim=1).requires_grad_()
        entries = torch.arange(BATCH // EACH).repeat_interleave(EACH)[mine]
        terms = objective(
            PairEmbeddings(leaves[0], leaves[1], p), torch.arange(local), entries, number, world
        )
        terms.total.backward()
        return terms

    for number in range(steps):
        step(number)
    return lambda: step(steps)


# -- bytes sent ------------------------------------------------------------------------------------


def _calls(world: World) -> dict[str, tuple[list[tuple[str, int]], int]]:
    """Kind and bytes handed in of every collective of the third step, and its repeated iterations."""
    calls: list[tuple[str, int]] = []

    def counted(kind: str, function: Callable[..., Any], position: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append((kind, args[position].nbytes))
            return function(*args, **kwargs)

        return call

    real = {name: getattr(dist, name) for name in NAMES}
    steps = {name: _step(_settings(**case), world, 2) for name, case in CASES.items()}
    for name, function in real.items():
        setattr(dist, name, counted(NAMES[name], function, 0 if name == "all_reduce" else 1))
    found = {}
    for name, step in steps.items():
        calls.clear()
        repeats = step().diagnostics.get("swamp/repeats", torch.tensor(0))
        found[name] = list(calls), int(repeats)
    for name, function in real.items():
        setattr(dist, name, function)
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_a_step_hands_over_what_the_formulas_say(size: int) -> None:
    results = run_on_ranks(_calls, size)
    for name, case in CASES.items():
        settings = _settings(**case)
        cost = costs.step_cost(settings, BATCH, EACH, DIM, size, on_gpu=False)
        expected = [(c.kind, c.payload) for c in cost.collectives]
        for calls, repeats in (result[name] for result in results):
            assert repeats == 0
            assert calls == expected, name
    assert (
        len(results[0]["sharded, SwAMP alone"][0]) == 3 + 1
    )  # cold solve in range and prototype use, no gather
    assert results[0]["contrastive alone"][0][0][0] == "all_gather"


def test_a_repeated_block_costs_its_iterations_and_one_more() -> None:
    scores = torch.rand(2, 50, 20)
    bad_start = torch.zeros(2, 20)
    bad_start[:, 0] = 400.0
    found = run_on_ranks(_repeated, 2, scores, bad_start)[0]
    assert found[1] == 3
    assert found[0] == costs.solve_collectives(3 + found[1], cold=False, epsilon=0.05, repeated_blocks=1)


def _repeated(world: World, scores: Tensor, log_v: Tensor) -> tuple[int, int]:
    half = len(scores[0]) // world.size
    mine = scores[:, world.rank * half : (world.rank + 1) * half].contiguous()
    found = solve(mine, 50, 0.05, world=world, iterations=3, log_v=log_v)
    return found.collectives, found.repeats


def test_bytes_on_a_ring() -> None:
    assert costs.Collective("all_gather", "", 10).sent(4) == 30
    assert costs.Collective("reduce_scatter", "", 40).sent(4) == 30
    assert costs.Collective("all_reduce", "", 40).sent(4) == 60
    assert costs.Collective("all_reduce", "", 40).sent(1) == 0


# -- operations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "warm", "eta"),
    [
        ("replicated, whole", False, 5.0),
        ("sharded, streamed", False, 5.0),
        ("sharded, streamed", True, 5.0),
        ("sharded, streamed", False, 10.0),
    ],
)
def test_matrix_products_are_counted_exactly(name: str, warm: bool, eta: float) -> None:
    settings = _settings(**CASES[name] | {"warm": warm, "eta": eta})
    step = _step(settings, alone(), 2)
    with FlopCounterMode(display=False) as counter:
        step()
    asks_maxima = not warm and not costs.stays_in_range(settings.swamp)
    products, _ = costs.solve_flops(20, PROTOTYPES, DIM, 3, asks_maxima, is_streamed="streamed" in name)
    batch = costs.contrastive_flops(BATCH, BATCH, DIM) + costs.assignment_flops(BATCH, PROTOTYPES, DIM)
    assert counter.get_total_flops() == products + batch


# -- bytes held ------------------------------------------------------------------------------------


class _LiveBytes(TorchDispatchMode):
    """Counts the storages that are alive, at every operation: tracemalloc does not see torch's memory."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known = dict.fromkeys((x.untyped_storage()._cdata for x in given), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


@pytest.mark.parametrize("epsilon", [0.05, 0.005])
@pytest.mark.parametrize("rows_in_memory", [3000, 300])
def test_a_solve_holds_the_bytes_of_the_formula(epsilon: float, rows_in_memory: int) -> None:
    rows, prototypes, limit = 3000, 400, 16 * rows_in_memory * 400
    torch.manual_seed(0)
    sides, p = torch.randn(2, rows, 8), torch.randn(prototypes, 8)
    expected = memory.solve_bytes(rows, prototypes, limit)
    block = memory.block_rows(rows, prototypes, limit)
    assert block == rows_in_memory
    with _LiveBytes(sides, p) as counted:
        held = torch.empty(2, 2, block, prototypes)
        if block == rows:
            scores: Tensor | StreamedScores = torch.matmul(sides, p.t(), out=held[0])
        else:
            scores = StreamedScores((sides[0], sides[1]), p, held[0])
        solve(scores, rows, epsilon, iterations=6, work=held[1])
    assert 0.9 * expected < counted.peak <= expected


def test_a_million_rows_against_a_hundred_thousand_prototypes_fit_the_limit() -> None:
    limit = 4 * 2**30
    assert memory.solve_bytes(10**6, 10**5, 2**60) > 1.6e12
    assert memory.solve_bytes(10**6, 10**5, limit) < 1.02 * limit
    assert memory.block_rows(10**6, 10**5, limit) == limit // (16 * 10**5)
    assert memory.block_rows(5, 10**5, 1) == 1


def test_a_gpu_holds_scores_and_little_of_a_kernel() -> None:
    rows, prototypes, limit = 60_000, 10_000, 4 * 2**30
    on_cpu = memory.block_rows(rows, prototypes, limit)
    on_gpu = memory.block_rows(rows, prototypes, limit, on_gpu=True)
    scratch = memory.kernel_rows(on_gpu, prototypes, on_gpu=True)
    assert scratch == 2**24 // prototypes < memory.kernel_rows(on_gpu, prototypes, on_gpu=False) == on_gpu
    assert 1.9 * on_cpu < on_gpu
    assert limit - 8 * prototypes < 8 * (on_gpu + scratch) * prototypes <= limit
    assert memory.block_rows(20, 500, limit, on_gpu=True) == memory.kernel_rows(20, 500, on_gpu=True) == 20
    small = 16 * 500 * 1000  # no more than the scratch: half for scores, as on a CPU
    assert memory.block_rows(rows, 500, small, on_gpu=True) == 1000


# -- where things go -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "size", "solve_how", "expected"),
    [
        (1.0, 2048, "auto", ("replicated", True)),
        (1.0, 2048, "split", ("replicated", True)),
        (1.0, 32_000, "auto", ("replicated", True)),
        (1.0, 33_000, "auto", ("sharded", True)),  # 8 * 4,096 + 8 bytes a row are more than 1 GiB
        (1.0, 33_000, "whole", ("replicated", False)),
        (0.0, 2048, "auto", ("sharded", True)),
    ],
)
def test_auto_counts_bytes(weight: float, size: int, solve_how: str, expected: tuple[str, bool]) -> None:
    settings = ObjectiveSettings.model_validate(
        {"contrastive": {"weight": weight}, "swamp": {"queue": {"size": size, "solve": solve_how}}}
    )
    found = costs.place(settings, 256, 4096, 8, on_gpu=True)
    assert (found.layout, found.is_split) == expected
    assert costs.place(settings, 256, 4096, 1, on_gpu=False) == costs.Placement(size, "replicated", False)


def test_a_sharded_queue_cannot_be_solved_whole() -> None:
    with pytest.raises(ValueError, match="no rank holds all rows"):
        _settings(layout="sharded", solve="whole")


def test_splitting_pays_for_large_queues_only() -> None:
    assert costs.cheaper_solve(2048, 500, 256, 5, 8, on_gpu=True) == "whole"
    assert costs.cheaper_solve(1_000_000, 10_000, 4096, 5, 64, on_gpu=True) == "split"


def test_more_ranks_do_less_each() -> None:
    settings = _settings(layout="sharded", weight=0)
    sizes = [1, 2, 4, 12]
    found = [costs.step_cost(settings, BATCH, EACH, DIM, size) for size in sizes]
    rows = [cost.rows for cost in found]
    assert rows == [20, 12, 6, 2]
    assert [cost.flops["solve"] for cost in found] == sorted((c.flops["solve"] for c in found), reverse=True)
    assert all(math.isfinite(cost.sent) and (cost.sent > 0) == (cost.world_size > 1) for cost in found)
