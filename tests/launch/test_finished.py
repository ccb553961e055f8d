from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from swamp_dist.config import StageSettings
from swamp_dist.launch.finished import check_finished
from swamp_dist.launch.provenance import weights_sha256
from swamp_dist.launch.rundir import RunDir
from swamp_dist.records import StageResult, UserError
from tests.train.tiny import tiny_stage


def _finished(folder: Path, settings: StageSettings, **provenance: Any) -> RunDir:
    run_dir = RunDir(folder)
    run_dir.write_stage(settings)
    run_dir.write_result(StageResult("tiny", folder, None, None, 0, (), provenance))
    return run_dir


def test_the_same_stage_and_free_settings_are_finished(tmp_path: Path) -> None:
    run_dir = _finished(tmp_path / "run", tiny_stage(tmp_path), initial_weights_sha256=None)
    check_finished(run_dir, tiny_stage(tmp_path))
    check_finished(run_dir, tiny_stage(tmp_path, data__workers=3, train__log_every=7, engine__zero_stage=2))


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    run_dir = _finished(tmp_path / "run", tiny_stage(tmp_path), initial_weights_sha256=None)
    with pytest.raises(UserError, match=r"(?s)train\.epochs: made with 4, asked for 9.*--run-dir"):
        check_finished(run_dir, tiny_stage(tmp_path, train__epochs=9))


def test_initial_weights_that_changed_since_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, weights)
    settings = tiny_stage(tmp_path, train__init_from=str(weights))
    run_dir = _finished(tmp_path / "run", settings, initial_weights_sha256=weights_sha256(weights))
    check_finished(run_dir, settings)
    save_file({"x": torch.ones(1)}, weights)
    with pytest.raises(UserError, match="weights have changed"):
        check_finished(run_dir, settings)


def test_an_unfinished_folder_is_free(tmp_path: Path) -> None:
    check_finished(RunDir(tmp_path / "none"), tiny_stage(tmp_path))
