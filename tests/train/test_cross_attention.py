"""Training by cross attention: any world size and ZeRO stage go the way of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from swamp_dist.config import (
    CrossAttentionSettings,
    EngineSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
)
from swamp_dist.distributed import World
from swamp_dist.model.cross_attention import pair_score
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.objective.set_objective import SetObjective
from swamp_dist.records import BatchPlan
from swamp_dist.train.engine import Engine
from swamp_dist.train.step import train_step
from tests.ranks import run_on_ranks
from tests.train.set_batches import DIM, PAIRS, SPECS, batches
from tests.train.set_batches import settings as par_settings

SETS = CrossAttentionSettings(queries="b", softmax_scale=4.0, aggregate="lse")
OBJECTIVE = ObjectiveSettings.model_validate(
    {"contrastive": {"form": "hardest", "reduction": "sum", "all_negatives_steps": 1}, "swamp": {"weight": 0}}
)
STEPS = 4


def settings() -> ModelSettings:
    return par_settings().model_copy(update={"sets": SETS})


def model() -> DualEncoder:
    return build_dual_encoder(settings(), *SPECS, None, normalize_prototypes=True, seed=0)


def trained(world: World, stage: int, precision: Any = "fp32") -> tuple[list[float], Any]:
    """Losses and final weights through engine and step."""
    engine_settings = EngineSettings(zero_stage=stage, precision=precision)  # type: ignore[arg-type]
    engine = Engine(model(), OptimizerSettings(lr=3e-3), engine_settings, PAIRS // world.size, world)
    score = pair_score(settings())
    assert score is not None
    objective = SetObjective(OBJECTIVE, BatchPlan(PAIRS, 1, PAIRS, world.size), score)
    losses = []
    for batch in batches(STEPS, world):
        done = train_step(
            engine, objective, batch, learning_rate=3e-3, seed=0, stop_requested=False,
            keys_of=lambda ids: [], world=world,
        )  # fmt: skip
        losses.append(done.losses["loss/total"])
    return losses, engine.weights()


def every_stage(world: World) -> Any:
    return {stage: trained(world, stage) for stage in range(4)} | {"bf16": trained(world, 1, "bf16")}


@pytest.fixture(scope="module")
def one_rank() -> Any:
    return run_on_ranks(trained, 1, 0)[0]


def test_every_stage_trains_alike(one_rank: Any) -> None:
    losses, weights = one_rank
    assert len(weights["a.fc.weight"]) == DIM
    start = model().state_dict()
    mine, others = run_on_ranks(every_stage, 2)
    for case, (own, moved) in mine.items():
        assert own == others[case][0]
        assert own == pytest.approx(losses, rel=0.05 if case == "bf16" else 1e-4)
        for name, value in weights.items():
            theirs, ours = moved[name] - start[name], value - start[name]
            assert float(ours.abs().max()) > 1e-3, f"{name} was not trained"
            cosine = torch.nn.functional.cosine_similarity(theirs.flatten(), ours.flatten(), dim=0)
            assert float(cosine) > (0.8 if case == "bf16" else 0.999), (case, name)
