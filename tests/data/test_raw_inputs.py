"""Batches of images and texts: what encoders take, the same however they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from swamp_dist.config import DataSettings
from swamp_dist.data.inputs import input_specs
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.stream import open_stream
from swamp_dist.encoders.bag_of_words import HashedWords
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec, PairBatch, Tokens
from tests.data.image_sets import build_raw

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # a hint about few cores
WORDS = HashedWords(1000, 16)


def batches(
    manifest: Manifest, first: int = 0, last: int = 9, world: int = 1, rank: int = 0, pairs: int = 1,
    tokenizers: Any = (None, WORDS), **settings: Any,
) -> list[PairBatch]:  # fmt: skip
    """Batches of 8 entries; an epoch has 3."""
    images = settings.pop("images", {}) | {"size": 16}
    data = DataSettings.model_validate(
        {"shards": manifest.folder, "a": "image", "b": "text", "workers": 0, "images": images} | settings
    )
    plan = plan_batches(8, pairs, 4, world, len(manifest.split("train")))
    stream = open_stream(manifest, "train", data, plan, seed=3, rank=rank, tokenizers=tokenizers)
    found = list(stream.batches(first, last))
    stream.close()
    return found


def parts(found: list[PairBatch]) -> list[tuple[torch.Tensor, ...]]:
    return [(batch.ids, batch.a, *batch.b) for batch in found]  # type: ignore[misc]


def equal(one: list[PairBatch], other: list[PairBatch]) -> bool:
    both = zip(parts(one), parts(other), strict=True)
    return all(torch.equal(x, y) for pair in both for x, y in zip(*pair, strict=True))


def test_a_batch_holds_pixels_and_tokens(tmp_path: Path) -> None:
    manifest = build_raw(tmp_path / "set")
    for batch in batches(manifest):
        assert isinstance(batch.a, torch.Tensor)
        assert isinstance(batch.b, Tokens)
        assert (batch.a.shape, batch.a.dtype) == ((8, 3, 16, 16), torch.uint8)
        assert (batch.b.ids.dtype, batch.b.mask.dtype) == (torch.int64, torch.bool)
        keys = manifest.split("train").keys(batch.ids)
        expected = WORDS([f"picture {int(key[-4:])}, Caption 0" for key in keys])
        assert torch.equal(batch.b.ids, expected.ids)


def test_specs_tell_what_encoders_take(tmp_path: Path) -> None:
    manifest = build_raw(tmp_path / "set", captions=2)
    data = DataSettings.model_validate(
        {"shards": manifest.folder, "a": "text", "b": "image", "images": {"size": 48}}
    )
    assert input_specs(manifest, data) == (InputSpec((), kind="text"), InputSpec((3, 48, 48), kind="image"))


@pytest.mark.parametrize(
    "how", [{"workers": 2}, {"reading": "stream"}, {"cache": "memory"}, {"cache": "memory", "workers": 2}]
)
def test_how_entries_are_read_changes_no_pixel(tmp_path: Path, how: dict[str, Any]) -> None:
    manifest = build_raw(tmp_path / "set", captions=3)
    assert equal(batches(manifest, pairs=2), batches(manifest, pairs=2, **how))


def test_texts_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'text' holds texts, and the encoder of this modality has no"):
        batches(build_raw(tmp_path / "set"), tokenizers=(None, None))
