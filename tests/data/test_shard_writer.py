"""A set written sample by sample: the bytes of a build, one sample in memory, whole or not there."""

import errno
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from swamp_dist.data import shard_unit
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.shard_writer import ShardWriter
from swamp_dist.data.verify import verify_shards
from swamp_dist.data.writer import write_shards
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import Sample
from tests.data.raw_sets import content
from tests.data.shard_sets import sample


def files(folder):
    """What stands beside a set, but its lock."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_the_bytes_are_those_of_a_set_written_from_memory(tmp_path):
    samples = {
        "train": [sample(i, (2, 1)) for i in range(23)],
        "test": [sample(i, (3, 1)) for i in range(10)],
    }
    write_shards(samples, tmp_path / "memory", "tiny", {"kind": "written", "from": "x"}, 10, None, ["a"])
    with ShardWriter(
        tmp_path / "set", name="tiny", entries_per_shard=10, item_fields=["a"], source={"from": "x"}
    ) as out:
        for i in range(23):
            out.write(samples["train"][i])
            if i < 10:
                out.write(samples["test"][i], "test")
    assert content(tmp_path / "set") == content(tmp_path / "memory")
    assert verify_shards(tmp_path / "set") == []
    assert files(tmp_path) == ["memory", "set"]


def test_a_sample_is_let_go_when_it_is_written(tmp_path):
    alive = []
    with ShardWriter(tmp_path / "set") as out:
        for i in range(5):
            array = np.full(3, i, np.float32)
            alive.append(weakref.ref(array))
            out.write(Sample(f"k{i}", {"a": array}))
            del array
            gc.collect()
            assert [ref() for ref in alive] == [None] * len(alive)


def test_a_block_that_fails_leaves_nothing_and_an_older_set_as_it_was(tmp_path):
    with ShardWriter(tmp_path / "set") as out:
        out.write(sample(0))
    before = content(tmp_path / "set")

    def fail_inside():
        with ShardWriter(tmp_path / "set", force=True) as out:
            out.write(sample(1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert content(tmp_path / "set") == before
    with pytest.raises(UserError, match="nothing was written"), ShardWriter(tmp_path / "other"):
        pass
    assert files(tmp_path) == ["set"]


def test_what_a_killed_writer_left_is_removed(tmp_path):
    left = tmp_path / ".set.building" / "written" / "set"
    left.mkdir(parents=True)
    (left / "train-000007.tar").write_bytes(b"half")
    with ShardWriter(tmp_path / "set") as out:
        out.write(sample(0))
    assert sorted(p.name for p in (tmp_path / "set").glob("*.tar")) == ["train-000000.tar"]
    assert files(tmp_path) == ["set"]


def test_a_set_is_replaced_only_on_demand_and_other_folders_never(tmp_path):
    with ShardWriter(tmp_path / "set") as out:
        out.write(sample(0))
    with (
        pytest.raises(UserError, match=r"holds a shard set already.*force=True"),
        ShardWriter(tmp_path / "set"),
    ):
        pass
    with ShardWriter(tmp_path / "set", force=True) as out:
        out.write(sample(7))
    assert load_manifest(tmp_path / "set").split("train").keys([0]) == ["key-0007"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match="not a shard set"), ShardWriter(tmp_path / "mine", force=True):
        pass
    assert files(tmp_path) == ["mine", "set"]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (sample(0), "two entries have the key 'key-0000'"),
        (replace(sample(1), key="a/b"), "'a/b' is not a safe name"),
        (replace(sample(1), fields={"a": np.zeros(3, np.float32)}), "the first entry has"),
        (
            replace(sample(1), fields={"a": [1.0], "b": [2.0]}),
            "field 'a': expected a numpy array, found list",
        ),
        (
            replace(sample(1), captions=("a cat",)),
            r"captions become word ids in a build alone(.|\n)*kind: python",
        ),
        (replace(sample(1), key="k" * 95), "a member name may have 100 characters"),
    ],
)
def test_a_sample_that_cannot_be_stored_is_named_and_the_others_are_kept(tmp_path, bad, words):
    with ShardWriter(tmp_path / "set") as out:
        out.write(sample(0))
        with pytest.raises(UserError, match=words):
            out.write(bad)
        out.write(sample(2))
    assert load_manifest(tmp_path / "set").split("train").keys(range(2)) == ["key-0000", "key-0002"]
    assert verify_shards(tmp_path / "set") == []


def test_a_value_that_is_not_finite_is_a_bad_entry(tmp_path):
    nan = np.array([0, np.nan, 0], np.float32)
    with ShardWriter(tmp_path / "set") as out:
        out.write(sample(0))
        with pytest.raises(BadEntry, match="1 values are not finite"):
            out.write(replace(sample(1), fields={"a": nan, "b": nan}))


def test_a_full_disk_ends_the_writer_even_if_the_program_goes_on(tmp_path, monkeypatch):
    def full(self, sample):
        raise OSError(errno.ENOSPC, "No space left on device")

    def go_on():
        with ShardWriter(tmp_path / "set") as out:
            out.write(sample(0))
            with monkeypatch.context() as patch:
                patch.setattr(shard_unit.EntryTar, "add", full)
                with pytest.raises(UserError, match="the disk is full"):
                    out.write(sample(1))
            with pytest.raises(UserError, match="the disk is full"):
                out.write(sample(2))

    with pytest.raises(UserError, match="the disk is full"):
        go_on()
    assert files(tmp_path) == []


def test_arguments_that_are_none_are_refused(tmp_path):
    with pytest.raises(ValueError, match="entries_per_shard = 0"):
        ShardWriter(tmp_path / "set", entries_per_shard=0)
    with pytest.raises(ValueError, match="expected several names"):
        ShardWriter(tmp_path / "set", item_fields="text")
