import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from swamp_dist.config import EngineSettings, MlpSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from swamp_dist.distributed import World
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.model.logits import LogitStart
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, PairBatch, PairEmbeddings
from swamp_dist.train.engine import Engine
from swamp_dist.train.gradient_cache import encode
from swamp_dist.train.step import train_step
from tests.ranks import run_on_ranks
from tests.train.test_loop import _assert_same_run, _run
from tests.train.tiny import tiny_stage

PAIRS = 32
OBJECTIVE = {
    "swamp": {"prototypes": 12, "queue": {"size": 48, "start_when_filled": 0}, "sinkhorn": {"iterations": 3}}
}


def _model(dropout: float = 0.0, logits: LogitStart | None = None) -> DualEncoder:
    encoder = MlpSettings(hidden=(16,), dropout=dropout)
    model = ModelSettings(embedding_dim=8, a=encoder, b=encoder)
    return build_dual_encoder(model, (10,), (10,), 12, normalize_prototypes=True, seed=0, logits=logits)


def _batches(steps: int, world: World) -> Iterator[PairBatch]:
    data = torch.randn(steps, 2, PAIRS, 10, generator=torch.Generator().manual_seed(1))
    local = PAIRS // world.size
    rows = slice(world.rank * local, (world.rank + 1) * local)
    ids = torch.arange(PAIRS)[rows]
    for step in range(steps):
        a, b = data[step, 0, rows], data[step, 0, rows] + 0.3 * data[step, 1, rows]
        yield PairBatch(step, ids, ids, a, b)


