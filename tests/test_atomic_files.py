from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from swamp_dist.atomic_files import (
    HashedFile,
    Sink,
    open_atomically,
    replace_atomically,
    write_atomically,
    write_through,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from swamp_dist.atomic_files import write_atomically

def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)

setattr({owner}, "{function}", kill)
write_atomically(Path(sys.argv[1]), "new")
"""


def write_open(path: Path) -> None:
    with open_atomically(path) as file:
        file.write(b"new")


def write_by_name(path: Path) -> None:
    with replace_atomically(path) as temporary:
        temporary.write_text("new")


def write_whole(path: Path) -> None:
    write_atomically(path, "new")


writers = pytest.mark.parametrize("write", [write_open, write_by_name, write_whole])


@writers
@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(("owner", "function"), [(os, "fsync"), (Path, "replace")])
def test_a_fault_between_write_and_rename_leaves_the_old_file_and_nothing_else(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    write: Callable[[Path], None],
    fault: BaseException,
    owner: object,
    function: str,
) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail(*_: object) -> NoReturn:
        raise fault

    monkeypatch.setattr(owner, function, fail)
    with pytest.raises(type(fault)):
        write(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@writers
def test_file_and_folder_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    calls = []
    fsync, replace = os.fsync, Path.replace

    def noted_sync(descriptor: int) -> None:
        calls.append("folder" if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir() else "file")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write(tmp_path / "x")
    assert calls == ["file", "rename", "folder"]
    assert (tmp_path / "x").read_text() == "new"


@pytest.mark.parametrize(("owner", "function"), [("os", "fsync"), ("Path", "replace")])
def test_a_kill_before_the_rename_leaves_the_old_file_and_the_next_write_clears_up(
    tmp_path: Path, owner: str, function: str
) -> None:
    path = tmp_path / "result.json"
    path.write_text("old")
    other = tmp_path / f".{os.uname().nodename}+{os.getppid()}.result.json"  # of a process that lives
    other.write_text("half")
    code = KILLED.format(owner=owner, function=function)
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 3
    write_whole(path)
    assert path.read_text() == "new"
    assert sorted(tmp_path.iterdir()) == sorted([path, other])


@pytest.mark.parametrize("size", [3, 200_000])
def test_a_refused_write_is_told_by_the_system_and_not_by_the_library(tmp_path: Path, size: int) -> None:
    def write(sink: Sink) -> None:
        try:
            sink.write(b"x" * size)
            sink.flush()
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0") from None

    (tmp_path / "file").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: .*file"):
        write_through(tmp_path / "file", write)


def test_what_a_library_raises_for_itself_is_passed_on(tmp_path: Path) -> None:
    def write(sink: Sink) -> None:
        sink.write(b"half")
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        write_through(tmp_path / "file", write)
    with pytest.raises(FileNotFoundError):
        write_through(tmp_path / "gone" / "file", write)


def test_small_writes_reach_the_file_in_large_pieces(tmp_path: Path) -> None:
    path, sizes = tmp_path / "file", set()
    with HashedFile(path) as file:
        for _ in range(200):
            file.write(bytes(16_384))
            sizes.add(path.stat().st_size)
    assert sizes == {0, 2**20, 2 * 2**20, 3 * 2**20}
    assert path.stat().st_size == file.bytes == 200 * 16_384
