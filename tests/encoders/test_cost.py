"""The formulas of every encoder against what torch counts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from swamp_dist.config import (
    BagOfWordsSettings,
    CnnSettings,
    DoodleCnnSettings,
    EncoderSettings,
    FramesSettings,
    GatedSettings,
    GruSettings,
    LinearSettings,
    MlpSettings,
    ParSettings,
    WordsSettings,
)
from swamp_dist.model.dual_encoder import build_encoder, encode_rows, unit_length
from swamp_dist.model.sets import build_sets
from swamp_dist.records import Inputs, InputSpec, Sets, Words

ROWS, DIM = 40, 24
VECTOR, CAPTION, REGIONS = InputSpec((30,)), InputSpec((7,), word_dim=30), InputSpec((30,), kind="set")
IMAGE, TEXT = InputSpec((3, 22, 22), kind="image"), InputSpec((), kind="text")
CLIPS = InputSpec((5, 3, 22, 22), kind="frames")
KINDS: dict[str, EncoderSettings] = {
    "mlp": MlpSettings(hidden=(20, 16)),
    "mlp, no hidden layer": MlpSettings(hidden=()),
    "linear": LinearSettings(),
    "linear, unit": LinearSettings(unit=True),
    "mlp, norm, dropout": MlpSettings(hidden=(20, 16), layer_norm=True, dropout=0.5),
    "gated": GatedSettings(),
    "words": WordsSettings(sentence_dim=36),
    "words, as wide as D": WordsSettings(),
    "cnn": CnnSettings(depth=3, width=6),
    "cnn, odd sides": CnnSettings(depth=5, width=4),
    "doodle_cnn": DoodleCnnSettings(channels=(6, 12, 9), hidden=20),
    "doodle_cnn, no attention": DoodleCnnSettings(channels=(6, 12), hidden=20, attention=False, dropout=0),
    "frames": FramesSettings(depth=3, width=6),
    "frames, a still": FramesSettings(depth=3, width=6, still=2),
    "gru": GruSettings(buckets=50, width=36, max_words=12),
    "gru, unit": GruSettings(buckets=50, width=36, max_words=12, unit=True),
    "gru of one direction": GruSettings(buckets=50, width=36, max_words=12, directions=1),
    "gru, last": GruSettings(buckets=50, width=36, max_words=12, output="last", directions=1),
    "bag_of_words": BagOfWordsSettings(buckets=50, width=36, max_words=12),
}
SETS: dict[str, EncoderSettings] = {
    "linear": LinearSettings(elements=9),
    "linear, unit": LinearSettings(elements=9, unit=True),
    "cnn": CnnSettings(depth=2, width=6, places=True),
    "cnn, unit": CnnSettings(depth=3, width=6, places=True, unit=True),
    "frames": FramesSettings(depth=2, width=6, output="frames"),
    "frames, unit": FramesSettings(depth=3, width=6, output="frames", unit=True),
    "frames, a still": FramesSettings(depth=3, width=6, output="frames", still=5),
    "gru": GruSettings(buckets=50, width=36, max_words=12, output="words"),
    "gru of one direction": GruSettings(
        buckets=50, width=36, max_words=12, output="words", unit=True, directions=1
    ),
}
PAR = ParSettings(queries=3, heads=2)


def built(settings: EncoderSettings) -> tuple[nn.Module, Inputs, InputSpec]:
    """The network, inputs for it (words: every one another, which costs most), and what they are."""
    if isinstance(settings, LinearSettings) and settings.elements == 9:
        sets = Sets(torch.randn(ROWS, 9, 30), torch.ones(ROWS, 9, dtype=torch.bool))
        return build_encoder(settings, REGIONS, DIM), sets, REGIONS
    if isinstance(settings, WordsSettings):
        count = ROWS * 7 + 1
        words = Words(torch.randint(count, (ROWS, 7)), torch.randn(count, 30))
        return build_encoder(settings, CAPTION, DIM), words, CAPTION
    if isinstance(settings, (CnnSettings, DoodleCnnSettings)):
        pixels = torch.randint(256, (ROWS, 3, 22, 22), dtype=torch.uint8)
        return build_encoder(settings, IMAGE, DIM), pixels, IMAGE
    if isinstance(settings, FramesSettings):
        frames = torch.randint(256, (ROWS, *CLIPS.shape), dtype=torch.uint8)
        return build_encoder(settings, CLIPS, DIM), frames, CLIPS
    tokenizer = settings.tokenizer()
    if tokenizer is not None:
        tokens = tokenizer([" ".join(f"w{row}x{place}" for place in range(12)) for row in range(ROWS)])
        return build_encoder(settings, TEXT, DIM), tokens, TEXT
    return build_encoder(settings, VECTOR, DIM), torch.randn(ROWS, 30), VECTOR


@pytest.mark.parametrize("kind", KINDS)
def test_operations_and_parameters_are_exact(kind: str) -> None:
    encoder, inputs, spec = built(KINDS[kind])
    cost = KINDS[kind].cost(ROWS, spec, DIM)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        encoder(inputs)
    with FlopCounterMode(display=False) as both:
        encoder(inputs).sum().backward()
    assert forward.get_total_flops() == cost.forward_flops
    assert both.get_total_flops() == cost.flops
    assert sum(p.numel() for p in encoder.parameters()) == cost.parameters


@pytest.mark.parametrize("kind", SETS)
def test_operations_of_encoders_of_sets_are_exact(kind: str) -> None:
    encoder, inputs, spec = built(SETS[kind])
    cost, counted = SETS[kind].cost(ROWS, spec, DIM), Sets(*encoder(inputs))
    assert counted.values.shape == (ROWS, SETS[kind].most_elements(spec), DIM)
    assert SETS[kind].gives_sets(spec)
    with FlopCounterMode(display=False) as both:
        encoder(inputs).values.sum().backward()
    assert both.get_total_flops() == cost.flops
    assert sum(p.numel() for p in encoder.parameters()) == cost.parameters


@pytest.mark.parametrize("kind", KINDS)
def test_activations_are_those_that_are_saved(kind: str) -> None:
    encoder, inputs, spec = built(KINDS[kind])
    found, shape = saved_bytes(encoder, inputs, None)
    expected = 4 * KINDS[kind].cost(ROWS, spec, DIM).saved_floats
    assert shape == (ROWS, DIM)
    assert 0.85 * expected < found < 1.15 * expected


@pytest.mark.parametrize("kind", SETS)
def test_activations_of_sets_are_those_that_are_saved(kind: str) -> None:
    encoder, inputs, spec = built(SETS[kind])
    found, shape = saved_bytes(encoder, inputs, build_sets(PAR, DIM))
    pooling = PAR.cost(ROWS, SETS[kind].most_elements(spec), DIM)
    expected = 4 * (SETS[kind].cost(ROWS, spec, DIM).saved_floats + pooling.saved_floats)
    assert shape == (ROWS, 6 * DIM)
    assert 0.85 * expected < found < 1.15 * expected


def saved_bytes(encoder: nn.Module, inputs: Inputs, sets: nn.Module | None) -> tuple[int, tuple[int, ...]]:
    """Bytes that are kept for the backward pass without parameters, and the shape of the embeddings."""
    parts = [encoder] if sets is None else [encoder, sets]
    own = {p.untyped_storage().data_ptr() for part in parts for p in part.parameters()}
    saved: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        rows = unit_length(encode_rows(encoder, inputs, sets))
    return sum(saved.values()), tuple(rows.shape)
