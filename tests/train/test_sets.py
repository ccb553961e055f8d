"""Training over sets: any world size, ZeRO stage, micro-batch and bf16 go the way of one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from swamp_dist.config import EngineSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from swamp_dist.distributed import World, alone, sum_over_ranks
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, InputSpec, PairEmbeddings, Sets, Tokens
from swamp_dist.train.engine import Engine
from swamp_dist.train.step import train_step
from tests.ranks import run_on_ranks
from tests.train.set_batches import DIM, GRU, PAIRS, SPECS, batches, model, settings

OBJECTIVE = ObjectiveSettings.model_validate(
    {"contrastive": {"form": "hardest", "reduction": "sum"},
     "swamp": {"prototypes": 5, "queue": {"size": 48, "start_when_filled": 0}, "sinkhorn": {"iterations": 3}}}
)  # fmt: skip
STEPS = 4


def _plan(world: World) -> BatchPlan:
    return BatchPlan(PAIRS, 1, PAIRS, world.size)


def _float64(world: World) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and final weights of Adam without an engine, gradients averaged by hand."""
    dual = model().double()
    objective = build_objective(OBJECTIVE, _plan(world), DIM, world.device, torch.float64, world.rank)
    optimizer, losses = torch.optim.Adam(dual.parameters(), lr=3e-3), []
    for batch in batches(STEPS, world, torch.float64):
        optimizer.zero_grad()
        found = dual(batch.a, batch.b)
        assert isinstance(found, PairEmbeddings)
        loss = objective(found, batch.ids, batch.entries, batch.step, world).total
        loss.backward()
        for p in dual.parameters():
            assert p.grad is not None
            p.grad.copy_(sum_over_ranks(p.grad, world) / world.size)
        losses.append(sum_over_ranks(loss.detach().reshape(1), world) / world.size)
        optimizer.step()
    return torch.cat(losses), {name: value.detach() for name, value in dual.named_parameters()}


def _train(world: World, stage: int, micro: int | None, precision: Any = "fp32") -> tuple[list[float], Any]:
    """Losses and final weights through engine and step."""
    engine_settings = EngineSettings(zero_stage=stage, precision=precision, micro_batch=micro)  # type: ignore[arg-type]
    optimizer = OptimizerSettings(lr=3e-3, clip_norm=2.0)
    engine = Engine(model(), optimizer, engine_settings, PAIRS // world.size, world)
    objective = build_objective(OBJECTIVE, _plan(world), DIM, world.device, rank=world.rank)
    losses = []
    for batch in batches(STEPS, world):
        done = train_step(
            engine, objective, batch, learning_rate=3e-3, seed=0, stop_requested=False,
            keys_of=lambda ids: [], world=world,
        )  # fmt: skip
        losses.append(done.losses["loss/total"])
    return losses, engine.weights()


CASES: dict[str, tuple[int, int | None, str]] = {
    "stage 0": (0, None, "fp32"),
    "stage 0, cached": (0, 3, "fp32"),
    "stage 1": (1, None, "fp32"),
    "stage 2, cached": (2, 4, "fp32"),
    "stage 3": (3, None, "fp32"),
    "stage 3, cached": (3, 6, "fp32"),
    "bf16": (2, 4, "bf16"),
}


def _everything(world: World) -> Any:
    return _float64(world), {name: _train(world, *case) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def ranks() -> Any:
    return run_on_ranks(_everything, 2)


@pytest.fixture(scope="module")
def one_rank() -> Any:
    return run_on_ranks(_one, 1)[0]


def _one(world: World) -> Any:
    return _float64(world), _train(world, 0, None)


def test_two_ranks_are_one_in_float64(ranks: Any, one_rank: Any) -> None:
    (losses, weights), _ = one_rank
    assert "sets.queries" in weights
    assert float(losses[0]) != float(losses[-1])
    for (found, own), _ in ranks:
        torch.testing.assert_close(found, losses, rtol=1e-10, atol=1e-10)
        for name, value in weights.items():
            torch.testing.assert_close(own[name], value, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", CASES)
def test_every_engine_trains_alike(ranks: Any, one_rank: Any, case: str) -> None:
    _, (losses, weights) = one_rank
    (_, mine), (_, others) = ranks
    assert mine[case][0] == others[case][0]
    near = {"rel": 0.05} if case == "bf16" else {"rel": 1e-4}
    assert mine[case][0] == pytest.approx(losses, **near)
    start = model().state_dict()
    for name, value in weights.items():
        moved, expected = mine[case][1][name] - start[name], value - start[name]
        assert float(expected.abs().max()) > 1e-3, f"{name} was not trained"
        cosine = torch.nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0)
        assert float(cosine) > (0.8 if case == "bf16" else 0.999), name


@pytest.mark.parametrize("sets", [{"kind": "mean"}, {"kind": "par", "queries": 4}])
def test_one_side_may_give_sets_and_the_other_vectors(sets: dict[str, Any]) -> None:
    values = {"embedding_dim": 8, "a": {"kind": "mlp"}, "b": GRU, "sets": sets}
    dual = build_dual_encoder(
        ModelSettings.model_validate(values), InputSpec((3,)), SPECS[1], 5, normalize_prototypes=True, seed=0
    )
    found = dual(torch.randn(PAIRS, 3), next(batches(1, alone())).b)
    assert isinstance(found, PairEmbeddings)
    assert found.a.shape == found.b.shape == (PAIRS, 8)
    torch.testing.assert_close(found.b.norm(dim=1), torch.ones(PAIRS))


def test_embeddings_do_not_depend_on_padding_or_batch_mates() -> None:
    """To 1e-12 in float64, through the whole model."""
    dual, batch = model().double(), next(batches(1, alone(), torch.float64))
    assert isinstance(batch.a, Sets)
    assert isinstance(batch.b, Tokens)
    rows_a, rows_b = dual(batch.a, None), dual(None, batch.b)
    for i in range(0, PAIRS, 5):
        count, words = int(batch.a.mask[i].sum()), int(batch.b.mask[i].sum())
        a = dual(Sets(batch.a.values[i : i + 1, :count], batch.a.mask[i : i + 1, :count]), None)
        b = dual(None, Tokens(batch.b.ids[i : i + 1, :words], batch.b.mask[i : i + 1, :words]))
        torch.testing.assert_close(a[0], rows_a[i], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(b[0], rows_b[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"sets": None}, r"model.a and model.b: the encoder gives a set .*Fix: model.sets=\{kind: par\}"),
     ({"a": {"kind": "mlp"}, "b": {"kind": "gru"}}, "model.sets = par: neither encoder gives sets"),
     ({"a": {"kind": "mlp"}}, "encoder 'mlp' takes one vector per item, but the field holds sets of arrays")],
)  # fmt: skip
def test_encoders_and_what_becomes_of_sets_belong_together(changes: dict[str, Any], said: str) -> None:
    values = settings().model_dump() | changes
    specs = (InputSpec((3,)) if "b" in changes else SPECS[0], SPECS[1])
    with pytest.raises(UserError, match=f"(?s){said}"):
        build_dual_encoder(ModelSettings.model_validate(values), *specs, None, True, seed=0)
