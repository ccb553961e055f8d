"""The rows of one tower travel while the other computes, there and back, and no bit depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from swamp_dist.config import EngineSettings, MlpSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from swamp_dist.distributed import World
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.objective.objective import Objective, build_objective
from swamp_dist.records import BatchPlan, PairBatch
from swamp_dist.train.engine import Engine
from swamp_dist.train.step import train_step
from tests.ranks import run_on_ranks

PAIRS, DIM = 16, 8
TREE = {
    "swamp": {
        "prototypes": 5,
        "queue": {"size": 20, "start_when_filled": 0, "layout": "replicated"},
        "sinkhorn": {"iterations": 3},
    }
}


class _Work:
    def __init__(self, work: Any, waited: Callable[[], None], at_once: bool) -> None:
        self._work, self._waited = work, waited
        if at_once:
            work.wait()

    def wait(self) -> None:
        self._work.wait()
        self._waited()


def _watch_collectives(events: list[str], at_once: bool) -> None:
    """Note gathers and sums of embeddings (b, DIM), when they start and when they are waited for."""
    real = {name: getattr(dist, name) for name in ("all_gather_single", "reduce_scatter_single")}

    def watched(name: str, short: str) -> Callable[..., Any]:
        def call(out: Tensor, given: Tensor, **kwargs: Any) -> Any:
            work = real[name](out, given, **kwargs)
            if out.dim() != 2 or out.shape[1] != DIM:
                return work
            events.append(f"{short} starts")
            return _Work(work, lambda: events.append(f"{short} awaited"), at_once)

        return call

    dist.all_gather_single = watched("all_gather_single", "gather")  # type: ignore[assignment]
    dist.reduce_scatter_single = watched("reduce_scatter_single", "sum")  # type: ignore[assignment]


def _watch_towers(engine: Engine, events: list[str]) -> None:
    for name in "ab":
        tower = getattr(engine._engine.module, name)

        def after(module: Any, args: Any, rows: Tensor, name: str = name) -> None:
            events.append(f"tower {name}")
            if rows.requires_grad:
                rows.register_hook(lambda gradient: events.append(f"back through {name}"))

        tower.register_forward_hook(after)


def _run(
    world: World, stage: int, micro_batch: int | None, overlap: bool
) -> tuple[list[str], list[float], dict[str, Tensor]]:
    """Events of the third step, the loss of three and the weights after them."""
    events: list[str] = []
    _watch_collectives(events, at_once=not overlap)
    encoder = MlpSettings(hidden=(16,), dropout=0.3)
    model = ModelSettings(embedding_dim=DIM, a=encoder, b=encoder)
    settings = EngineSettings(zero_stage=stage, micro_batch=micro_batch)  # type: ignore[arg-type]
    dual = build_dual_encoder(model, (10,), (10,), 5, normalize_prototypes=True, seed=0)
    engine = Engine(dual, OptimizerSettings(lr=2e-3), settings, PAIRS // world.size, world)
    plan = BatchPlan(PAIRS, 1, PAIRS, world.size)
    objective = build_objective(ObjectiveSettings.model_validate(TREE), plan, DIM, world.device)
    if not overlap:
        _start_late(objective)
    _watch_towers(engine, events)
    losses = []
    for step in range(3):
        events.clear()
        a, b = torch.randn(2, PAIRS, 10, generator=torch.Generator().manual_seed(step))
        rows = slice(world.rank * 8, (world.rank + 1) * 8)
        batch = PairBatch(step, torch.arange(8), torch.arange(PAIRS)[rows], a[rows], b[rows])
        done = train_step(
            engine,
            objective,
            batch,
            learning_rate=2e-3,
            seed=0,
            stop_requested=False,
            keys_of=lambda ids: [],
            world=world,
        )
        losses.append(done.losses["loss/total"])
    return list(events), losses, engine.weights()


def _start_late(objective: Objective) -> None:
    """No gather before both towers are done."""
    start, calls = objective.start_columns, [0]

    def late(rows: Tensor, world: World, side: Literal["a", "b"] = "a") -> Any:
        calls[0] += 1
        return None if calls[0] % 3 == 1 else start(rows, world, side)

    objective.start_columns = late  # type: ignore[method-assign]


def _runs(world: World, stage: int) -> list[Any]:
    real = dist.all_gather_single, dist.reduce_scatter_single
    found = []
    for micro_batch, overlap in ((None, True), (None, False), (4, True)):
        found.append(_run(world, stage, micro_batch, overlap))
        dist.all_gather_single, dist.reduce_scatter_single = real
    return found


@pytest.mark.parametrize("stage", [0, 3])
def test_rows_travel_while_the_other_tower_computes_and_change_no_bit(stage: int) -> None:
    for overlapped, at_once, cached in run_on_ranks(_runs, 2, stage):
        assert overlapped[0] == [
            *("tower a", "gather starts", "tower b", "gather starts", "gather awaited", "gather awaited"),
            *("sum starts", "back through b", "sum awaited", "back through a"),
        ]
        assert at_once[0][:4] == ["tower a", "tower b", "gather starts", "gather starts"]
        assert overlapped[1] == at_once[1]
        assert overlapped[2].keys() == at_once[2].keys()
        assert all(torch.equal(weight, at_once[2][name]) for name, weight in overlapped[2].items())
        # Micro-batches, one gather per modality, micro-batches again; other masks, so other losses.
        assert cached[0][:8] == [*["tower a", "tower b"] * 2, *["gather starts"] * 2, *["gather awaited"] * 2]
        assert cached[0][8:10] == ["sum starts", "sum awaited"]
        assert cached[0].count("back through a") == 2
        assert cached[1][0] == pytest.approx(at_once[1][0], rel=0.2)
