from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.config import EngineSettings, GatedSettings, ModelSettings, OptimizerSettings, WordsSettings
from swamp_dist.distributed import World
from swamp_dist.encoders.networks.words import WordsEncoder, largest_rows
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.records import InputSpec, PairBatch, Words
from swamp_dist.train.engine import Engine
from swamp_dist.train.gradient_cache import encode
from tests.ranks import run_on_ranks

PAIRS, PLACES, WORD, VIDEO = 8, 5, 6, 10


def _gradient(largest: torch.Tensor, rows: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(largest, rows, upstream)[0]


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(1, 5), st.integers(1, 7))
def test_value_and_gradient_are_those_of_the_dense_form(
    seed: int, captions: int, places: int, num_rows: int
) -> None:
    torch.manual_seed(seed)
    rows = torch.randn(num_rows, 3, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, num_rows, (captions, places))
    upstream = torch.randn(captions, 3, dtype=torch.float64)
    ours, dense = largest_rows(rows, ids), rows[ids].max(dim=1).values
    assert torch.equal(ours, dense)
    torch.testing.assert_close(
        _gradient(ours, rows, upstream), _gradient(dense, rows, upstream), rtol=1e-13, atol=1e-15
    )


def test_the_encoder_passes_gradcheck() -> None:
    torch.manual_seed(0)
    encoder = WordsEncoder(3, 4, 2).double()
    ids = torch.tensor([[1, 2, 0], [3, 3, 1], [0, 0, 0]])
    vectors = torch.randn(4, 3, dtype=torch.float64)
    parameters = tuple(encoder.parameters())

    def value(*given: torch.Tensor) -> torch.Tensor:
        named = dict(zip(dict(encoder.named_parameters()), given, strict=True))
        return torch.func.functional_call(encoder, named, (Words(ids, vectors),))

    assert torch.autograd.gradcheck(value, parameters)


def test_the_largest_over_words_is_never_held_dense() -> None:
    rows, ids = torch.randn(50, 16, requires_grad=True), torch.randint(0, 50, (40, 20))
    with torch.profiler.profile(profile_memory=True) as profile:
        largest_rows(rows, ids).sum().backward()
    dense = 40 * 20 * 16 * 4
    assert 0 < max(event.cpu_memory_usage for event in profile.events()) < dense / 2


def test_two_threads_add_the_gradient_up_as_one_does() -> None:
    """A run that goes on has the bits of one that never stopped, on as many threads as a rank may have."""
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 512, generator=draw, requires_grad=True)
    ids, upstream = torch.randint(0, 40, (2048, 3), generator=draw), torch.randn(2048, 512, generator=draw)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 2):
            torch.set_num_threads(threads)
            found.append(_gradient(largest_rows(rows, ids), rows, upstream))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: its additions have no order of their own"
)
def test_the_gradient_on_a_gpu_is_the_same_every_time() -> None:
    torch.manual_seed(0)
    rows = torch.randn(20, 256, device="cuda", requires_grad=True)
    ids = torch.randint(0, 20, (4096, 20), device="cuda")
    upstream = torch.randn(4096, 256, device="cuda")
    first, *others = (_gradient(largest_rows(rows, ids), rows, upstream) for _ in range(5))
    assert all(torch.equal(first, other) for other in others)
    dense = _gradient(rows[ids].max(dim=1).values, rows, upstream)
    torch.testing.assert_close(first, dense, rtol=1e-4, atol=1e-3)


# -- through the engine ----------------------------------------------------------------------------


def _engine(world: World, stage: int, micro_batch: int | None, precision: str) -> Engine:
    parts = GatedSettings(unit_parts=(4, 6))
    model = ModelSettings(embedding_dim=8, a=WordsSettings(sentence_dim=7), b=parts)
    encoder = build_dual_encoder(
        model, InputSpec((PLACES,), WORD), InputSpec((VIDEO,)), None, normalize_prototypes=True, seed=0
    )
    settings = EngineSettings(zero_stage=stage, precision=precision, micro_batch=micro_batch)  # type: ignore[arg-type]
    return Engine(encoder, OptimizerSettings(), settings, PAIRS // world.size, world)


def _batch(world: World) -> PairBatch:
    """The same pairs on any world size; each rank has the vectors of its own distinct words."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(30, WORD, generator=generator)
    table[0] = 0
    ids = torch.randint(0, 30, (PAIRS, PLACES), generator=generator)
    video = torch.randn(PAIRS, VIDEO, generator=generator)
    local = PAIRS // world.size
    rows = slice(world.rank * local, (world.rank + 1) * local)
    distinct = torch.cat([torch.zeros(1, dtype=torch.int64), ids[rows].unique()]).unique()
    words = Words(torch.searchsorted(distinct, ids[rows]), table[distinct])
    return PairBatch(0, torch.arange(local), torch.arange(local), words, video[rows])


def _trained(world: World, stage: int, micro_batch: int | None, precision: str) -> tuple[object, object]:
    """Two updates of a loss that no pair leaves, then weights and the rows of both sides."""
    engine, batch = _engine(world, stage, micro_batch, precision), _batch(world)
    for _ in range(2):
        encoded = encode(engine, batch, 0)
        encoded.backward((encoded.embeddings.a * encoded.embeddings.b).sum(1).square().mean())
        engine.step(1e-2)
    with engine.evaluating():
        rows = torch.cat([engine.embed_a(batch.a), engine.embed_b(batch.b)], dim=1)
    return engine.weights(), rows


def _many(world: World, cases: list[tuple[int, int | None, str]]) -> list[tuple[object, object]]:
    return [_trained(world, *case) for case in cases]


CASES = [(0, None, "fp32"), (3, None, "fp32"), (0, 2, "fp32"), (3, 2, "fp32")]
HALF = [(0, None, "bf16"), (3, None, "bf16")]


@pytest.fixture(scope="module")
def single() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    return run_on_ranks(_trained, 1, 0, None, "fp32")[0]  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def on_two_ranks() -> list[list[tuple[dict[str, torch.Tensor], torch.Tensor]]]:
    return run_on_ranks(_many, 2, CASES + HALF)


@pytest.mark.parametrize("number", range(4), ids=map(str, CASES))
def test_words_cross_the_engine_whole_and_in_micro_batches(number: int, single, on_two_ranks) -> None:  # type: ignore[no-untyped-def]
    weights = on_two_ranks[0][number][0]
    rows = torch.cat([rank[number][1] for rank in on_two_ranks])
    torch.testing.assert_close(weights, single[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(rows, single[1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("number", [4, 5], ids=map(str, HALF))
def test_words_cross_the_engine_under_bf16(number: int, single, on_two_ranks) -> None:  # type: ignore[no-untyped-def]
    weights = on_two_ranks[0][number][0]
    rows = torch.cat([rank[number][1] for rank in on_two_ranks])
    assert all(value.dtype == torch.float32 for value in weights.values())
    torch.testing.assert_close(rows, single[1], rtol=0, atol=0.05)
    assert not torch.equal(rows, single[1])


def test_gradients_of_a_frequent_word_are_added_up_in_float32_under_bfloat16() -> None:
    rows = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.ones(4096, 1, dtype=torch.int64)
    (1e-3 * largest_rows(rows, ids)).sum().backward()
    assert rows.grad is not None
    assert rows.grad[1, 0].item() == pytest.approx(4.096, rel=0.01)  # in bfloat16 the sum stops at 0.5
