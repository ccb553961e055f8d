"""What a whole step sends, engine and objective together, against the formulas: at a thousand ranks too."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

from swamp_dist.config import EngineSettings, MlpSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from swamp_dist.distributed import World, leave
from swamp_dist.model.costs import engine_traffic
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.objective.costs import Collective
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.step_cost import step_cost
from swamp_dist.records import BatchPlan
from swamp_dist.train.engine import Engine
from tests.ranks import free_port, run_on_ranks
from tests.traffic import Traffic, claim_world

EACH, DIM, WIDTH, PROTOTYPES = 2, 64, 512, 128
FORMS = ("all", "hardest", "infonce", "sigmoid")
CASES = [(form, layout) for form in FORMS for layout in ("replicated", "sharded")]

Calls = list[tuple[str, int]]
Step = tuple[Calls, Calls, Calls, Calls]
"""Collectives of the encoders, of the objective, of the backward pass and of the update."""


def _objective(form: str, layout: str, pairs: int) -> ObjectiveSettings:
    queue = {"size": pairs, "start_when_filled": 0, "layout": layout}
    swamp = {"prototypes": PROTOTYPES, "queue": queue, "sinkhorn": {"iterations": 3}}
    return ObjectiveSettings.model_validate({"contrastive": {"form": form}, "swamp": swamp})


def _steps(_: World, size: int, rank: int, stage: int) -> tuple[int, dict[tuple[str, str], Step]]:
    """Parameters, and of every form and layout the collectives of a step, the last of several: DeepSpeed
    learns in the first ones in which order parameters are used."""
    leave()  # this process becomes a rank of a world that is not there
    os.environ.update(RANK=f"{rank}", WORLD_SIZE=f"{size}", LOCAL_RANK="0", MASTER_PORT=f"{free_port()}")
    model = ModelSettings(embedding_dim=DIM, a=MlpSettings(hidden=(WIDTH,)), b=MlpSettings(hidden=(WIDTH,)))
    encoder = build_dual_encoder(model, (WIDTH,), (WIDTH,), PROTOTYPES, normalize_prototypes=True, seed=0)
    settings = EngineSettings.model_validate({"zero_stage": stage})
    pairs, found = EACH * size, {}
    with claim_world(size, rank) as world:
        engine = Engine(encoder, OptimizerSettings(clip_norm=1.0), settings, EACH, world)
        plan = BatchPlan(entries=pairs, pairs_per_entry=1, lanes=size, world_size=size)
        for form, layout in CASES:
            objective = build_objective(_objective(form, layout, pairs), plan, DIM, world.device, rank=rank)
            for number in range(2 if found else 4):
                found[form, layout] = _step(engine, objective, number, world)
        return engine.num_parameters, found


def _step(engine: Engine, objective: Any, number: int, world: World) -> Step:
    ids = torch.arange(EACH * world.rank, EACH * (world.rank + 1))
    with Traffic() as encoders:
        pairs = engine.embed_pairs(torch.randn(EACH, WIDTH), torch.randn(EACH, WIDTH))
    with Traffic() as losses:
        terms = objective(pairs, ids, ids, number, world)
    with Traffic() as backward:
        engine.backward(terms.total)
    with Traffic() as update:
        engine.step(1e-3)
    return encoders.calls, losses.calls, backward.calls, update.calls


@pytest.mark.parametrize(("size", "stages"), [
    (1024, (2, 3)),
    pytest.param(8, (0, 1, 2, 3), marks=pytest.mark.slow),
    pytest.param(1024, (0, 1), marks=pytest.mark.slow),
])  # fmt: skip
def test_a_step_sends_what_the_formulas_say(size: int, stages: tuple[int, ...]) -> None:
    pairs = EACH * size
    for stage in stages:
        # At stage 3 DeepSpeed compares ranks with rank 0, which only rank 0 of a claimed world can be.
        rank = 0 if stage == 3 else size // 2 + 1
        parameters, found = run_on_ranks(_steps, 1, size, rank, stage)[0]
        for (form, layout), (encoders, losses, backward, update) in found.items():
            cost = step_cost(_objective(form, layout, pairs), pairs, 1, DIM, size, on_gpu=False)
            expected = [(each.kind, each.payload) for each in cost.collectives if each.every == 1]
            own = len(expected) - len(losses)
            assert losses + backward[:own] == expected, (stage, form, layout)
            of_engine = [*encoders, *backward[own:], *update]
            sent = sum(Collective(kind, "", payload).sent(size) for kind, payload in of_engine)
            counted = sum(engine_traffic(parameters, size, stage).values())
            # Parts are filled up to a multiple of the ranks, and a norm of the gradients is summed.
            assert counted <= sent <= 1.02 * counted, (stage, form, layout, sent, counted)