def _engine(world: World, stage: int, micro_batch: int | None, precision: str = "fp32") -> Engine:
    settings = EngineSettings(zero_stage=stage, precision=precision, micro_batch=micro_batch)  # type: ignore[arg-type]
    return Engine(_model(), OptimizerSettings(lr=2e-3, clip_norm=1.0), settings, PAIRS // world.size, world)


def _gradients(engine: Engine) -> dict[str, Tensor]:
    """The whole averaged gradients that the next update will use; a collective above stage 0."""
    from deepspeed.utils import safe_get_full_grad

    named = engine._engine.module.named_parameters()
    if engine._stage == 0:
        return {name: p.grad.clone() for name, p in named}
    return {name: safe_get_full_grad(p).clone() for name, p in named}


@contextlib.contextmanager
def _first_gradients(engine: Engine) -> Iterator[dict[str, Tensor]]:
    """Filled just before the first update."""
    found: dict[str, Tensor] = {}
    update = engine.step

    def spied(rate: float, **how: bool) -> None:
        if not found:
            found.update(_gradients(engine))
        update(rate, **how)

    engine.step = spied  # type: ignore[method-assign]
    yield found


def _train(
    world: World,
    stage: int,
    micro_batch: int | None,
    precision: str = "fp32",
    steps: int = 50,
    contrastive: dict[str, Any] | None = None,
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Loss curve, gradients of the first step and final weights, through `train_step`."""
    engine = _engine(world, stage, micro_batch, precision)
    plan = BatchPlan(entries=PAIRS, pairs_per_entry=1, lanes=PAIRS, world_size=world.size)
    settings = ObjectiveSettings.model_validate(OBJECTIVE | {"contrastive": contrastive or {}})
    objective = build_objective(settings, plan, 8, world.device)
    with _first_gradients(engine) as gradients:
        curve = [
            train_step(
                engine,
                objective,
                batch,
                learning_rate=2e-3,
                seed=0,
                stop_requested=False,
                keys_of=lambda ids: [],
                world=world,
            ).losses["loss/total"]
            for batch in _batches(steps, world)
        ]
    return curve, gradients, engine.weights()


@pytest.fixture(scope="module")
def whole() -> Any:
    """One rank, stage 0, the batch encoded at once."""
    return run_on_ranks(_train, 1, 0, None)[0]


def _assert_same_start(found: Any, whole: Any) -> None:
    curve, gradients, _ = found
    assert curve[0] == pytest.approx(whole[0][0], abs=1e-6)
    torch.testing.assert_close(gradients, whole[1], rtol=0, atol=1e-5)
    assert all(float(gradient.abs().max()) > 1e-3 for gradient in gradients.values())
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(whole[0][: len(curve)]), rtol=0, atol=1e-5)


def _hardest(world: World, engines: list[tuple[int, int | None]]) -> list[Any]:
    """Four steps against the hardest negatives, each with a stage and a micro-batch."""
    contrastive = {"form": "hardest", "margin": 0.2}
    return [_train(world, stage, size, "fp32", 4, contrastive) for stage, size in engines]


@pytest.mark.slow
def test_hardest_negatives_train_alike_at_every_stage_and_in_micro_batches() -> None:
    whole = run_on_ranks(_hardest, 1, [(0, None)])[0][0]
    for found in run_on_ranks(_hardest, 2, [(0, 4), (1, None), (2, 8), (3, None)])[0]:
        _assert_same_start(found, whole)


def _starts(world: World) -> list[Any]:
    """Four steps at every stage; one start of the ranks serves all."""
    return [_train(world, stage, size, "fp32", 4) for stage, size in enumerate((4, 4, 8, 4))]


def test_micro_batches_start_as_the_whole_batch_at_every_stage(whole) -> None:  # type: ignore[no-untyped-def]
    starts = run_on_ranks(_starts, 2)[0]
    assert len(starts) == 4
    for found in starts:
        _assert_same_start(found, whole)


@pytest.mark.parametrize(
    ("size", "stage", "micro_batch"),
    [(1, 0, 8)] + [pytest.param(2, stage, 4, marks=pytest.mark.slow) for stage in (0, 1, 2, 3)],
)
def test_micro_batches_train_as_the_whole_batch(whole, size: int, stage: int, micro_batch: int) -> None:  # type: ignore[no-untyped-def]
    found = run_on_ranks(_train, size, stage, micro_batch)[0]
    _assert_same_start(found, whole)
    torch.testing.assert_close(found[2], whole[2], rtol=0, atol=1e-4)
    assert found[0][-1] < 0.8 * found[0][0]


def test_micro_batches_under_bf16_stay_in_its_band(whole) -> None:  # type: ignore[no-untyped-def]
    curve, _, weights = run_on_ranks(_train, 2, 1, 4, "bf16", 10)[0]
    assert curve[0] != whole[0][0]
    torch.testing.assert_close(torch.tensor(curve), torch.tensor(whole[0][:10]), rtol=0.02, atol=0)
    assert all(value.dtype == torch.float32 for value in weights.values())


# -- dropout ---------------------------------------------------------------------------------------


class _PlainEngine:
    """A float64 model without DeepSpeed; keeps what it embedded."""

    def __init__(self, micro_batch: int | None, *, learned: bool = True) -> None:
        self.model = _model(dropout=0.4, logits=LogitStart(3.0, -1.0, learned)).double()
        self.micro_batch = micro_batch
        self.seen: list[PairEmbeddings] = []

    def embed_pairs(
        self, a: Tensor, b: Tensor, on_a: Callable[[Tensor], None] | None = None, *unasked: None
    ) -> PairEmbeddings:
        embeddings = self.model(a, b, on_a, *unasked)
        assert isinstance(embeddings, PairEmbeddings)
        self.seen.append(embeddings)
        return embeddings

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def one_reduction(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def gradients(self) -> dict[str, Tensor]:
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}


def _loss(embeddings: PairEmbeddings) -> Tensor:
    """Something that couples every row with every other."""
    assert embeddings.prototypes is not None
    assert embeddings.logit_scale is not None
    assert embeddings.logit_bias is not None
    scores = embeddings.a @ embeddings.b.t() * (embeddings.a @ embeddings.prototypes.t()).square().sum()
    scores = embeddings.logit_scale * scores + embeddings.logit_bias * scores.square()
    return scores.logsumexp(1).mean()


def _double_batch() -> PairBatch:
    a, b = torch.randn(2, 12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return PairBatch(0, torch.arange(12), torch.arange(12), a, b)


@pytest.mark.parametrize("learned", [True, False])
def test_the_gradient_is_that_of_the_reported_loss_with_its_dropout_masks(learned: bool) -> None:
    cached, joined = _PlainEngine(4, learned=learned), _PlainEngine(None, learned=learned)
    batch = _double_batch()
    encoded = encode(cached, batch, 7)  # type: ignore[arg-type]
    loss = _loss(encoded.embeddings)
    encoded.backward(loss)
    first, again = cached.seen[:3], cached.seen[3:]
    assert all(torch.equal(x.a, y.a) and torch.equal(x.b, y.b) for x, y in zip(first, again, strict=True))

    parts = []  # one graph over the same masks
    for number in range(3):
        small = PairBatch(
            0, *(x[4 * number : 4 * number + 4] for x in (batch.ids, batch.entries, batch.a, batch.b))
        )
        torch.manual_seed((7 + number * 0x9E3779B97F4A7C15) % 2**63)
        parts.append(joined.embed_pairs(small.a, small.b))
    expected = _loss(parts[0]._replace(a=torch.cat([p.a for p in parts]), b=torch.cat([p.b for p in parts])))
    joined.backward(expected)
    assert torch.equal(loss, expected)
    assert ({"logits.log_scale", "logits.bias"} <= cached.gradients().keys()) == learned
    torch.testing.assert_close(cached.gradients(), joined.gradients(), rtol=0, atol=1e-12)
    assert all(float(gradient.abs().max()) > 1e-3 for gradient in joined.gradients().values())


def test_micro_batches_drop_different_units_and_one_micro_batch_is_the_ordinary_step() -> None:
    batch = _double_batch()
    same = PairBatch(0, batch.ids, batch.entries, batch.a[:1].expand(12, -1), batch.b)
    masked = encode(_PlainEngine(4), same, 7).embeddings.a  # type: ignore[arg-type]
    assert not torch.equal(masked[:4], masked[4:8])
    ordinary, single = _PlainEngine(None), _PlainEngine(12)
    for engine in (ordinary, single):
        encoded = encode(engine, batch, 7)  # type: ignore[arg-type]
        encoded.backward(_loss(encoded.embeddings))
    assert all(torch.equal(g, single.gradients()[name]) for name, g in ordinary.gradients().items())
    assert len(single.seen) == 1


def test_a_cached_run_stopped_and_resumed_is_bit_identical(tiny_shards: Path, tmp_path: Path) -> None:
    settings = tiny_stage(tiny_shards, engine__micro_batch=4)  # its encoder of A has dropout
    run_on_ranks(_run, 2, settings, tmp_path / "whole", [])
    run_on_ranks(_run, 2, settings, tmp_path / "parts", [11], 1)
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")


# -- memory and traffic ----------------------------------------------------------------------------


class _Saved:
    """Bytes that autograd holds for the backward passes of encoders."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(lambda x: _Held(self, x), lambda held: held.tensor)


class _Held:
    def __init__(self, saved: _Saved, tensor: Tensor) -> None:
        self.saved, self.tensor = saved, tensor.detach()  # an output kept whole would keep its own graph
        saved.now += tensor.nbytes
        saved.peak = max(saved.peak, saved.now)

    def __del__(self) -> None:
        self.saved.now -= self.tensor.nbytes


def _peak_bytes(micro_batch: int | None, pairs: int) -> int:
    engine, saved = _PlainEngine(micro_batch), _Saved()
    embed = engine.embed_pairs

    def watched(
        a: Tensor, b: Tensor, on_a: Callable[[Tensor], None] | None = None, *unasked: None
    ) -> PairEmbeddings:
        engine.seen.clear()
        with saved.hooks():
            return embed(a, b, on_a, *unasked)

    engine.embed_pairs = watched  # type: ignore[method-assign]
    a, b = torch.randn(2, pairs, 10, dtype=torch.float64)
    encoded = encode(engine, PairBatch(0, torch.arange(pairs), torch.arange(pairs), a, b), 0)  # type: ignore[arg-type]
    encoded.backward(_loss(encoded.embeddings))
    engine.seen.clear()
    del encoded
    assert saved.now == 0
    return saved.peak


def test_activation_memory_does_not_grow_with_the_number_of_micro_batches() -> None:
    single = _peak_bytes(None, 16)
    assert _peak_bytes(16, 32) == single
    assert _peak_bytes(16, 256) == single
    assert _peak_bytes(None, 256) > 8 * single


def _reductions(world: World) -> dict[tuple[int, int], int]:
    """Reductions over ranks in the backward passes of one step, by stage and micro-batch."""
    return {(stage, size): _count_reductions(world, stage, size) for stage in (0, 1, 2, 3) for size in (8, 2)}


def _count_reductions(world: World, stage: int, micro_batch: int) -> int:
    engine = _engine(world, stage, micro_batch)
    encoded = encode(engine, next(_batches(1, world)), 0)
    loss = sum(x.sum() for x in encoded.embeddings if x is not None)
    with torch.profiler.profile() as profiler:
        encoded.backward(loss)  # type: ignore[arg-type]
    names = [event.name for event in profiler.events()]
    return sum(name in ("gloo:all_reduce", "gloo:reduce_scatter") for name in names)


@pytest.mark.slow
def test_gradients_are_reduced_once_whatever_the_number_of_micro_batches() -> None:
    counts = run_on_ranks(_reductions, 2)[0]
    assert counts == dict.fromkeys(counts, 1)


def _refused(world: World) -> str:
    with pytest.raises(UserError) as caught:
        _engine(world, 0, 5)
    return str(caught.value)


def test_a_micro_batch_that_does_not_divide_is_refused_with_the_divisors() -> None:
    message = run_on_ranks(_refused, 2)[0]
    assert "engine.micro_batch = 5" in message
    assert "16 pairs of a rank (32 pairs per step on 2 ranks)" in message
    assert "1, 2, 4, 8, 16" in message
