"""Whoever reads weights compares them with what was recorded when they were written."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

import pytest
import torch

from swamp_dist.errors import UserError
from swamp_dist.records import StageResult
from swamp_dist.runs.folder import RunDir
from swamp_dist.train.weights import load_weights, save_weights
from swamp_dist.train.weights_record import record_sha256, recorded_sha256
from tests.end_to_end.command import flip


def finished(folder: Path, *, recorded: bool = True) -> Path:
    """A run folder with weights and result; of an earlier version where nothing is `recorded`."""
    run_dir = RunDir(folder)
    run_dir.create()
    sha256 = save_weights(run_dir.weights, {"a": torch.ones(3)}, {})
    result = StageResult("x", folder, run_dir.weights, 1, 1, (), {}, sha256 if recorded else None)
    run_dir.write_result(result)
    return run_dir.weights


@pytest.mark.parametrize("by_folder", [True, False])
def test_weights_of_a_run_are_compared_with_its_result(tmp_path: Path, by_folder: bool) -> None:
    path = finished(tmp_path / "run")
    source = path.parent if by_folder else path
    assert load_weights(source).sha256 == recorded_sha256(path)
    flip(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match="it has changed since it was written"):
        load_weights(source)


def test_weights_beside_a_result_that_nobody_can_read_are_refused(tmp_path: Path) -> None:
    path = finished(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json cannot be read"):
        load_weights(path)


def test_imported_weights_are_compared_with_the_file_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    record_sha256(path, save_weights(path, {"a": torch.ones(3)}, {}))
    subprocess.run(["sha256sum", "--check", f"{path.name}.sha256"], cwd=tmp_path, check=True)
    load_weights(path)
    flip(path, path.stat().st_size - 1)
    with pytest.raises(UserError, match="it has changed since it was written"):
        load_weights(tmp_path)


def test_weights_of_an_earlier_version_are_read_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("swamp_dist").propagate = True
    path = finished(tmp_path, recorded=False)
    for _ in range(3):
        load_weights(path)
    assert caplog.text.count(f"{path}: no sha256 was recorded of it, so it is used unchecked") == 1
