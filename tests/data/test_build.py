import errno
import gc
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from swamp_dist.atomic_files import HashedFile
from swamp_dist.data.build import MissingPolicy, build_units, one_by_one
from swamp_dist.data.coverage import COVERAGE_TEXT
from swamp_dist.data.sample_checks import checked_samples
from swamp_dist.data.shard_plan import BuildSource, plan_build, unit_entries
from swamp_dist.data.shard_writer import ShardWriter
from swamp_dist.data.staging import finished_units
from swamp_dist.data.verify import verify_shards
from swamp_dist.errors import UserError
from swamp_dist.records import RawSplit
from tests.data.raw_sets import SPLITS, build_raw, content, open_raw, prepared, reads, recipe
from tests.data.shard_sets import build, sample

SKIP = MissingPolicy(may_skip=True, max_share=0.2)


def nothing_to_see(done: int, total: int) -> None:
    pass


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "3be693c9a709e7641a48a8484dcca5c7814f6f8444ad1286bb7f8f1e132f76e4"),
        (
            {"splits": {"train": 200, "test": 30}, "items": (1, 3)},
            "66e6c73eda6081f9632c75f5a800e2567d6468075bd63b1fffce64da31b80767",
        ),
        ({"seed": None}, "d4c9fefec9bd3af0cc2fa9e326ba6faeb7a7e6c854088d3b47da206d1e3dd8f9"),
    ],
)
def test_the_same_samples_and_settings_always_have_the_same_hash(tmp_path, arguments, expected):
    assert build(tmp_path / "set", **arguments).hash == expected


def test_a_build_that_stops_says_nothing_but_its_error(tmp_path, monkeypatch):
    """The stream of a tar that is forgotten would write on, and Python would print what comes of it."""
    said = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with pytest.raises(UserError, match="no 3D features"):
        build_raw(tmp_path / "set", open_raw(tmp_path / "log", bad=("key-0003",)))

    def fail_inside():
        with ShardWriter(tmp_path / "written") as out:
            out.write(sample(0))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    gc.collect()
    assert said == []


def test_a_build_reads_every_entry_once_and_holds_one(tmp_path):
    log, open_now, most = tmp_path / "log", 0, 0

    class Counted(np.ndarray):
        def __array_finalize__(self, obj: object) -> None:
            nonlocal open_now, most
            open_now += 1
            most = max(most, open_now)

        def __del__(self) -> None:
            nonlocal open_now
            open_now -= 1

    source = open_raw(log)
    split = source.splits["train"]

    def read(i):
        found = split.read(i)
        return replace(found, fields={k: np.array(v).view(Counted) for k, v in found.fields.items()})

    manifest = build_raw(tmp_path / "set", BuildSource({"train": RawSplit(split.keys, read)}))
    assert len(manifest.split("train")) == 37
    assert sorted(reads(log)) == [f"train/{key}" for key in split.keys]
    assert most <= 8  # two fields of an entry and of the next one, with views of them; a shard has 20


# -- kills -----------------------------------------------------------------------------------------


def _build_and_die(folder: Path, log: Path, event: int, before: bool) -> None:
    """Build, and die before or after the renaming of the given number."""
    count = 0

    def deadly(rename: Callable[[Path, Path], Path]) -> Callable[[Path, Path], Path]:
        def renaming(self: Path, target: Path) -> Path:
            nonlocal count
            count += 1
            if count == event and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = rename(self, target)
            if count == event:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return renaming

    Path.replace = deadly(Path.replace)  # type: ignore[method-assign]
    Path.rename = deadly(Path.rename)  # type: ignore[method-assign]
    build_raw(folder, open_raw(log))


def _die(target: Callable[..., None], *args: object) -> None:
    child = get_context("fork").Process(target=target, args=args)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


