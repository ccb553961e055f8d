"""Files that stay open, counted."""

import errno
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from swamp_dist.data import shard_files
from swamp_dist.data.entry import ShardError
from swamp_dist.data.shard_files import RESERVE, ShardFiles
from tests.data.shard_sets import build, open_reader


def _files(folder, count):
    paths = tuple(folder / f"{number}" for number in range(count))
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
    return ShardFiles(paths)


def _read(files, shard):
    return int(os.pread(files.descriptor(shard), 9, 0))


class _Limits:
    """Stands in for the limits of the process."""

    def __init__(self, monkeypatch, soft, hard, may_raise=True):
        self.soft, self.hard, self.may_raise = soft, hard, may_raise
        monkeypatch.setattr(shard_files.resource, "getrlimit", lambda _: (self.soft, self.hard))
        monkeypatch.setattr(shard_files.resource, "setrlimit", self._set)

    def _set(self, _, limits):
        if not self.may_raise or limits[0] > self.hard:
            raise ValueError("not allowed to raise maximum limit")
        self.soft, self.hard = limits


def test_no_file_of_320_shards_is_opened_again(tmp_path):
    files, random = _files(tmp_path, 320), np.random.default_rng(0)
    for _ in range(5):
        for shard in random.permutation(320).tolist():
            assert _read(files, shard) == shard
    assert files.opened == 320
    files.close()


def test_a_reader_opens_each_shard_once(tmp_path):
    reader = open_reader(build(tmp_path / "set"), "train", ("a",))
    for _ in range(3):
        reader.read(np.random.default_rng(0).permutation(37))
    assert reader.files_opened == 4
    reader.close()


def _next_number():
    number = os.open(os.devnull, os.O_RDONLY)
    os.close(number)
    return number


def test_the_soft_limit_is_raised_as_far_as_the_hard_one(tmp_path, monkeypatch):
    start = _next_number() + RESERVE + 10
    limits = _Limits(monkeypatch, start, start + 60)
    files = _files(tmp_path, 40)
    for shard in [*range(40), *range(40)]:
        assert _read(files, shard) == shard
    assert (limits.soft, files.opened) == (start + 60, 40)
    files.close()


@pytest.mark.parametrize("may_raise", [True, False])
def test_the_oldest_file_is_closed_where_the_limit_stands(tmp_path, monkeypatch, may_raise):
    room = _next_number() + RESERVE + 10
    _Limits(monkeypatch, room, room if may_raise else 2 * room, may_raise)
    files, before = _files(tmp_path, 40), len(os.listdir("/proc/self/fd"))
    for shard in range(40):
        assert _read(files, shard) == shard
        assert len(os.listdir("/proc/self/fd")) <= before + 10
    assert files.opened == 40
    assert _read(files, 39) == 39
    assert files.opened == 40  # the newest are open
    assert _read(files, 0) == 0
    assert files.opened == 41
    files.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_room_is_made_where_others_of_the_process_took_it_all(tmp_path, monkeypatch):
    files, refused = _files(tmp_path, 3), []
    _read(files, 0)
    opens = Path.open

    def refuse_once(path, *args, **kwargs):
        if not refused:
            refused.append(path)
            raise OSError(errno.EMFILE, "Too many open files")
        return opens(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", refuse_once)
    assert _read(files, 1) == 1
    refused.clear()
    files.close()
    with pytest.raises(ShardError, match="2: cannot be opened .Too many open files"):
        files.descriptor(2)


def test_a_limit_without_end_leaves_room(monkeypatch):
    _Limits(monkeypatch, resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    assert shard_files._is_room_left(10**6)
