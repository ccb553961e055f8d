"""The weight by gradient ratio through DeepSpeed: every ZeRO stage, micro-batches, bf16, kills."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swamp_dist.config import EngineSettings, MlpSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from swamp_dist.distributed import World
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, PairBatch
from swamp_dist.train.engine import Engine
from swamp_dist.train.fingerprint import fingerprint
from swamp_dist.train.step import diagnostics, train_step
from tests.ranks import run_on_ranks
from tests.train.test_loop import _assert_same_run, _run
from tests.train.tiny import tiny_stage

PAIRS, DIM, STEPS, EVERY = 32, 8, 6, 2
BY_RATIO = {"weight_as": "gradient_ratio", "gradient_ratio": 0.2, "measure_every": EVERY}
Case = tuple[int, int | None]
"""ZeRO stage and micro-batch."""
Trained = tuple[list[tuple[float, float, float]], dict[str, Tensor]]


def _train(
    world: World, stage: int, micro_batch: int | None, precision: str, swamp: dict[str, Any]
) -> Trained:
    """Loss, weight and effective ratio of each step, and the weights of the model after the last."""
    encoder = MlpSettings(hidden=(16,))
    model = ModelSettings(embedding_dim=DIM, a=encoder, b=encoder)
    dual = build_dual_encoder(model, (10,), (10,), 12, normalize_prototypes=True, seed=0)
    local = PAIRS // world.size
    settings = EngineSettings(zero_stage=stage, micro_batch=micro_batch, precision=precision)  # type: ignore[arg-type]
    engine = Engine(dual, OptimizerSettings(lr=5e-3), settings, local, world)
    queue = {"size": 48, "start_when_filled": 0}
    tree = {"swamp": {"prototypes": 12, "queue": queue, "sinkhorn": {"iterations": 3}} | swamp}
    plan = BatchPlan(PAIRS, 1, PAIRS, world.size)
    objective = build_objective(ObjectiveSettings.model_validate(tree), plan, DIM, world.device)
    rows, curve = slice(world.rank * local, (world.rank + 1) * local), []
    for step in range(STEPS):
        a, noise = torch.randn(2, PAIRS, 10, generator=torch.Generator().manual_seed(step))
        ids = torch.arange(PAIRS)[rows]
        done = train_step(
            engine,
            objective,
            PairBatch(step, ids, ids, a[rows], (a + 0.3 * noise)[rows]),
            learning_rate=5e-3,
            seed=0,
            stop_requested=False,
            keys_of=lambda ids: [],
            world=world,
        )
        figures = diagnostics(done.terms, world)
        ratio = figures.get("swamp/effective_ratio", -1.0)
        curve.append((done.losses["loss/total"], figures["swamp/weight"], ratio))
    return curve, engine.weights()


def _trainings(world: World, cases: list[Case]) -> dict[Case, list[Trained]]:
    """By stage and micro-batch: by ratio, literal and measured, literal and not measured."""
    kinds = (BY_RATIO, {"measure_every": 1}, {"measure_every": None})
    return {case: [_train(world, *case, "fp32", kind) for kind in kinds] for case in cases}


@pytest.fixture(scope="module")
def one_rank() -> list[tuple[float, float, float]]:
    curve, _ = run_on_ranks(_train, 1, 0, None, "fp32", BY_RATIO)[0]
    return curve


ALL = [(stage, size) for stage in range(4) for size in (None, 4)]


@pytest.mark.parametrize("cases", [[(0, 4), (3, None)], pytest.param(ALL, marks=pytest.mark.slow)])
def test_every_stage_and_micro_batches_find_the_same_weight_and_measuring_moves_no_bit(
    cases: list[Case], one_rank: list[tuple[float, float, float]]
) -> None:
    weights = [weight for _, weight, _ in one_rank]
    assert weights[0] == 0.25  # of the settings: nothing is measured yet
    assert len(set(weights)) == 4  # the first two steps measure, then every second one
    found = run_on_ranks(_trainings, 2, cases)[0]
    assert len(found) == len(cases)
    for (by_ratio, _), (watched, after), (unwatched, expected) in found.values():
        torch.testing.assert_close(torch.tensor(by_ratio), torch.tensor(one_rank), rtol=1e-4, atol=1e-5)
        assert [loss for loss, *_ in watched] == [loss for loss, *_ in unwatched]
        assert all(torch.equal(after[name], value) for name, value in expected.items())
        assert min(ratio for *_, ratio in watched) > 0 > max(ratio for *_, ratio in unwatched)


def test_bf16_measures_what_float32_does_but_for_rounding(one_rank: list[tuple[float, float, float]]) -> None:
    curve, _ = run_on_ranks(_train, 2, 1, 4, "bf16", BY_RATIO)[0]
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(one_rank), rtol=0.1, atol=0)
    assert curve[1][1] != one_rank[1][1]


def _figures(folder: Path) -> list[tuple[float | None, float | None]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    names = ("swamp/weight", "swamp/effective_ratio")
    return [tuple(row.get(name) for name in names) for row in rows if "loss/total" in row]  # type: ignore[misc]


def test_only_a_weight_by_ratio_belongs_to_the_steps_that_measure() -> None:
    for kind, belongs in (("literal", False), ("gradient_ratio", True)):
        marks = []
        for every in (4, 8):
            swamp = {"weight_as": kind, "measure_every": every}
            marks.append(fingerprint(tiny_stage(Path("nowhere"), objective__swamp=swamp), "hash"))
        assert (marks[0] != marks[1]) == belongs


def test_a_run_that_stops_between_measurements_is_bit_identical(tiny_shards: Path, tmp_path: Path) -> None:
    swamp = {"weight_as": "gradient_ratio", "measure_every": 4}
    settings = tiny_stage(tiny_shards, objective__swamp=swamp, engine__micro_batch=6)
    run_on_ranks(_run, 2, settings, tmp_path / "whole", [])
    run_on_ranks(_run, 2, settings, tmp_path / "parts", [11], 1)
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")
    assert _figures(tmp_path / "parts") == _figures(tmp_path / "whole")
    weights = [weight for weight, _ in _figures(tmp_path / "whole")]
    assert weights[10] == weights[11] != weights[12]  # measured in step 12, behind the stop after step 11
