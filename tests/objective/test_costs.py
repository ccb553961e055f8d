"""The formulas against what a step really does: operations, bytes held, collectives and bytes sent."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone
from swamp_dist.objective import costs, memory
from swamp_dist.objective.contrastive import compare, hardest
from swamp_dist.objective.contrastive.infonce import InfoNce
from swamp_dist.objective.contrastive.negative_weights import negative_weights
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.solve.sinkhorn import StreamedScores, solve
from swamp_dist.objective.step_cost import step_cost
from swamp_dist.records import BatchPlan, LossTerms, PairEmbeddings, SoftTargets
from tests.ranks import run_on_ranks
from tests.traffic import Traffic, claim_world

BATCH, DIM, PROTOTYPES, EACH = 12, 6, 7, 3
CASES: dict[str, dict[str, Any]] = {
    "replicated, split": {"layout": "replicated", "solve": "split"},
    "replicated, whole": {"layout": "replicated", "solve": "whole"},
    "sharded": {"layout": "sharded"},
    "sharded, streamed": {"layout": "sharded", "memory": 1},
    "sharded, unique items": {"layout": "sharded", "unique_items": True},
    "sharded, SwAMP alone": {"layout": "sharded", "weight": 0},
    "replicated, SwAMP alone": {"layout": "replicated", "solve": "split", "weight": 0},
    "warm": {"layout": "sharded", "warm": True},
    "warm, small epsilon": {"layout": "sharded", "warm": True, "eta": 50.0},
    "cold, small epsilon": {"layout": "sharded", "eta": 50.0},
    "entry weights off": {"layout": "replicated", "in_entry_share": None},
    "contrastive alone": {"swamp": 0},
    "measured every step": {"layout": "sharded", "measure_every": 1},
    "never measured": {"layout": "sharded", "measure_every": None},
    "hardest": {"layout": "sharded", "form": "hardest"},
    "hardest alone": {"swamp": 0, "form": "hardest"},
    "hardest after all": {"layout": "replicated", "form": "hardest", "start": 1},
    "infonce": {"layout": "replicated", "form": "infonce"},
    "sigmoid, several positives": {"swamp": 0, "form": "sigmoid", "positives": "entry"},
    "mil_nce": {"swamp": 0, "form": "infonce", "positives": "entry", "multiple": "mil_nce"},
    "within modality": {"layout": "sharded", "form": "infonce", "targets": "within_modality"},
    "weighed negatives": {"layout": "sharded", "form": "infonce", "negative_weights": "swapped_targets"},
    "weighed negatives, replicated": {
        "layout": "replicated",
        "form": "infonce",
        "negative_weights": "swapped_targets",
    },
    "balanced plan": {"layout": "sharded", "form": "infonce", "targets": "balanced_plan"},
    "pseudo-positives": {"swamp": 0, "form": "infonce", "targets": "pseudo_positives"},
    "all on a ring": {"columns": "ring"},
    "all on a ring, replicated": {"layout": "replicated", "columns": "ring"},
    "infonce on a ring": {"swamp": 0, "form": "infonce", "columns": "ring"},
    "hardest on a ring": {"swamp": 0, "form": "hardest", "columns": "ring"},
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
    size: int = 20,
    measure_every: int | None = 10,
    unique_items: bool = False,
    form: str = "all",
    start: int = 0,
    positives: str = "partner",
    multiple: str = "supcon",
    columns: str = "auto",
    targets: str = "partner",
    negative_weights: str = "equal",
) -> ObjectiveSettings:
    tree = {
        "contrastive": {
            "weight": weight,
            "in_entry_share": in_entry_share,
            "form": form,
            "all_negatives_steps": start,
            "positives": positives,
            "multiple_positives": multiple,
            "columns": columns,
            "targets": {"kind": targets},
            "negative_weights": negative_weights,
        },
        "swamp": {
            "weight": swamp,
            "prototypes": PROTOTYPES,
            "eta": eta,
            "measure_every": measure_every,
            "queue": {
                "size": size,
                "start_when_filled": 0,
                "layout": layout,
                "solve": solve,
                "unique_items": unique_items,
            },
            "sinkhorn": {"iterations": 3, "warm_start": warm, "score_memory": memory},
        },
    }
    return ObjectiveSettings.model_validate(tree)


def _step(
    settings: ObjectiveSettings, world: World, steps: int, batch: int = BATCH
) -> Callable[[], LossTerms]:
    """A step of the objective with its backward pass, ready to run after `steps` others."""
    plan = BatchPlan(batch // EACH, EACH, 4, world.size)
    objective = build_objective(settings, plan, DIM, torch.device("cpu"), rank=world.rank)
    local = batch // world.size
    mine = slice(world.rank * local, (world.rank + 1) * local)
    prototypes = None if settings.swamp.weight == 0 else torch.randn(PROTOTYPES, DIM)

    def step(number: int) -> LossTerms:
        torch.manual_seed(number)
        rows = functional.normalize(torch.randn(2, batch, DIM), dim=2)
        leaves = [x.clone().requires_grad_() for x in (rows[0, mine], rows[1, mine])]
        p = None if prototypes is None else functional.normalize(prototypes, dim=1).requires_grad_()
        entries = torch.arange(batch // EACH).repeat_interleave(EACH)[mine]
        terms = objective(
            PairEmbeddings(leaves[0], leaves[1], p), torch.arange(local), entries, number, world
        )
        terms.total.backward()
        return objective.measure(terms, world)

    for number in range(steps):
        step(number)
    return lambda: step(steps)


# -- bytes sent ------------------------------------------------------------------------------------


Calls = tuple[list[tuple[str, int]], int]
"""Kind and bytes handed in of every collective of a step, and its repeated iterations."""


def _queue_size(batch: int) -> int:
    """No multiple of the batch, and full after two steps."""
    return batch * 5 // 3


def _calls(world: World, batch: int, cases: Mapping[str, Any] = CASES) -> dict[str, Calls]:
    """What the third step of each case calls."""
    found = {}
    for name, case in cases.items():
        step = _step(_settings(**case, size=_queue_size(batch)), world, 2, batch)
        with Traffic() as traffic:
            repeats = step().diagnostics.get("swamp/repeats", torch.tensor(0))
        found[name] = traffic.calls, int(repeats)
    return found


def _expected(batch: int, world_size: int, cases: Mapping[str, Any] = CASES) -> dict[str, Calls]:
    """What the formulas say of `_calls`."""
    found = {}
    for name, case in cases.items():
        settings = _settings(**case, size=_queue_size(batch))
        cost = step_cost(settings, batch, EACH, DIM, world_size, on_gpu=False)
        # The third step measures nothing unless every step does.
        found[name] = (
            [
                ("all_to_all" if c.kind == "shift" else c.kind, c.payload)
                for c in cost.collectives
                if c.every == 1
            ],
            0,
        )
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_a_step_hands_over_what_the_formulas_say(size: int) -> None:
    results = run_on_ranks(_calls, size, BATCH)
    for name, (calls, repeats) in _expected(BATCH, size).items():
        found = [result[name] for result in results]
        for number, call in enumerate(calls):
            of_ranks = [of_rank[number] for of_rank, _ in found]
            assert {kind for kind, _ in of_ranks} == {call[0]}
            # Which rows of a rank are the hardest of others is up to the batch.
            payloads = [payload for _, payload in of_ranks]
            assert sum(payloads) == size * call[1], (name, number)
            assert call[0] == "all_to_all" or len(set(payloads)) == 1
        assert all((len(of_rank), again) == (len(calls), repeats) for of_rank, again in found)
    solo, _ = results[0]["sharded, SwAMP alone"]
    assert len(solo) == 3 + 1  # cold solve in range and prototype use, no gather
    assert results[0]["contrastive alone"][0][0][0] == "all_gather"
    calls = [results[0][name][0] for name in ("measured every step", "never measured")]
    assert calls[0] == [*calls[1], ("all_reduce", 16)]


@pytest.mark.parametrize(("size", "rank"), [(8, 0), (8, 5), (1024, 0), (1024, 700)])
def test_the_formulas_hold_for_ranks_that_no_machine_has(size: int, rank: int) -> None:
    batch = EACH * size
    # A ring shifts once per rank: a thousand shifts say no more than eight, and take long. Of a plan over
    # thousands of rows that are not there, the masses of three are far from balance: its block is repeated.
    cases = {
        name: case
        for name, case in CASES.items()
        if size < 100 or (case.get("columns") != "ring" and case.get("targets") != "balanced_plan")
    }
    with claim_world(size, rank) as world:
        assert _calls(world, batch, cases) == _expected(batch, size, cases)


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
    assert costs.Collective("shift", "", 40).sent(4) == 40
    assert costs.Collective("all_reduce", "", 40, every=10).sent(4) == 6


# -- operations ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "warm", "eta"),
    [
        ("replicated, whole", False, 5.0),
        ("sharded, streamed", False, 5.0),
        ("sharded, streamed", True, 5.0),
        ("sharded, streamed", False, 10.0),
        ("weighed negatives", False, 5.0),
    ],
)
def test_matrix_products_are_counted_exactly(name: str, warm: bool, eta: float) -> None:
    settings = _settings(**CASES[name] | {"warm": warm, "eta": eta})
    step = _step(settings, alone(), 2)
    with FlopCounterMode(display=False) as counter:
        step()
    asks_maxima = not warm and not costs.stays_in_range(settings.swamp)
    products, _ = costs.solve_flops(20, PROTOTYPES, DIM, 3, asks_maxima, is_streamed="streamed" in name)
    batch = costs.contrastive_flops(settings.contrastive, BATCH, BATCH, DIM, BATCH)
    batch += costs.assignment_flops(BATCH, PROTOTYPES, DIM)
    if settings.contrastive.weighs_negatives:
        batch += costs.weight_flops(BATCH, BATCH, PROTOTYPES)
    assert counter.get_total_flops() == products + batch


COMPARED: dict[str, dict[str, Any]] = {
    "all": {},
    "all, weighted": {"in_entry_share": 0.5},
    "all in tiles": {"chunk": 50},
    "hardest": {"form": "hardest"},
    "hardest in tiles": {"form": "hardest", "chunk": 50},
    "hardest in small tiles": {"form": "hardest", "chunk": 5},
    "infonce": {"form": "infonce"},
    "infonce in tiles": {"form": "infonce", "chunk": 50},
    "sigmoid": {"form": "sigmoid"},
    "sigmoid in tiles": {"form": "sigmoid", "chunk": 50},
    "all, several": {"positives": "entry"},
    "infonce, several": {"form": "infonce", "positives": "entry"},
    "mil_nce": {"form": "infonce", "positives": "entry", "multiple_positives": "mil_nce"},
    "sigmoid, several": {"form": "sigmoid", "positives": "entry"},
}
COMPARED |= {
    f"{kind}, {chunk}": {"form": "infonce", "targets": {"kind": kind}, "chunk": chunk}
    for kind in ("within_modality", "balanced_plan", "pseudo_positives")
    for chunk in (None, 50)
}
"""Contrastive settings."""


def _contrastive(asked: dict[str, Any]) -> ObjectiveSettings:
    contrastive = {"in_entry_share": None} | asked
    return ObjectiveSettings.model_validate({"contrastive": contrastive, "swamp": {"weight": 0}})


@pytest.mark.parametrize("asked", COMPARED.values(), ids=COMPARED)
def test_products_of_a_comparison_are_counted_exactly(asked: dict[str, Any]) -> None:
    settings = _contrastive(asked)
    step = _step(settings, alone(), 0, 120)
    with FlopCounterMode(display=False) as counter:
        step()
    assert counter.get_total_flops() == step_cost(settings, 120, EACH, DIM, 1).flops["contrastive"]


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


@pytest.mark.parametrize("asked", COMPARED.values(), ids=COMPARED)
def test_a_comparison_holds_the_bytes_of_the_formula(
    asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_CACHED_SCORES", 2**40)  # a tile is judged as a whole, as on a GPU
    monkeypatch.setattr(hardest, "_ROWS_AT_ONCE", 2**40)
    settings, pairs = _contrastive(asked), 600
    step = _step(settings, alone(), 0, pairs)
    with _LiveBytes() as counted:
        step()
    expected = step_cost(settings, pairs, EACH, DIM, 1).memory["comparison"]
    rows = 4 * pairs * DIM  # the batch, its gradient, and vectors of rows and columns
    assert expected - rows <= counted.peak <= 1.1 * expected + 16 * rows


@pytest.mark.parametrize("chunk", [None, 50])
def test_weights_of_negatives_hold_the_bytes_of_the_formula(
    chunk: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "_CACHED_SCORES", 2**40)
    pairs, settings = 600, _settings(**CASES["weighed negatives"]).contrastive
    a, b = functional.normalize(torch.randn(2, pairs, DIM), dim=2)
    q = torch.randn(pairs, PROTOTYPES).softmax(dim=1)
    weights, _ = negative_weights(SoftTargets(q, q, q.new_zeros(()), 1, 0), alone())
    how = compare.Comparison(InfoNce(torch.tensor(10.0)), alone(), 0, chunk, weights)
    leaves = compare.Leaves(b.requires_grad_(), a.requires_grad_(), b.new_empty(0), *torch.zeros(2))
    with _LiveBytes(a, b, q) as counted:
        compare.compare(leaves, how).loss.backward()  # type: ignore[no-untyped-call]
    expected = costs.comparison_bytes(settings, pairs, pairs, DIM, chunk or pairs, True)
    rows = 4 * pairs * DIM
    assert expected - rows <= counted.peak <= 1.1 * expected + 16 * rows


def test_tiles_need_less_memory_than_the_whole_matrix() -> None:
    """The numbers of `swamp show --cost`: 256 GPUs with 256 pairs each."""
    at_once, tiled = (
        sum(step_cost(_contrastive({"chunk": chunk}), 2**16, EACH, 512, 2**8).memory.values())
        for chunk in (None, 1024)
    )
    assert at_once - tiled == 4 * 2 * 256 * (2**16 - 1024)


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


def test_measuring_holds_the_bytes_of_the_formula() -> None:
    plan, dim, peaks = BatchPlan(BATCH, 1, 4, 1), 4096, []
    for every in (1, None):
        torch.manual_seed(0)
        leaves = [torch.randn(n, dim).requires_grad_() for n in (BATCH, BATCH, PROTOTYPES)]
        objective = build_objective(_settings(measure_every=every), plan, dim, torch.device("cpu"))
        ids = torch.arange(BATCH)
        with _LiveBytes(*leaves) as counted:
            terms = objective(PairEmbeddings(*leaves), ids, ids, 0, alone())
            terms.total.backward()  # type: ignore[no-untyped-call]
            objective.measure(terms, alone())
        peaks.append(counted.peak)
    assert 0 < peaks[0] - peaks[1] <= costs.norm_bytes(BATCH, dim)


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


def test_more_ranks_do_less_each() -> None:
    settings = _settings(layout="sharded", weight=0)
    sizes = [1, 2, 4, 12]
    found = [step_cost(settings, BATCH, EACH, DIM, size) for size in sizes]
    rows = [cost.rows for cost in found]
    assert rows == [20, 12, 6, 2]
    assert [cost.flops["solve"] for cost in found] == sorted((c.flops["solve"] for c in found), reverse=True)
    assert all(math.isfinite(cost.sent) and (cost.sent > 0) == (cost.world_size > 1) for cost in found)


@pytest.mark.parametrize("form", ["all", "infonce", "sigmoid", "hardest"])
def test_a_ring_needs_memory_and_bytes_that_do_not_grow_with_the_ranks(form: str) -> None:
    """With 256 pairs per rank, memory stays; a rank sends what a gather and its reduce-scatter would."""
    settings = _contrastive({"form": form, "columns": "ring"})
    gathering = _contrastive({"form": form, "columns": "gathered"})
    few, many = (step_cost(settings, 256 * size, EACH, 512, size) for size in (8, 512))
    assert few.memory == many.memory
    assert many.memory["comparison"] + many.memory["ring"] < 18 * 4 * 256 * 512
    gathered = step_cost(gathering, 256 * 512, EACH, 512, 512)
    laps = {"infonce": 1.5}.get(form, 1.0)
    assert many.sent == pytest.approx(laps * gathered.sent, rel=0.01)
