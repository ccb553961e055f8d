"""Sets of vectors of changing length: stored as they are, padded in a batch, refused where they are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.config import DataSettings
from swamp_dist.data.column import make_column
from swamp_dist.data.entry import ShardError
from swamp_dist.data.field_inputs import field_inputs, pad_sets
from swamp_dist.data.inputs import input_spec
from swamp_dist.data.join_inputs import join_inputs
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import FieldSpec, load_manifest
from swamp_dist.data.reader import open_reader
from swamp_dist.data.shard_dataset import ShardDataset
from swamp_dist.data.shard_writer import ShardWriter
from swamp_dist.data.stream import open_stream
from swamp_dist.data.verify import verify_shards
from swamp_dist.data.writer import write_shards
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import InputSpec, PairBatch, Sample, Sets
from tests.data.ragged_sets import WIDTH, build_ragged, ragged_sample, regions
from tests.data.raw_sets import content
from tests.data.shard_sets import build, flip, members


@pytest.mark.parametrize("reading", ["seek", "stream"])
@pytest.mark.parametrize("cache", ["none", "memory"])
def test_every_reader_gives_what_was_written(tmp_path: Path, reading: Any, cache: Any) -> None:
    manifest = build_ragged(tmp_path / "set", {"train": 23, "test": 11})
    for split, count in (("train", 23), ("test", 11)):
        reader = open_reader(manifest, split, ("regions", "vector"), reading, cache)
        for read in (reader.read, reader.each):
            for entry in read(range(count)):
                assert np.array_equal(entry.arrays["regions"], regions(int(entry.key[-4:])))
        order = [7, 3, 3, 9]
        keys = [int(key[-4:]) for key in reader.split.keys(order)]
        column = reader.columns(order)["regions"]
        assert column.count.tolist() == [1] * 4
        for found in (reader.stack("regions", order), column.rows[column.first]):
            assert [each.shape for each in found] == [(1 + n % 5, WIDTH) for n in keys]
            assert all(np.array_equal(each, regions(n)) for each, n in zip(found, keys, strict=True))
    assert verify_shards(manifest.folder) == []


def test_a_split_in_memory_holds_its_sets_and_not_their_entries(tmp_path: Path) -> None:
    manifest = build_ragged(tmp_path / "set", {"train": 13})
    rows = open_reader(manifest, "train", ("regions",), cache="memory").columns(range(13))["regions"].rows
    blocks = {id(array.base) for array in rows}
    assert len(blocks) == 1
    assert rows[0].base.nbytes == sum(array.nbytes for array in rows)


def test_a_loop_of_ones_own_gets_the_elements(tmp_path: Path) -> None:
    build_ragged(tmp_path / "set", {"train": 13})
    data = ShardDataset(tmp_path / "set", "train", ["regions"], batch=4, rank=0, world_size=1)
    found = list(data)
    assert len(found) == 12
    for entry in found:
        assert np.array_equal(entry["regions"].numpy(), regions(int(entry["__key__"][-4:])))


def test_sets_of_one_length_stay_sets(tmp_path: Path) -> None:
    samples = [Sample(f"k{i}", {"r": np.full((2, 3), i, np.float32)}) for i in range(4)]
    manifest = write_shards({"train": samples}, tmp_path / "set", "same", {}, ragged_fields=["r"])
    for cache in ("none", "memory"):
        rows = open_reader(manifest, "train", ("r",), cache=cache).stack("r", [0, 1])
        assert rows.shape == (2,)
        assert rows[0].shape == (2, 3)


def test_the_manifest_tells_ragged_fields_and_other_sets_keep_their_hash(tmp_path: Path) -> None:
    manifest = build_ragged(tmp_path / "set")
    stored = json.loads((manifest.folder / "manifest.json").read_text())["fields"]
    expected = {"dtype": "float32", "shape": [WIDTH], "items": False, "ragged": True}
    assert stored["regions"] == expected
    assert stored["vector"] == {"dtype": "float32", "shape": [4], "items": False}
    assert stored["text"] == {"items": False, "kind": "text"}
    spec = load_manifest(manifest.folder).field("regions")
    assert str(spec) == f"float32 (elements, {WIDTH})"
    assert input_spec(manifest, "regions", 16) == InputSpec((WIDTH,), kind="set")
    plain = json.loads((build(tmp_path / "plain").folder / "manifest.json").read_text())
    assert all("ragged" not in field for field in plain["fields"].values())


def test_a_writer_of_a_program_writes_the_same_bytes(tmp_path: Path) -> None:
    samples = [ragged_sample(i) for i in range(7)]
    own = {"kind": "written"}
    write_shards(
        {"train": samples}, tmp_path / "memory", "x", own, 4, None, ["captions"], ragged_fields=["regions"]
    )
    with ShardWriter(
        tmp_path / "set", name="x", entries_per_shard=4, item_fields=["captions"], ragged_fields=["regions"]
    ) as out:
        for sample in samples:
            out.write(sample)
    assert content(tmp_path / "set") == content(tmp_path / "memory")
    with pytest.raises(ValueError, match=r"ragged_fields = 'regions': expected several names"):
        ShardWriter(tmp_path / "other", ragged_fields="regions")


@pytest.mark.parametrize(
    ("second", "said"),
    [(np.zeros((2, WIDTH + 1), np.float32), r"expected float32 \(elements, 6\) as in the first"),
     (np.zeros((2, WIDTH), np.float64), r"expected float32 \(elements, 6\) as in the first"),
     (np.zeros(WIDTH, np.float32), r"expected float32 \(elements, 6\) as in the first"),
     (np.zeros((0, WIDTH), np.float32), r"a set without elements, \(0, 6\)"),
     (np.full((2, WIDTH), np.nan, np.float32), r"12 values are not finite"),
     ("text", r"expected a numpy array, found str")],
)  # fmt: skip
def test_what_is_no_set_of_the_field_is_refused(tmp_path: Path, second: Any, said: str) -> None:
    samples = [Sample("k0", {"r": regions(3)}), Sample("k1", {"r": second})]
    with pytest.raises((UserError, BadEntry), match=rf"k1(.|\n)*'r'(.|\n)*{said}"):
        write_shards({"train": samples}, tmp_path / "set", "x", {}, 10, None, ragged_fields=["r"])
    assert not (tmp_path / "set").exists()


def test_an_empty_set_has_a_kind_that_a_build_counts() -> None:
    from swamp_dist.data.sample_checks import check_sample

    fields = {"r": FieldSpec(dtype="float32", shape=(3,), ragged=True)}
    with pytest.raises(BadEntry) as caught:
        check_sample(Sample("k", {"r": np.zeros((0, 3), np.float32)}), "train", fields)
    assert caught.value.kind == "empty set"


@pytest.mark.parametrize(
    ("fields", "several", "ragged", "said"),
    [({"r": regions(1)}, ["r"], ["r"], "ragged fields r hold several items too"),
     ({"r": regions(1)}, [], ["s"], "ragged fields s are no arrays of the entry"),
     ({"r": "a text"}, [], ["r"], "ragged fields r are no arrays of the entry"),
     ({"r": np.zeros((), np.float32)}, [], ["r"], r"shape \(\) holds no values")],
)  # fmt: skip
def test_ragged_fields_are_arrays_of_one_set(
    tmp_path: Path, fields: Any, several: list[str], ragged: list[str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        write_shards(
            {"train": [Sample("k0", fields)]},
            tmp_path / "s",
            "x",
            {},
            10,
            None,
            several,
            ragged_fields=ragged,
        )


@pytest.mark.parametrize("bad", [{"items": True, "dtype": "float32"}, {"kind": "text"}, {"kind": "image"}])
def test_a_spec_is_ragged_or_something_else(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a ragged field holds one set"):
        FieldSpec(ragged=True, **bad)


def test_damage_names_file_entry_and_field(tmp_path: Path) -> None:
    manifest = build_ragged(tmp_path / "set", {"train": 5})
    path = manifest.split("train").shard_path(0)
    flip(path, members(path)["key-0003.regions.npy"][1] - 1)
    place = manifest.split("train").keys(range(5)).index("key-0003")
    for reading in ("seek", "stream"):
        with pytest.raises(ShardError, match=r"train-000000.tar, entry 'key-0003': field 'regions'"):
            open_reader(manifest, "train", ("regions",), reading).read([place])
    (problem,) = verify_shards(manifest.folder)
    assert "entry 'key-0003': field 'regions'" in str(problem)


@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=6), st.sampled_from(["float16", "float32", "float64"])
)
def test_padding_keeps_every_bit_and_marks_itself(lengths: list[int], dtype: str) -> None:
    draw = np.random.default_rng(sum(lengths))
    arrays = [draw.normal(size=(n, 3)).astype(dtype) for n in lengths]
    sets = pad_sets(arrays)
    assert sets.values.shape == (len(lengths), max(lengths), 3)
    assert sets.mask.sum(1).tolist() == lengths
    for i, array in enumerate(arrays):
        assert np.array_equal(sets.values[i][sets.mask[i]].numpy(), array)
        assert not sets.values[i][~sets.mask[i]].any()
        assert sets.mask[i, : lengths[i]].all()


@pytest.mark.parametrize("how", [{"workers": 0}, {"workers": 1}, {"cache": "memory"}, {"reading": "stream"}])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_batch_is_padded_to_its_longest_set(tmp_path: Path, how: dict[str, Any], dtype: str) -> None:
    manifest = build_ragged(tmp_path / "set", dtype=dtype)
    data = DataSettings(
        shards=manifest.folder, a="regions", b="vector", entries=4, lanes=4, **{"workers": 0, **how}
    )
    stream = open_stream(manifest, "train", data, plan_batches(4, 1, 4, 1, 37), seed=2, rank=0)
    for batch in stream.batches(0, 12):
        _check_batch(batch, manifest.split("train").keys(batch.ids.numpy()), dtype)
    stream.close()


def _check_batch(batch: PairBatch, keys: list[str], dtype: str) -> None:
    assert isinstance(batch.a, Sets)
    assert batch.a.values.dtype == torch.float32
    assert batch.a.mask.dtype == torch.bool
    numbers = [int(key[-4:]) for key in keys]
    assert batch.a.values.shape == (4, max(1 + n % 5 for n in numbers), WIDTH)
    for number, values, mask in zip(numbers, *batch.a, strict=True):
        assert np.array_equal(values[mask].numpy(), regions(number, dtype).astype(np.float32))


def test_pairs_of_one_entry_repeat_its_set(tmp_path: Path) -> None:
    manifest = build_ragged(tmp_path / "set")
    data = DataSettings(shards=manifest.folder, a="regions", b="vector", entries=4, lanes=4, workers=0)
    stream = open_stream(manifest, "train", data, plan_batches(4, 2, 4, 1, 37), seed=2, rank=0)
    (batch,) = stream.batches(0, 1)
    assert isinstance(batch.a, Sets)
    assert len(batch.a.values) == 8
    assert torch.equal(batch.a.values[::2], batch.a.values[1::2])
    assert torch.equal(batch.a.mask[::2], batch.a.mask[1::2])


def test_sets_of_two_parts_are_padded_to_the_wider() -> None:
    one, other = pad_sets([regions(0), regions(1)]), pad_sets([regions(4)])
    joined = join_inputs([one, other], [torch.tensor([2, 0]), torch.tensor([1])])
    assert isinstance(joined, Sets)
    assert joined.values.shape == (3, 5, WIDTH)
    for number, row in ((1, 0), (4, 1), (0, 2)):
        assert np.array_equal(joined.values[row][joined.mask[row]].numpy(), regions(number))
        assert not joined.values[row][~joined.mask[row]].any()


def test_what_makes_inputs_of_a_field_knows_it_is_ragged(tmp_path: Path) -> None:
    manifest = build_ragged(tmp_path / "set", {"train": 3})
    maker = field_inputs(manifest, "regions")
    assert maker.kind == "set"
    column = make_column([regions(2), regions(0)], manifest.field("regions"))
    made = maker.make(column.rows, lambda *_: UserError("none"))
    assert isinstance(made, Sets)
    assert made.mask.tolist() == [[True, True, True], [True, False, False]]
