"""Frozen parts and learning rates of encoders' own, through every ZeRO stage, a resume and another layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from swamp_dist.config import EngineSettings, MlpSettings, ModelSettings, OptimizerSettings
from swamp_dist.distributed import World, barrier, on_main
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.model.logits import LogitStart
from swamp_dist.records import PairEmbeddings
from swamp_dist.train.engine import Engine
from swamp_dist.train.engine_parameters import FACTOR, parameter_groups
from tests.ranks import run_on_ranks

RATE = 1e-2
FROZEN = ("a.layers.0.weight", "a.layers.0.bias")


def _model(seed: int, factors: tuple[float, float] = (0.1, 1.0), freeze: bool = True) -> DualEncoder:
    """The first layer of a frozen, a learning rate of its own for the rest of a."""
    a = MlpSettings(hidden=(5,), learning_rate_factor=factors[0])
    b = MlpSettings(hidden=(11,), learning_rate_factor=factors[1])
    model = build_dual_encoder(
        ModelSettings(embedding_dim=3, a=a, b=b), (7,), (5,), 3, True, seed, LogitStart(5.0, -3.0, True)
    )
    if freeze:
        model.a.layers[0].requires_grad_(False)  # type: ignore[index, union-attr]
    return model


def _engine(world: World, stage: int, seed: int = 0, precision: str = "fp32", freeze: bool = True) -> Engine:
    settings = EngineSettings(zero_stage=stage, precision=precision)  # type: ignore[arg-type]
    return Engine(
        _model(seed, freeze=freeze), OptimizerSettings(lr=RATE, weight_decay=0.1), settings, 2, world
    )


def _step(engine: Engine, world: World, number: int) -> None:
    """The same four pairs on any number of ranks up to four."""
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(4, 7, generator=generator), torch.randn(4, 5, generator=generator)
    mine = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
    rows = engine.embed_pairs(*(x[mine] for x in inputs))
    engine.backward(_loss(rows))
    engine.step(RATE)


def _loss(rows: PairEmbeddings) -> Tensor:
    """A mean over pairs that reaches every parameter."""
    assert rows.prototypes is not None
    assert rows.logit_scale is not None
    logits = (rows.a * rows.b).sum(1) * rows.logit_scale + rows.logit_bias
    return (logits.square() + (rows.a @ rows.prototypes.T).square().sum(1)).mean()


def _reference(steps: int) -> dict[str, Tensor]:
    """Plain AdamW with a group for every factor, on the whole batch."""
    model = _model(0)
    with torch.no_grad():
        before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.a.parameters() if p.requires_grad], "lr": RATE / 10},
            {"params": [*model.b.parameters(), model.prototypes.weight]},  # type: ignore[union-attr]
            {"params": model.logits.parameters(), "weight_decay": 0.0},  # type: ignore[union-attr]
        ],
        lr=RATE,
        weight_decay=0.1,
    )
    for number in range(steps):
        generator = torch.Generator().manual_seed(number)
        rows = model(torch.randn(4, 7, generator=generator), torch.randn(4, 5, generator=generator))
        optimizer.zero_grad()
        _loss(rows).backward()
        optimizer.step()
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) == (name in FROZEN) for name in before)
    return after


def _trained(world: World, stages: list[int]) -> list[tuple[int, dict[str, Tensor]]]:
    found = []
    for stage in stages:
        engine = _engine(world, stage)
        for number in range(3):
            _step(engine, world, number)
        found.append((engine.num_parameters, engine.weights()))
    return found


def test_every_stage_takes_the_steps_of_plain_adam_with_groups() -> None:
    expected = _reference(3)
    trained = sum(p.numel() for p in _model(0).parameters() if p.requires_grad)
    for count, weights in run_on_ranks(_trained, 2, [0, 1, 2, 3])[0]:
        assert count == trained
        torch.testing.assert_close(weights, dict(expected), rtol=0, atol=2e-6)


def test_neighbours_of_one_factor_share_a_group_and_frozen_parameters_are_in_none() -> None:
    def groups(factors: tuple[float, float]) -> list[tuple[float, int]]:
        return [(g[FACTOR], len(g["params"])) for g in parameter_groups(_model(0, factors))]

    assert groups((1.0, 1.0)) == [(1.0, 2 + 4 + 1), (1.0, 2)]
    assert groups((0.1, 1.0)) == [(0.1, 2), (1.0, 4 + 1), (1.0, 2)]
    assert groups((0.1, 0.1)) == [(0.1, 2 + 4), (1.0, 1), (1.0, 2)]
    assert groups((1.0, 0.5)) == [(1.0, 2), (0.5, 4), (1.0, 1), (1.0, 2)]
    model = _model(0)
    model.a.requires_grad_(False)
    assert [len(g["params"]) for g in parameter_groups(model)] == [4 + 1, 2]


def _save(world: World, folder: Path, stages: list[int], precision: str) -> None:
    for stage in stages:
        engine, committed = _engine(world, stage, 0, precision), folder / f"{world.size}-{stage}"
        for number in range(3):
            _step(engine, world, number)
        on_main(world, lambda committed=committed: committed.mkdir(parents=True))  # type: ignore[misc]
        engine.save(committed)
        weights = engine.weights()
        _step(engine, world, 3)
        after = engine.weights()
        on_main(world, lambda c=committed, w=(weights, after): torch.save(w, c / "weights.pt"))  # type: ignore[misc]


def _load(
    world: World, folder: Path, sources: list[tuple[int, int]], stages: list[int], precision: str
) -> list[str]:
    """Load each source at each stage into other weights and go on; what differs from who was not stopped."""
    wrong = []
    for source in sources:
        for stage in stages:
            engine, committed = _engine(world, stage, 1, precision), folder / f"{source[0]}-{source[1]}"
            same_layout = source == (world.size, stage)
            if same_layout:
                engine.load(committed)
            else:
                engine.load_resharded(committed, source[1], source[0])
            saved, after = torch.load(committed / "weights.pt", weights_only=True)
            loaded = engine.weights()
            _step(engine, world, 3)
            went_on = engine.weights()
            barrier(world)
            rounding = 0.0 if same_layout else (1e-2 if precision == "bf16" else 2e-6)
            wrong += [f"{source} -> {stage}: {n}" for n, x in loaded.items() if not torch.equal(x, saved[n])]
            wrong += [
                f"{source} -> {stage}, a step on: {n}"
                for n, x in went_on.items()
                if float((x - after[n]).abs().max()) > rounding
            ]
    return wrong


def _save_and_load(world: World, folder: Path) -> tuple[list[str], str]:
    _save(world, folder, [0, 3], "fp32")
    barrier(world)
    return _load(world, folder, [(2, 0), (2, 3)], [0, 1, 3], "fp32"), _refusal(world, folder)


def _refusal(world: World, folder: Path) -> str:
    """What a training that freezes nothing is told about a checkpoint of one that does."""
    try:
        _engine(world, 1, 1, freeze=False).load_resharded(folder / "2-0", 0, 2)
    except UserError as error:
        return str(error)
    return ""


def test_checkpoints_with_frozen_parts_go_on_bit_by_bit_and_at_other_stages(tmp_path: Path) -> None:
    for wrong, refusal in run_on_ranks(_save_and_load, 2, tmp_path):
        assert wrong == []
        assert "cannot be dealt" in refusal


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpoints_with_frozen_parts_go_between_all_layouts(tmp_path: Path, precision: str) -> None:
    for size in (1, 2, 4):
        run_on_ranks(_save, size, tmp_path, [0, 1, 2, 3], precision)
    sources = [(size, stage) for size in (1, 2, 4) for stage in range(4)]
    for size in (1, 2, 4):
        assert run_on_ranks(_load, size, tmp_path, sources, [0, 1, 2, 3], precision)[0] == []
