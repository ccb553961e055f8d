"""Fused Adam: the update of the formula, and a resumed run with the bits of one that never stopped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swamp_dist.config import EngineSettings, MlpSettings, ModelSettings, OptimizerSettings
from swamp_dist.distributed import World, on_main
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.train.engine import Engine
from swamp_dist.train.engine_parameters import make_optimizer
from tests.ranks import run_on_ranks

RATE = 1e-2


def _model() -> DualEncoder:
    model = ModelSettings(embedding_dim=8, a=MlpSettings(hidden=(16,)), b=MlpSettings(hidden=(16,)))
    return build_dual_encoder(model, (10,), (10,), 12, normalize_prototypes=True, seed=0)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("fused", [False, True])
def test_an_update_is_that_of_the_formula(fused: bool, decay: float) -> None:
    model = _model()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(OptimizerSettings(lr=RATE, weight_decay=decay, fused=fused), model)
    assert bool(optimizer.defaults["fused"]) is fused
    whole = [p.detach().double().clone() for p in parameters]
    first, second = ([torch.zeros_like(w) for w in whole] for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 5):
        for parameter, w, m, v in zip(parameters, whole, first, second, strict=True):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            g = parameter.grad.double()
            m.mul_(0.9).add_(g, alpha=0.1)
            v.mul_(0.999).add_(g * g, alpha=0.001)
            w.mul_(1 - RATE * decay)
            w -= RATE * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        optimizer.step()
    for parameter, w in zip(parameters, whole, strict=True):
        torch.testing.assert_close(parameter.detach().double(), w, rtol=1e-5, atol=1e-6)


def _engine(world: World, stage: int) -> Engine:
    settings = EngineSettings(zero_stage=stage)  # type: ignore[arg-type]
    return Engine(_model(), OptimizerSettings(fused=True), settings, 12, world)


def _train(engine: Engine, steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        a, b = torch.randn(2, 12, 10, generator=generator)
        given: Any = engine.embed_pairs(a, b)
        engine.backward((given.a - given.b).square().sum() + given.prototypes.sum())
        engine.step(RATE)


def _resumed(world: World, folder: Path) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    found = []
    for stage in (0, 1):
        whole = _engine(world, stage)
        _train(whole, range(3))
        committed = folder / str(stage)
        on_main(world, lambda committed=committed: committed.mkdir())  # type: ignore[misc]
        whole.save(committed)
        _train(whole, range(3, 6))
        again = _engine(world, stage)
        again.load(committed)
        _train(again, range(3, 6))
        found.append((whole.weights(), again.weights()))
    return found


def test_a_resumed_run_has_the_bits_of_one_that_never_stopped(tmp_path: Path) -> None:
    for whole, again in run_on_ranks(_resumed, 1, tmp_path)[0]:
        assert whole.keys() == again.keys()
        assert all(math.isfinite(float(value.sum())) for value in whole.values())
        for name, value in whole.items():
            assert torch.equal(value, again[name]), name
