from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.end_to_end.command import write_job


@pytest.fixture
def shards(tiny_shards: Path, tmp_path: Path) -> Path:
    """A copy of the tiny set, to be damaged."""
    return shutil.copytree(tiny_shards, tmp_path / "shards")


@pytest.fixture
def job(shards: Path, tmp_path: Path) -> Path:
    return write_job(tmp_path, shards)


@pytest.fixture
def run_dir(trained_once: Path, tmp_path: Path) -> Path:
    """A copy of the trained run that was killed before its result: the next command continues it."""
    folder = shutil.copytree(trained_once, tmp_path / "run")
    (folder / "result.json").unlink()
    return folder
