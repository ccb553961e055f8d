"""The engine's formulas against what DeepSpeed holds."""

from __future__ import annotations

import math
from typing import Any

import torch

from swamp_dist.config import EngineSettings, GatedSettings, MlpSettings, ModelSettings, OptimizerSettings
from swamp_dist.distributed import World
from swamp_dist.model.costs import ZERO_3_KEPT, engine_bytes, engine_traffic
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.train.engine import Engine
from tests.ranks import run_on_ranks


def _held(world: World, stage: int) -> tuple[int, dict[str, int]]:
    """Parameters, and the bytes of a rank after a step."""
    model = ModelSettings(embedding_dim=64, a=GatedSettings(), b=MlpSettings(hidden=(48,)))
    encoder = build_dual_encoder(model, (40,), (50,), 32, normalize_prototypes=True, seed=0)
    parameters = sum(p.numel() for p in encoder.parameters())
    settings = EngineSettings.model_validate({"zero_stage": stage})
    engine = Engine(encoder, OptimizerSettings(), settings, 4, world)
    found = engine.embed_pairs(torch.randn(4, 40), torch.randn(4, 50))
    assert found.prototypes is not None
    engine.backward(found.a.sum() + found.b.sum() + found.prototypes[0].sum())
    engine.step(1e-3)
    deepspeed: Any = engine._engine
    inner = deepspeed.optimizer.optimizer if stage else deepspeed.optimizer
    moments = [x for state in inner.state.values() for x in state.values() if x.numel() > 1]
    groups = [group["params"] for group in inner.param_groups] if stage in (1, 2) else []
    masters = deepspeed.optimizer.fp32_partitioned_groups_flat if stage == 3 else sum(groups, [])
    weights = [p.ds_tensor if stage == 3 else p for p in deepspeed.module.parameters()]
    return parameters, {
        "weights": sum(x.nbytes for x in weights),
        "optimiser": sum(x.nbytes for x in [*moments, *masters]),
    }


def _held_at_every_stage(world: World) -> list[tuple[int, dict[str, int]]]:
    return [_held(world, stage) for stage in range(4)]


def test_the_engine_holds_the_bytes_of_the_formula() -> None:
    for by_stage in run_on_ranks(_held_at_every_stage, 2):
        for stage, (parameters, held) in enumerate(by_stage):
            expected = engine_bytes(parameters, 2, stage)
            for what, size in held.items():
                assert math.isclose(size, expected[what], rel_tol=0.01), (stage, what, size, expected[what])


def test_bytes_sent_by_stage() -> None:
    assert engine_traffic(1000, 4, 0) == {"gradients": 6000}
    assert engine_traffic(1000, 4, 1) == engine_traffic(1000, 4, 2) == {"gradients": 6000, "weights": 3000}
    assert engine_traffic(1000, 4, 3, frozen=400) == {"gradients": 3000, "weights": 3000 + 1200}
    large = ZERO_3_KEPT + 4
    assert engine_traffic(large, 4, 3) == {"gradients": 3 * large, "weights": 6 * large}
    assert sum(engine_traffic(1000, 1, 3).values()) == 0
    assert engine_bytes(1000, 4, 2) == {"weights": 4000, "gradients": 1000, "optimiser": 3000}