_EVENTS = 2 * 6 + 2 * 2 + 2 + 1 + 1
"""Renamings of a build: tar and sidecar of 6 shards, 2 indexes of 2 splits, 2 reports, manifest, set."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    build_raw(folder / "set", open_raw(folder / "log"))
    return content(folder / "set")


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("event", range(1, _EVENTS + 1))
def test_a_build_killed_at_a_renaming_goes_on_and_ends_with_the_same_bytes(tmp_path, whole, event, before):
    folder, log = tmp_path / "set", tmp_path / "log"
    _die(_build_and_die, folder, log, event, before)
    published = event == _EVENTS and not before
    assert folder.exists() == published
    source = open_raw(log)
    plan = plan_build(recipe(), source)
    done = set(plan.units) if published else set(finished_units(prepared(folder, source)[0], plan, False))
    assert len(done) == min(6, (event - before) // 2)
    log.unlink()
    build_raw(folder, source)
    missing = {
        f"{unit.split}/{source.splits[unit.split].keys[i]}"
        for unit in plan.units
        if unit not in done
        for i in unit_entries(plan, unit)
    }
    assert sorted(reads(log)) == sorted(missing)
    assert content(folder) == whole


@pytest.mark.parametrize("key", ["key-0003", "key-0011", "key-0036"])
def test_a_build_killed_inside_a_shard_loses_only_that_shard(tmp_path, whole, key):
    folder, log = tmp_path / "set", tmp_path / "log"
    _die(build_raw, folder, open_raw(log, deadly=key))
    (half,) = (tmp_path / ".set.building").glob("*/scratch/*.tar")
    killed = len(reads(log))
    build_raw(folder, open_raw(log))
    assert not half.exists()
    assert len(reads(log)) == sum(SPLITS.values()) + 1 + (killed - 1) % 10
    assert content(folder) == whole


def test_what_a_killed_process_was_writing_is_removed_and_a_living_ones_file_is_not(tmp_path):
    staging, _ = prepared(tmp_path / "set", open_raw(tmp_path / "log"))
    child = get_context("fork").Process(target=int)
    child.start()
    child.join()
    own = f"{os.uname().nodename}+{os.getpid()}.train-000000.tar"
    for name in (own, f"{os.uname().nodename}+{child.pid}.train-000000.tar", "other+1.train-000000.tar"):
        (staging.scratch / name).write_bytes(b"half")
    staging.prepare()
    assert sorted(path.name for path in staging.scratch.iterdir()) == sorted(
        [own, "other+1.train-000000.tar"]
    )


def test_a_finished_shard_that_was_cut_is_built_again(tmp_path, whole, caplog):
    folder, log = tmp_path / "set", tmp_path / "log"
    _die(_build_and_die, folder, log, 9, True)
    (tar,) = (tmp_path / ".set.building").glob("*/set/train-000001.tar")
    tar.write_bytes(tar.read_bytes()[:-512])
    log.unlink()
    build_raw(folder, open_raw(log))
    assert "train-000001.tar: truncated" in caplog.text
    assert len(reads(log)) == 10 + 12
    assert content(folder) == whole


def test_shards_of_another_recipe_or_other_raw_data_are_not_gone_on_from(tmp_path, caplog):
    folder, log = tmp_path / "set", tmp_path / "log"
    _die(_build_and_die, folder, log, 9, True)
    log.unlink()
    build_raw(folder, open_raw(log, {"train": 36, "validation": 12}))
    assert "unfinished build of another recipe" in caplog.text
    assert len(reads(log)) == 48
    assert not (tmp_path / ".set.building").exists()


# -- missing raw data ------------------------------------------------------------------------------


def test_a_missing_entry_stops_the_build_by_name_and_finished_shards_stay(tmp_path, whole):
    folder, log = tmp_path / "set", tmp_path / "log"
    last = open_raw(log).splits["train"].keys[int(_last_train_entry(log))]
    with pytest.raises(
        UserError, match=rf"split 'train', entry {last}: /raw/{last}.npy is missing(.|\n)*skip"
    ):
        build_raw(folder, open_raw(log, bad=(last,)))
    assert not folder.exists()
    log.unlink()
    build_raw(folder, open_raw(log))  # the file has been found meanwhile
    assert len(reads(log)) == 7 + 12
    assert content(folder) == whole


def _last_train_entry(log: Path) -> int:
    plan = plan_build(recipe(), open_raw(log))
    return int(unit_entries(plan, plan.units[3])[-1])


def test_skipped_entries_are_left_out_counted_and_named(tmp_path, caplog):
    bad = ("key-0003", "key-0020")
    manifest = build_raw(tmp_path / "set", open_raw(tmp_path / "log", bad=bad), SKIP)
    keys = manifest.split("train").keys(range(35))
    assert sorted(keys) == [sample(i).key for i in range(37) if sample(i).key not in bad]
    assert (len(manifest.split("validation")), verify_shards(tmp_path / "set")) == (11, [])
    text = (tmp_path / "set" / COVERAGE_TEXT).read_text()
    assert "entries: 35 of 37 listed" in text
    assert "left out: 2 (5.405%)" in text
    assert "2 x no 3D features: key-00" in text
    assert caplog.text.count("leaving out entries: no 3D features") == 1


def test_a_test_split_is_whole_or_not_built_whatever_may_be_skipped(tmp_path):
    source = open_raw(tmp_path / "log", {"train": 37, "test": 12}, bad=("key-0003",))
    with pytest.raises(UserError, match=r"'test', entry key-0003(.|\n)*does not reach it"):
        build_raw(tmp_path / "set", source, SKIP)
    assert not (tmp_path / "set").exists()


def test_more_missing_entries_than_allowed_fail_although_skipping_is_asked_for(tmp_path):
    bad = tuple(sample(i).key for i in range(0, 16, 2))  # 8 of 37 and 6 of 12
    with pytest.raises(
        UserError, match=r"split 'train': 8 of 37(.|\n)*more than max_missing_share=0.2(.|\n)*8 x"
    ):
        build_raw(tmp_path / "set", open_raw(tmp_path / "log", bad=bad), SKIP)
    assert not (tmp_path / "set").exists()
    allowed = MissingPolicy(may_skip=True, max_share=0.5)
    before = len(reads(tmp_path / "log"))
    assert len(build_raw(tmp_path / "set", open_raw(tmp_path / "log", bad=bad), allowed).split("train")) == 29
    assert len(reads(tmp_path / "log")) < before + 37  # finished shards were kept


def test_a_shard_that_lost_entries_is_built_again_where_all_are_asked_for(tmp_path, whole):
    folder, log = tmp_path / "set", tmp_path / "log"
    source = open_raw(log, bad=("key-0003",))
    staging, plan = prepared(folder, source)
    build_units(staging, plan, SKIP, one_by_one(staging, plan, source, SKIP), nothing_to_see)
    log.unlink()
    build_raw(folder, open_raw(log))
    assert len(reads(log)) in (
        20,
        22,
    )  # the shards of key-0003 in both splits, one of them maybe the short one
    assert content(folder) == whole


def test_a_shard_without_entries_leaves_no_file_and_an_empty_split_is_refused(tmp_path):
    log = tmp_path / "log"
    plan = plan_build(recipe(), open_raw(log))
    bad = tuple(sample(int(i)).key for i in unit_entries(plan, plan.units[1]))
    rest = MissingPolicy(may_skip=True, max_share=1)
    manifest = build_raw(tmp_path / "set", open_raw(log, {"train": 37}, bad), rest)
    assert [shard.file[6:12] for shard in manifest.split("train").record.shards] == [
        "000000",
        "000002",
        "000003",
    ]
    assert verify_shards(tmp_path / "set") == []
    everything = tuple(sample(i).key for i in range(37))
    with pytest.raises(UserError, match="split 'train' is empty: all of its entries were left out"):
        build_raw(tmp_path / "none", open_raw(log, {"train": 37}, everything), rest)


def test_values_that_are_not_finite_are_a_bad_entry(tmp_path):
    split = open_raw(tmp_path / "log").splits["train"]

    def read(i):
        found = split.read(i)
        return replace(found, fields={**found.fields, "a": np.full(3, np.nan, "f4")}) if i == 5 else found

    source = BuildSource({"train": RawSplit(split.keys, read)})
    with pytest.raises(UserError, match=r"key-0005: field 'a': 3 values are not finite"):
        build_raw(tmp_path / "set", source)
    assert len(build_raw(tmp_path / "set", source, SKIP).split("train")) == 36


# -- what no shard sees alone ----------------------------------------------------------------------


def test_shards_with_other_fields_are_named_whoever_built_them(tmp_path):
    source = open_raw(tmp_path / "log")
    staging, plan = prepared(tmp_path / "set", source)
    split = source.splits["train"]

    def read(i):
        return replace(split.read(i), fields={"a": np.zeros(4, "f4"), "b": np.zeros(3, "f4")})

    other = BuildSource({**source.splits, "train": RawSplit(split.keys, read)})
    policy = MissingPolicy()
    build_units(
        staging, plan, policy, one_by_one(staging, plan, other, policy), nothing_to_see, plan.units[1:2]
    )
    build = lambda units, _: one_by_one(staging, plan, source, policy)(units, {})  # noqa: E731
    with pytest.raises(
        UserError,
        match=r"field 'a': float32 \(3\); train-000001.tar \(entry 'key-\d+' and on\): float32 \(4\)",
    ):
        build_raw(tmp_path / "set", source, builder=build)


def test_samples_of_a_source_are_checked_as_a_build_checks_them():
    fields = {}
    assert len(list(checked_samples([sample(0), sample(1)], "train", fields, frozenset()))) == 2
    assert fields.keys() == {"a", "b"}
    with pytest.raises(UserError, match="two entries have the key 'key-0000'"):
        list(checked_samples([sample(0), sample(0)], "train", fields, frozenset()))


def test_a_source_that_reads_another_entry_than_it_listed_is_refused(tmp_path):
    split = RawSplit([sample(i).key for i in range(5)], lambda i: sample(4 - i))
    with pytest.raises(UserError, match=r"is 'key-\d+', the source listed 'key-\d+'"):
        build_raw(tmp_path / "set", BuildSource({"train": split}))


def test_a_full_disk_says_so_and_leaves_finished_shards(tmp_path, whole, monkeypatch):
    folder, log, left = tmp_path / "set", tmp_path / "log", [90_000]
    write = HashedFile.write

    def limited(self, data):
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(HashedFile, "write", limited)
        with pytest.raises(
            UserError, match=r"shard train-00000\d in .*: the disk is full(.|\n)*same command"
        ):
            build_raw(folder, open_raw(log))
    done = len(list((tmp_path / ".set.building").glob("*/finished/*")))
    assert done > 0
    assert not list((tmp_path / ".set.building").glob("*/scratch/*"))
    log.unlink()
    build_raw(folder, open_raw(log))
    assert len(reads(log)) == 49 - 10 * done
    assert content(folder) == whole
