"""Both ways of reading by offset: equal values, equal errors."""

import hashlib
import pickle

import numpy as np
import pytest

from swamp_dist.data.entry import ShardError
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.payload_index import payload_dtype
from swamp_dist.data.payload_reader import PayloadReader
from swamp_dist.data.seek_reader import SeekReader
from swamp_dist.data.writer import write_shards
from swamp_dist.errors import UserError
from swamp_dist.records import Sample
from tests.data.image_sets import encode, smooth
from tests.data.shard_sets import build, flip, members, open_reader

FIELDS = ("flags", "half", "ids", "scalar", "set", "image", "text", "texts")


def _every_kind(number):
    """One field of every kind; the order of the fields changes from entry to entry."""
    random = np.random.default_rng(number)
    fields = {
        "flags": random.random(3) < 0.5,
        "half": random.standard_normal((5, 7)).astype(np.float16),
        "ids": random.integers(0, 9, (1 + number % 4, 3), dtype=np.int32),
        "scalar": np.array(number, np.int64),
        "set": random.standard_normal((1 + number % 6, 4)).astype(np.float32),
        "image": encode(smooth(number), "PNG"),
        "text": f"text {number} \u00e9",
        "texts": (f"one {number}", "two"),
    }
    names = random.permutation(list(fields)).tolist() if number else list(fields)
    return Sample(
        f"key-{number}", {name: fields[name] for name in names}, number % 3, {"b": "c", "n": str(number)}
    )


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    samples = (_every_kind(number) for number in range(40))
    folder = tmp_path_factory.mktemp("kinds") / "set"
    write_shards({"train": samples}, folder, "kinds", {}, 15, 0, ["ids", "texts"], ragged_fields=["set"])
    return load_manifest(folder)


def _same(one, other):
    assert (one.dtype, one.shape, one.flags.writeable) == (other.dtype, other.shape, other.flags.writeable)
    assert one.tolist() == other.tolist() if one.dtype == object else one.tobytes() == other.tobytes()


def test_every_kind_of_field_has_the_same_bits_in_both_ways(manifest):
    order = np.random.default_rng(1).permutation(40)
    ways = [open_reader(manifest, "train", FIELDS, payloads) for payloads in (True, False)]
    assert [type(way) for way in ways] == [PayloadReader, SeekReader]
    for way in ("read", "each"):
        for one, other in zip(*(getattr(reader, way)(order) for reader in ways), strict=True):
            assert (one.index, one.key, one.label) == (other.index, other.key, other.label)
            assert dict(one.text) == other.text == {"b": "c", "n": one.key[4:]}
            assert one.text == other.text
            assert repr(one.text) == repr(other.text)
            for name in FIELDS:
                _same(one.arrays[name], other.arrays[name])
    for columns in zip(*(reader.columns(order).values() for reader in ways), strict=True):
        for part in ("first", "count"):
            assert getattr(columns[0], part).tolist() == getattr(columns[1], part).tolist()
        for one, other in zip(columns[0].rows, columns[1].rows, strict=True):
            assert np.asarray(one).tolist() == np.asarray(other).tolist()


def test_the_rows_of_columns_outlive_what_is_read_next(manifest):
    reader = open_reader(manifest, "train", FIELDS)
    columns = reader.columns([3, 4, 5])
    before = {name: pickle.dumps(column.rows) for name, column in columns.items()}
    reader.columns([6, 7, 8])
    assert {name: pickle.dumps(column.rows) for name, column in columns.items()} == before


def test_a_pickled_reader_maps_the_file_again(tmp_path):
    reader = open_reader(build(tmp_path / "set", {"train": 500}, per_shard=250), "train", ("a",))
    expected = reader.read([7])[0].arrays["a"].tolist()
    content = pickle.dumps(reader)
    assert len(content) < 500 * payload_dtype("ab").itemsize / 4
    assert pickle.loads(content).read([7])[0].arrays["a"].tolist() == expected
    again = pickle.dumps(pickle.loads(content))  # before its first read
    assert pickle.loads(again).read([7])[0].arrays["a"].tolist() == expected


