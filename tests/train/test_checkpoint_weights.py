"""Weights that are taken out of a checkpoint: those that its run would hand on, whatever layout wrote it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from swamp_dist.errors import UserError
from swamp_dist.file_names import run_of, weights_file
from swamp_dist.train.checkpoint_weights import extract_weights
from swamp_dist.train.weights import load_weights
from tests.end_to_end.command import refused, swamp, write_job


@pytest.fixture
def stopped(trained_once: Path, tmp_path: Path) -> Path:
    """A run that has committed step 12 and 16 and left neither weights nor result."""
    run = shutil.copytree(trained_once, tmp_path / "stopped")
    (run / "weights.safetensors").rename(tmp_path / "whole.safetensors")
    (run / "result.json").unlink()
    return run


@pytest.mark.slow
def test_the_last_checkpoint_has_the_weights_of_the_finished_run(stopped: Path, tmp_path: Path) -> None:
    whole = load_weights(tmp_path / "whole.safetensors")
    for named in (stopped, Path(f"{stopped}@16"), stopped / "checkpoints" / "step-16"):
        found = load_weights(named)
        assert found.tensors.keys() == whole.tensors.keys()
        assert all(torch.equal(x, whole.tensors[name]) for name, x in found.tensors.items())
        assert {key: found.metadata[key] for key in whole.metadata} == whole.metadata
        assert run_of(named) == stopped
    earlier = load_weights(Path(f"{stopped}@12"))
    assert earlier.metadata["step"] == "12"
    assert not all(torch.equal(x, whole.tensors[name]) for name, x in earlier.tensors.items())


def test_a_checkpoint_that_was_made_anew_gives_its_weights_anew(stopped: Path) -> None:
    load_weights(Path(f"{stopped}@12"))
    shutil.rmtree(stopped / "checkpoints" / "step-12")
    assert load_weights(Path(f"{stopped}@12")).metadata["step"] == "12"  # what was taken out stays
    step_16 = stopped / "checkpoints" / "step-16"
    path = weights_file(step_16)
    extract_weights(step_16)
    first = path.stat().st_mtime_ns
    extract_weights(step_16)
    assert path.stat().st_mtime_ns == first
    manifest = step_16 / "MANIFEST.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=2))  # the same, in other bytes
    extract_weights(step_16)
    assert path.stat().st_mtime_ns > first


def test_a_damaged_checkpoint_gives_no_weights(stopped: Path) -> None:
    state = next((stopped / "checkpoints/step-16/engine").glob("*model_states.pt"))
    state.write_bytes(state.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=r"not a whole checkpoint.*differs from its sha256"):
        extract_weights(stopped)


def test_a_step_that_is_not_there_is_refused_with_those_that_are(stopped: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)no checkpoint step-13.*stopped@16.*stopped@12"):
        load_weights(Path(f"{stopped}@13"))


def test_a_folder_whose_name_looks_like_a_step_is_itself(stopped: Path) -> None:
    named = stopped.rename(stopped.with_name("run@12"))
    assert run_of(named) == named
    assert weights_file(named).name == "weights-step-16.safetensors"


@pytest.mark.slow
def test_a_stopped_run_is_evaluated_and_started_from(
    stopped: Path, tiny_shards: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path, tiny_shards)
    done = swamp("run", job, "train=null", f"weights={stopped}@12", "--run-dir", tmp_path / "eval")
    assert done.code == 0, done.said
    assert f"evaluating {stopped}@12 (checkpoint {stopped / 'checkpoints' / 'step-12'})" in done.said
    begun = swamp("run", job, "train.epochs=1", f"train.init_from={stopped}", "--run-dir", tmp_path / "next")
    assert begun.code == 0, begun.said
    assert f"starting from {stopped} (checkpoint {stopped / 'checkpoints' / 'step-16'})" in begun.said


def test_random_weights_are_evaluated_only_where_they_are_asked_for(
    tiny_shards: Path, tmp_path: Path
) -> None:
    job = write_job(tmp_path, tiny_shards)
    refused(
        swamp("run", job, "train=null", "--run-dir", tmp_path / "run"),
        "random weights would be evaluated",
        "weights=RUN",
        "random_weights=true",
    )
    asked = swamp("run", job, "train=null", "random_weights=true", "--run-dir", tmp_path / "run")
    assert asked.code == 0, asked.said


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 3])
def test_weights_of_a_sharded_checkpoint_are_whole(tiny_shards: Path, tmp_path: Path, stage: int) -> None:
    job, run = write_job(tmp_path, tiny_shards), tmp_path / "run"
    done = swamp("run", job, f"engine.zero_stage={stage}", "--ranks", 2, "--run-dir", run)
    assert done.code == 0, done.said
    whole, found = load_weights(run), load_weights(Path(f"{run}@16"))
    assert found.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(x, whole.tensors[name]) for name, x in found.tensors.items())
