from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.numba_faults import broken_numba, looks_again, without_numba  # noqa: F401  (fixtures)

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # the suite tests the CPU path; GPU tests say so themselves
# Ray starts its workers at priority 15: beside another test, ranks in them would run into their time limits.
os.environ.setdefault("RAY_worker_niceness", "0")

# Every test has a time limit of its own; a deadline per example fails on a busy machine only. Every run draws
# the same examples, so that a failure can be seen again; `--hypothesis-profile=fresh` draws others.
settings.register_profile("swamp", deadline=None, derandomize=True)
settings.register_profile("fresh", deadline=None)
settings.load_profile("swamp")


@pytest.fixture(autouse=True)
def _package_log_reaches_caplog() -> None:
    """Every test starts with the package's logger as a new process has it.

    `configure_logging` and `log_to_console` change it for the rest of the process; a test before, or a
    fixture of a whole file, may have called them.
    """
    logger = logging.getLogger("swamp_dist")
    logger.setLevel(logging.NOTSET)
    logger.propagate = True
    logger.handlers.clear()


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic shard set with train, validation and test splits."""
    from swamp_dist.config import ShardSettings, SyntheticSource, SyntheticSplit
    from swamp_dist.prepare.build import build_shards

    folder = tmp_path_factory.mktemp("shards") / "tiny"
    splits = {
        "train": SyntheticSplit(classes=(0, 6), total=200),
        "validation": SyntheticSplit(classes=(0, 6), total=40),
        "test": SyntheticSplit(classes=(0, 6), total=60),
    }
    source = SyntheticSource(classes=6, per_class=50, dim=12, hidden=(16,), splits=splits)
    build_shards(ShardSettings(name="tiny", source=source, entries_per_shard=64), folder)
    return folder


@pytest.fixture(scope="session")
def trained_once(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is through, over the undamaged set; commits step-12 and step-16."""
    from tests.end_to_end.command import swamp, write_job

    folder = tmp_path_factory.mktemp("trained")
    done = swamp("run", write_job(folder, tiny_shards), "--run-dir", folder / "run")
    assert done.code == 0, done.said
    return folder / "run"