@pytest.fixture
def small(tmp_path):
    return build(tmp_path / "set", seed=None)


def test_every_byte_of_a_row_of_the_index_counts(small):
    path = small.folder / "train.payloads.npy"
    rows = np.load(path)
    size, start = rows.itemsize, path.stat().st_size - rows.nbytes + 2 * rows.itemsize
    assert open_reader(small, "train", ("a", "b")).read([2])[0].key == "key-0002"
    for byte in range(size):
        flip(path, start + byte, byte % 8)
        reader = open_reader(small, "train", ("a", "b"))
        with pytest.raises(ShardError, match=r"key-0002.*row 2 of train\.payloads\.npy.*\n.*shards index"):
            reader.read([2])
        assert reader.read([3])[0].key == "key-0003"
        flip(path, start + byte, byte % 8)


def test_every_byte_of_an_entry_counts(small):
    shard = small.folder / "train-000000.tar"
    sound, row = shard.read_bytes(), small.split("train").rows[2]
    reader = open_reader(small, "train", ("a", "b"))
    with shard.open("r+b") as file:
        for byte in range(int(row["offset"]), int(row["offset"] + row["size"]), 5):
            file.seek(byte)
            file.write(bytes([sound[byte] ^ 1 << byte % 8]))
            file.flush()
            with pytest.raises(ShardError, match="key-0002"):
                reader.read([2])
            file.seek(byte)
            file.write(sound[byte : byte + 1])
            file.flush()
    assert reader.read([2])[0].key == "key-0002"


def test_a_field_that_is_not_asked_for_is_not_compared(small):
    shard = small.folder / "train-000000.tar"
    flip(shard, members(shard)["key-0002.b.npy"][1] - 1)
    for payloads in (True, False):
        assert open_reader(small, "train", ("a",), payloads).read([2])[0].arrays["a"].tolist() == [2, 2, 2]
        with pytest.raises(ShardError, match="field 'b' does not belong to this entry or is damaged"):
            open_reader(small, "train", ("a", "b"), payloads).read([2])


def test_rows_of_another_order_are_told(small):
    path = small.folder / "train.payloads.npy"
    np.save(path, np.load(path)[::-1])
    with pytest.raises(ShardError, match=r"row 0 of train\.payloads\.npy does not agree"):
        open_reader(small, "train", ("a",)).read([0])


def test_fields_exchanged_in_a_row_are_told(small):
    path = small.folder / "train.payloads.npy"
    rows = np.load(path)
    rows["payloads"][2] = rows["payloads"][2][::-1]
    np.save(path, rows)
    for fields in (("a", "b"), ("b",)):
        reader = open_reader(small, "train", fields)
        with pytest.raises(ShardError, match=r"key-0002.*row 2 of train\.payloads\.npy does not agree"):
            reader.read([2])
        assert reader.read([3])[0].key == "key-0003"


def test_a_class_that_the_entry_does_not_have_is_told(small):
    path, train = small.folder / "train.index.npy", small.record.splits["train"]
    rows = np.load(path)
    rows["label"][2] += 1
    np.save(path, rows)
    named = train.index.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    splits = {"train": train.model_copy(update={"index": named})}
    manifest = Manifest(small.folder, small.record.model_copy(update={"splits": splits}))
    for payloads in (True, False):
        reader = open_reader(manifest, "train", ("a",), payloads)
        assert reader.read([3])[0].key == "key-0003"
        with pytest.raises(ShardError, match=r"entry 'key-0002': mispaired: entry\.json says"):
            reader.read([2])


@pytest.mark.parametrize("damage", ["torn", "empty", "other rows", "fewer"])
def test_a_file_that_is_no_payload_index_is_told_before_a_read(small, damage):
    path = small.folder / "train.payloads.npy"
    content = path.read_bytes()
    if damage == "torn":
        path.write_bytes(content[:-9])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        np.save(path, np.zeros(37, np.int64) if damage == "other rows" else np.load(path)[:-1])
    with pytest.raises(UserError, match=r"train\.payloads\.npy: cannot be read as .*\n.*swamp shards index"):
        open_reader(small, "train", ("a",))
