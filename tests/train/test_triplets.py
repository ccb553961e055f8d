"""Triplets, heads and SGD through DeepSpeed: layouts and micro-batches agree, momentum goes to any layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from swamp_dist.config import (
    ContrastiveSettings,
    DomainSettings,
    Doodle2SearchSettings,
    EngineSettings,
    MlpSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
    QueueSettings,
    SemanticSettings,
    SinkhornSettings,
    SwampSettings,
    TripletSettings,
)
from swamp_dist.distributed import World, on_main
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, PairBatch, Reversals
from swamp_dist.train.engine import Engine
from swamp_dist.train.step import train_step
from tests.ranks import run_on_ranks

PAIRS, WIDTH, DIM, WORDS, CLASSES, RATE = 8, 10, 6, 4, 5, 0.02
SGD = OptimizerSettings(kind="sgd", lr=RATE, weight_decay=0.01)


def _model() -> DualEncoder:
    encoder = MlpSettings(hidden=(7,))
    asked = ModelSettings(
        embedding_dim=DIM,
        length="free",
        a=encoder,
        b=encoder,
        doodle2search=Doodle2SearchSettings(word_hidden=5, domain_hidden=3, dropout=0),
    )
    return build_dual_encoder(asked, (WIDTH,), (WIDTH,), 6, True, 0, word_dim=WORDS)


def _objective(domain: float) -> ObjectiveSettings:
    swamp = SwampSettings(
        weight=0.1, prototypes=6, temperature=0.25, queue=QueueSettings(size=16, start_when_filled=0),
        sinkhorn=SinkhornSettings(iterations=3),
    )  # fmt: skip
    return ObjectiveSettings(
        contrastive=ContrastiveSettings(weight=0),
        swamp=swamp,
        triplet=TripletSettings(weight=1),
        semantic=SemanticSettings(weight=0.5),
        domain=DomainSettings(weight=domain),
    )


def _batches(steps: int, world: World) -> Iterator[PairBatch]:
    local = PAIRS // world.size
    rows = slice(world.rank * local, (world.rank + 1) * local)
    ids = torch.arange(PAIRS)[rows]
    for step in range(steps):
        data = torch.randn(3, PAIRS, WIDTH, generator=torch.Generator().manual_seed(step))
        a, b, negatives = data[:, rows]
        yield PairBatch(step, ids, ids, a, b, labels=ids % CLASSES, negatives=negatives)


def _engine(world: World, stage: int, micro_batch: int | None = None) -> Engine:
    settings = EngineSettings(zero_stage=stage, micro_batch=micro_batch)  # type: ignore[arg-type]
    return Engine(_model(), SGD, settings, PAIRS // world.size, world)


def _train(engine: Engine, world: World, steps: int, first: int = 0, domain: float = 0.5) -> list[float]:
    plan = BatchPlan(PAIRS, 1, PAIRS, world.size)
    objective = build_objective(_objective(domain), plan, DIM, world.device, rank=world.rank)
    objective.class_vectors = torch.randn(CLASSES, WORDS, generator=torch.Generator().manual_seed(99))
    return [
        train_step(
            engine,
            objective,
            batch,
            learning_rate=RATE,
            seed=0,
            stop_requested=False,
            keys_of=lambda ids: [],
            world=world,
            reversals=Reversals(0.5, 0.3),
        ).losses["loss/total"]
        for batch in list(_batches(first + steps, world))[first:]
    ]


def _trained(
    world: World, layouts: list[tuple[int, int | None]], domain: float
) -> list[tuple[list[float], dict[str, Tensor]]]:
    found = []
    for stage, micro_batch in layouts:
        engine = _engine(world, stage, micro_batch)
        found.append((_train(engine, world, 4, domain=domain), engine.weights()))
    return found


@pytest.mark.parametrize("domain", [0.5, 0.0])
def test_stages_ranks_and_micro_batches_agree(domain: float) -> None:
    ((curve, weights),) = run_on_ranks(_trained, 1, [(0, None)], domain)[0]
    alone = run_on_ranks(_trained, 1, [(0, 2)], domain)[0]
    layouts: list[tuple[int, int | None]] = [(0, None), (1, 2), (2, None), (3, 2)]
    for found, held in [*alone, *run_on_ranks(_trained, 2, layouts, domain)[0]]:
        assert found == pytest.approx(curve, rel=1e-5)
        for name, value in weights.items():
            torch.testing.assert_close(held[name], value, rtol=1e-4, atol=1e-5)


def _descended(world: World, stage: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of three steps of the engine, and of the formula on the same gradients."""
    engine, dual = _engine(world, stage), _model()
    reference = {name: p.detach().clone() for name, p in dual.named_parameters()}
    velocity = {name: torch.zeros_like(p) for name, p in reference.items()}
    for batch in _batches(3, world):
        for held, run in ((dual, None), (None, engine)):
            rows = (held or run.embed_pairs)(batch.a, batch.b)  # type: ignore[union-attr]
            loss = (rows.free_a * rows.b).sum() + rows.prototypes[:, 0].sum()
            if held is not None:
                held.zero_grad()
                loss.backward()
            else:
                engine.backward(loss)
        engine.step(RATE)
        for name, parameter in dual.named_parameters():
            found = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            whole = found + 0.01 * reference[name]
            velocity[name] = 0.9 * velocity[name] + whole
            reference[name] = reference[name] - RATE * (whole + 0.9 * velocity[name])
            parameter.data.copy_(reference[name])
    return engine.weights(), reference


def test_sgd_is_nesterovs() -> None:
    weights, reference = run_on_ranks(_descended, 1, 0)[0]
    for name, value in reference.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-5, atol=1e-6)


def _save(world: World, folder: Path, stages: list[int]) -> None:
    for stage in stages:
        engine = _engine(world, stage)
        _train(engine, world, 3)
        committed = folder / f"{world.size}-{stage}"
        on_main(world, lambda committed=committed: committed.mkdir())  # type: ignore[misc]
        engine.save(committed)


def _go_on(world: World, folder: Path, layout: tuple[int, int], stages: list[int]) -> list[dict[str, Tensor]]:
    found = []
    for stage in stages:
        engine = _engine(world, stage)
        engine.load_resharded(folder / f"{layout[0]}-{layout[1]}", layout[1], layout[0])
        _train(engine, world, 2, first=3)
        found.append(engine.weights())
    return found


@pytest.mark.slow
def test_momentum_goes_along_to_any_layout(tmp_path: Path) -> None:
    run_on_ranks(_save, 2, tmp_path, [0, 2, 3])
    expected = run_on_ranks(_go_on, 2, tmp_path, (2, 0), [0])[0][0]
    fresh = run_on_ranks(_trained, 1, [(0, None)], 0.5)[0][0][1]
    assert any(not torch.allclose(fresh[name], expected[name]) for name in expected)
    for layout in ((2, 2), (2, 3)):
        for size in (1, 2):
            for weights in run_on_ranks(_go_on, size, tmp_path, layout, [0, 1, 3])[0]:
                for name, value in expected.items():
                    torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
