"""Batches of images and texts: what encoders take, the same however they are read."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from swamp_dist.config import DataSettings
from swamp_dist.data import sample_checks
from swamp_dist.data.entry import ShardError
from swamp_dist.data.inputs import input_specs
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import FieldSpec, Manifest, load_manifest
from swamp_dist.data.stream import open_stream
from swamp_dist.data.writer import write_shards
from swamp_dist.encoders.hashed_words import HashedWords
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec, PairBatch, Sample, Tokens
from tests.data.image_sets import build_raw, encode, raw_sample
from tests.data.video_sets import build_videos

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


def test_the_global_batch_depends_neither_on_ranks_nor_on_where_it_begins(tmp_path: Path) -> None:
    manifest = build_raw(tmp_path / "set", captions=3)
    whole = batches(manifest, pairs=2)
    ranks = [batches(manifest, pairs=2, world=2, rank=rank, workers=rank) for rank in range(2)]
    for step, batch in enumerate(whole):
        both = [rank[step] for rank in ranks]
        assert torch.equal(torch.cat([each.a for each in both]), batch.a)  # type: ignore[misc]
        assert torch.equal(torch.cat([each.ids for each in both]), batch.ids)
        for each, first in zip(both, (0, 8), strict=True):
            assert isinstance(each.b, Tokens)
            assert isinstance(batch.b, Tokens)
            assert torch.equal(each.b.ids, batch.b.ids[first : first + 8, : each.b.ids.shape[1]])
    for first in (1, 4, 8):
        assert equal(batches(manifest, first, pairs=2), whole[first:])


def test_pairs_of_an_entry_and_its_epochs_see_other_crops(tmp_path: Path) -> None:
    manifest = build_raw(tmp_path / "set", train=8)
    one, two = (batches(manifest, 0, 2, pairs=2)[epoch] for epoch in range(2))
    assert isinstance(one.a, torch.Tensor)
    assert isinstance(two.a, torch.Tensor)
    assert not torch.equal(one.a[0], one.a[1])
    again = two.a[two.ids == one.ids[0]]
    assert not torch.equal(again, one.a[:2])
    fixed = batches(manifest, 0, 1, pairs=2, images={"crop": "none"})[0].a
    assert isinstance(fixed, torch.Tensor)
    assert torch.equal(fixed[0], fixed[1])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("images", "said"),
    [
        ({"max_pixels": 1_200}, r"pixels, at most 1200 are taken; raise data.images.max_pixels"),
        ({"max_bytes": 100}, r"bytes, at most 100 are taken; raise data.images.max_bytes"),
    ],
)
def test_limits_name_entry_field_numbers_and_setting(
    tmp_path: Path, workers: int, images: dict[str, int], said: str
) -> None:
    manifest = build_raw(tmp_path / "set")
    with pytest.raises(
        UserError, match=rf"(?s)split 'train', .*entry 'key-\d+': field 'image': .*{said}"
    ) as e:
        batches(manifest, images=images, workers=workers)
    assert not isinstance(e.value, ShardError)


def test_an_image_that_no_longer_decodes_is_a_damaged_shard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_checks, "check_image", lambda data: None)  # a set that another program wrote
    half = raw_sample(0).fields["image"]
    assert isinstance(half, bytes)
    samples = [Sample(f"k{i}", {"image": half[:-40], "text": "x"}) for i in range(8)]
    manifest = write_shards({"train": samples}, tmp_path / "set", "bad", {})
    with pytest.raises(ShardError, match=r"train-000000.tar, entry 'k\d': field 'image': .*truncated"):
        batches(manifest)


def test_the_order_of_pixels_is_red_first(tmp_path: Path) -> None:
    red = encode(np.full((20, 30, 3), (255, 0, 0), np.uint8), "PNG")
    samples = [Sample(f"k{i}", {"image": red, "text": "red"}) for i in range(8)]
    batch = batches(write_shards({"train": samples}, tmp_path / "set", "red", {}), 0, 1)[0]
    assert isinstance(batch.a, torch.Tensor)
    assert batch.a.amin((0, 2, 3)).tolist() == batch.a.amax((0, 2, 3)).tolist() == [255, 0, 0]


def test_memory_keeps_files_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manifest = build_raw(tmp_path / "set")
    with caplog.at_level(logging.INFO, "swamp_dist"):
        batches(manifest, 0, 1, cache="memory")
    size = sum(len(raw_sample(i).fields["image"]) + len(raw_sample(i).fields["text"]) for i in range(24))
    assert f"24 entries in memory, {size / 1e6:.1f} MB, images of image as encoded bytes" in caplog.text


def test_clips_are_not_cut_from_images(tmp_path: Path) -> None:
    folder = write_video_set(tmp_path / "set")
    data = DataSettings.model_validate(
        {"shards": folder, "clips": {"parts": {"image": 1.0}, "times": "image"}}
    )
    with pytest.raises(
        UserError, match="field 'image' of .* holds image; clips are cut from features by time"
    ):
        input_specs(load_manifest(folder), data)


def write_video_set(folder: Path) -> Path:
    """A set of videos that carries an image beside its features."""
    manifest = build_videos(folder, 6)
    record = manifest.record.model_copy(
        update={"fields": manifest.fields | {"image": FieldSpec(kind="image")}, "hash": ""}
    )
    record = record.model_copy(update={"hash": record.content_hash()})
    (folder / "manifest.json").write_text(record.model_dump_json())
    return folder


def test_texts_without_a_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'text' holds texts, and the encoder of this modality has no"):
        batches(build_raw(tmp_path / "set"), tokenizers=(None, None))
