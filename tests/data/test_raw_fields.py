"""Images and texts in entries: stored as files that every tool reads, refused at the door if they are bad."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import webdataset

from swamp_dist.data.entry import ShardError
from swamp_dist.data.manifest import FieldSpec, load_manifest
from swamp_dist.data.raw_fields import decode_raw, image_format, objects
from swamp_dist.data.reader import open_reader
from swamp_dist.data.shard_writer import ShardWriter
from swamp_dist.data.verify import verify_shards
from swamp_dist.data.writer import write_shards
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import Sample
from tests.data.image_sets import FORMATS, build_raw, encode, raw_sample, smooth
from tests.data.shard_sets import build, flip, members


def write(folder: Path, *fields: dict[str, Any], several: tuple[str, ...] = ()) -> None:
    samples = [Sample(f"k{i}", each) for i, each in enumerate(fields)]
    write_shards({"train": samples}, folder, "set", {}, item_fields=several)


@pytest.mark.parametrize("reading", ["seek", "stream"])
@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("captions", [0, 3])
def test_what_was_written_is_read(tmp_path: Path, reading: Any, cache: Any, captions: int) -> None:
    manifest = build_raw(tmp_path / "set", captions=captions)
    reader = open_reader(manifest, "train", ("image", "text"), reading, cache)
    for entry in reader.read(range(24)):
        expected = raw_sample(int(entry.key[-4:]), captions)
        texts = entry.arrays["text"].tolist()
        assert entry.arrays["image"][()] == expected.fields["image"]
        assert (tuple(texts) if captions else texts) == expected.fields["text"]
    assert verify_shards(manifest.folder) == []


def test_plain_webdataset_reads_them(tmp_path: Path) -> None:
    manifest = build_raw(tmp_path / "set", captions=2, per_shard=100)
    urls = str(manifest.split("train").shard_path(0))
    for entry in webdataset.WebDataset(urls, shardshuffle=False).decode("pil"):
        number = int(entry["__key__"][-4:])
        ending = ("jpg", "png", "webp")[number % 3]
        assert entry[f"image.{ending}"].size == (36 + number % 7, 30 + number % 5)
        assert entry["text.json"] == [f"picture {number}, Caption {i}" for i in range(2)]


def test_the_manifest_says_what_the_fields_are_and_sets_of_arrays_keep_their_hash(tmp_path: Path) -> None:
    raw = json.loads((build_raw(tmp_path / "raw", captions=2).folder / "manifest.json").read_text())
    assert raw["fields"] == {
        "image": {"items": False, "kind": "image"},
        "text": {"items": True, "kind": "text"},
    }
    assert [str(spec) for spec in load_manifest(tmp_path / "raw").fields.values()] == [
        "image",
        "text (items)",
    ]
    arrays = build(tmp_path / "arrays", items=(2, 1))
    assert json.loads((arrays.folder / "manifest.json").read_text())["fields"]["a"] == {
        "dtype": "float32", "shape": [3], "items": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad", [{"kind": "image", "dtype": "uint8"}, {"kind": "text", "shape": (3,)}, {"shape": (3,)},
            {"kind": "image", "items": True}],
)  # fmt: skip
def test_a_field_is_of_one_kind(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="kind|one image"):
        FieldSpec(**bad)


@pytest.mark.parametrize(
    ("fields", "several", "said"),
    [
        ({"x": ["a", "b"]}, (), "expected a numpy array, the bytes of an image, a text, or a tuple of texts"),
        ({"x": ("a", "b")}, (), "several texts, but the field is not one of several items"),
        ({"x": "a"}, ("x",), "one text, but the field is one of several items"),
        ({"x": ()}, ("x",), "no texts at all"),
        ({"x": ("a", 1)}, ("x",), "found tuple"),
        ({"entry": ("a",)}, ("entry",), "needs another name"),
    ],
)
def test_a_first_entry_of_no_kind_is_refused(tmp_path: Path, fields: Any, several: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        write(tmp_path / "set", fields, several=several)


@pytest.mark.parametrize("other", [b"\xff\xd8\xff", ("a",), 3.0])
def test_an_entry_of_another_kind_is_refused(tmp_path: Path, other: Any) -> None:
    with pytest.raises(UserError, match=r"k1', field 'x': expected text as in the first entry, found"):
        write(tmp_path / "set", {"x": "a"}, {"x": other})


def test_bad_images_and_texts_are_bad_entries_and_the_others_are_kept(tmp_path: Path) -> None:
    good = encode(smooth(0))
    bad = {
        "image of another format": b"GIF89a" + bytes(40),
        "image cut short": good[:-100],
        "image cannot be decoded": encode(smooth(0), "PNG")[:60] + bytes(200),
        "animated image": encode(smooth(0), "WEBP", save_all=True, append_images=[_frame()]),
    }
    with ShardWriter(tmp_path / "set") as out:
        out.write(Sample("good", {"image": good, "text": "fine"}))
        for kind, data in bad.items():
            with pytest.raises(BadEntry) as caught:
                out.write(Sample("bad", {"image": data, "text": "x"}))
            assert (caught.value.kind, caught.value.key) == (kind, "bad")
            assert "field 'image'" in str(caught.value)
        with pytest.raises(BadEntry) as caught:
            out.write(Sample("bad", {"image": good, "text": "half of a pair: \ud83d"}))
        assert caught.value.kind == "text is no UTF-8"
    assert load_manifest(tmp_path / "set").split("train").keys([0]) == ["good"]


def _frame() -> Any:
    from PIL import Image

    return Image.fromarray(smooth(1))


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    manifest = build_raw(tmp_path / "set", per_shard=100)
    shard = manifest.split("train").shard_path(0)
    where = members(shard)
    name = next(name for name in where if name.endswith("image.jpg"))
    flip(shard, where[name][0] + 50)
    problems = [str(problem) for problem in verify_shards(manifest.folder)]
    assert len(problems) == 1
    assert "field 'image' does not belong to this entry or is damaged" in problems[0]
    reader = open_reader(manifest, "train", ("image",))
    with pytest.raises(ShardError, match="'image' does not belong"):
        reader.read(range(24))


def test_formats_are_told_by_their_first_bytes() -> None:
    assert [image_format(encode(smooth(0), form)) for form in FORMATS] == ["jpg", "png", "webp"]
    assert image_format(b"") is image_format(b"GIF89a") is image_format(b"RIFF1234WAVE") is None


@pytest.mark.parametrize("payload", [b"\xff", b"[]", b"{}", b'["a", 1]', b'["\\ud800"]', b"[" * 10**5])
def test_texts_that_are_none_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"utf-8|expected a json list|Expecting"):
        decode_raw(payload, FieldSpec(kind="text", items=True))


def test_objects_are_never_converted() -> None:
    assert objects(b"ab\0")[()] == b"ab\0"
    assert objects(("1", "22")).tolist() == ["1", "22"]
    assert replace(raw_sample(0), key="x").fields["image"] == raw_sample(0).fields["image"]
