"""A learned logit scale and bias through the engine, the gradient cache, a resume and the next stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swamp_dist.config import EngineSettings, MlpSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from swamp_dist.distributed import World
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan
from swamp_dist.stage.build import logit_start
from swamp_dist.train.engine import Engine
from swamp_dist.train.step import train_step
from tests.ranks import run_on_ranks
from tests.train.test_gradient_cache import PAIRS, _batches
from tests.train.test_loop import _assert_same_run, _run
from tests.train.tiny import tiny_stage

LOGITS = ("logits.log_scale", "logits.bias")


def _train(
    world: World, form: str, stage: int, micro_batch: int | None
) -> tuple[list[float], dict[str, Any]]:
    """Losses and final weights of six steps."""
    tree = {"contrastive": {"form": form, "learn_temperature": True, "chunk": 7}, "swamp": {"weight": 0}}
    objective = ObjectiveSettings.model_validate(tree)
    encoder = MlpSettings(hidden=(16,))
    model = build_dual_encoder(
        ModelSettings(embedding_dim=8, a=encoder, b=encoder), (10,), (10,), None,
        normalize_prototypes=True, seed=0, logits=logit_start(objective.contrastive),
    )  # fmt: skip
    settings = EngineSettings(zero_stage=stage, micro_batch=micro_batch)  # type: ignore[arg-type]
    engine = Engine(model, OptimizerSettings(lr=2e-3), settings, PAIRS // world.size, world)
    plan = BatchPlan(entries=PAIRS, pairs_per_entry=1, lanes=PAIRS, world_size=world.size)
    compute = build_objective(objective, plan, 8, world.device, rank=world.rank)
    losses = [
        train_step(
            engine, compute, batch, learning_rate=2e-3, seed=0, stop_requested=False,
            keys_of=lambda ids: [], world=world,
        ).losses["loss/total"]
        for batch in _batches(6, world)
    ]  # fmt: skip
    return losses, engine.weights()


def _every_layout(world: World, form: str) -> list[tuple[list[float], dict[str, Any]]]:
    layouts = [(0, None), (1, 4), (2, None), (3, 4)]
    return [_train(world, form, stage, micro_batch) for stage, micro_batch in layouts]


@pytest.mark.parametrize("form", ["infonce", "sigmoid"])
def test_every_stage_and_the_cache_learn_the_logits_of_one_process(form: str) -> None:
    losses, weights = run_on_ranks(_train, 1, form, 0, None)[0]
    start = {"logits.log_scale": torch.tensor(10.0).log(), "logits.bias": torch.tensor(-10.0)}
    for name in LOGITS[: 1 if form == "infonce" else 2]:
        assert abs(float(weights[name]) - float(start[name])) > 5e-3  # it moves, by six steps of 2e-3
    for found, others in run_on_ranks(_every_layout, 2, form)[0]:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(losses), rtol=1e-5, atol=0)
        torch.testing.assert_close(others, weights, rtol=0, atol=2e-5)


def test_a_resume_is_bit_identical_and_the_next_stage_takes_the_logits(
    tiny_shards: Path, tmp_path: Path
) -> None:
    contrastive = {"form": "sigmoid", "learn_temperature": True}
    settings = tiny_stage(tiny_shards, objective__contrastive=contrastive, evaluate=[])
    run_on_ranks(_run, 2, settings, tmp_path / "whole", [])
    run_on_ranks(_run, 2, settings, tmp_path / "parts", [11], 1)
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    scales = [row["contrastive/logit_scale"] for row in rows if "contrastive/logit_scale" in row]
    assert scales[0] == pytest.approx(10.0, rel=1e-6)
    assert len(set(scales)) > 20
    learned = load_file(tmp_path / "whole" / "weights.safetensors")

    changes: dict[str, Any] = {"train__init_from": str(tmp_path / "whole"), "train__epochs": 1}
    changes |= {"train__optimizer__lr": 1e-12, "train__schedule": {"kind": "constant"}, "evaluate": []}
    changes |= {"train__validate_on": None, "train__select": "last"}
    after = tiny_stage(tiny_shards, objective__contrastive=contrastive, **changes)
    run_on_ranks(_run, 1, after, tmp_path / "next", [])
    taken = load_file(tmp_path / "next" / "weights.safetensors")
    assert all(abs(float(taken[name]) - float(learned[name])) < 1e-5 for name in LOGITS)
    hinge = tiny_stage(tiny_shards, **changes)
    run_on_ranks(_run, 1, hinge, tmp_path / "hinge", [])
    assert not any(name in load_file(tmp_path / "hinge" / "weights.safetensors") for name in LOGITS)
