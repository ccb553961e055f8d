"""What DeepSpeed writes is recorded; a refused write is told at the end of the block, all else at once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from swamp_dist.train.engine_files import recorded_writes


class _Saver:
    """Saves as DeepSpeed's own checkpoint engine does."""

    def save(self, state: Any, path: Any) -> None:
        torch.save(state, path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        os.makedirs(path, exist_ok=exist_ok)


def engine() -> SimpleNamespace:
    return SimpleNamespace(checkpoint_engine=_Saver())


def test_written_files_are_named_and_hold_what_was_saved(tmp_path: Path) -> None:
    played = engine()
    with recorded_writes(played) as files:
        played.checkpoint_engine.save({"a": torch.arange(5.0)}, str(tmp_path / "x.pt"))
    assert files == [tmp_path / "x.pt"]
    assert torch.equal(torch.load(tmp_path / "x.pt", mmap=True)["a"], torch.arange(5.0))


def save_and_go_on(path: Path, state: Any) -> tuple[Exception | None, bool]:
    """What leaves the block in which `state` is saved, and whether what follows the save was reached."""
    played, reached = engine(), False
    try:
        with recorded_writes(played):
            played.checkpoint_engine.save(state, str(path))
            reached = True
    except Exception as error:
        return error, reached
    return None, reached


@pytest.mark.parametrize("size", [3, 200_000])
def test_a_full_disk_is_told_at_the_end_and_names_its_file(tmp_path: Path, size: int) -> None:
    (tmp_path / "x.pt").symlink_to("/dev/full")
    error, reached = save_and_go_on(tmp_path / "x.pt", {"a": torch.ones(size)})
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (errno.ENOSPC, str(tmp_path / "x.pt"))
    assert reached


def test_a_folder_that_is_gone_is_told_at_the_end(tmp_path: Path) -> None:
    error, reached = save_and_go_on(tmp_path / "gone" / "x.pt", {})
    assert isinstance(error, FileNotFoundError)
    assert reached


def test_no_folder_is_made_in_one_that_is_gone(tmp_path: Path) -> None:
    played = engine()
    with pytest.raises(FileNotFoundError), recorded_writes(played):
        played.checkpoint_engine.makedirs(str(tmp_path / "gone" / "engine"), exist_ok=True)
    assert not (tmp_path / "gone").exists()
    with recorded_writes(played):
        played.checkpoint_engine.makedirs(str(tmp_path / "engine"), exist_ok=True)
    assert (tmp_path / "engine").is_dir()


class _Interrupted:
    """What a signal handler raises while torch writes appears in the middle of a save."""

    def __reduce__(self) -> Any:
        raise RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed.")


def test_what_a_signal_handler_raises_is_not_held_back(tmp_path: Path) -> None:
    error, reached = save_and_go_on(tmp_path / "x.pt", {"a": _Interrupted()})
    assert isinstance(error, RuntimeError)
    assert "DataLoader worker" in str(error)
    assert not reached
