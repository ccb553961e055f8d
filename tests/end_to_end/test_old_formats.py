"""What version 0.1 wrote is still read: a shard set verifies, and a killed run ends as a whole one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.end_to_end.command import flip, sha256, swamp
from tests.end_to_end.old_run import JOB, PARAMETERS, STEP, Numbers, write_killed_run
from tests.end_to_end.old_shard_set import write_set

SET_SHA256 = {
    "coverage.json": "33c56939347441ed3f67561e66379cb6413c2fc55fd755c19837caed856eb54f",
    "coverage.txt": "addad0590b5b4b14f56b70e3211c9ffecd6bc39c94d3e92bf408a49eb63c5097",
    "manifest.json": "e7d3ca2167de689652dac9ae51aa8d901371c71343e5a57dac59d510513bc8eb",
    "test-000000.tar": "ee116fffaade9104f22ab9ab5e450930b5606ff3f9cb70cb6feec74677307f4a",
    "test.index.npy": "ed4333c10819f554f87346abb60cbba6c31f5362355b164aa9206a3aab395753",
    "train-000000.tar": "0a322343c77b8ffc8fad0a3c357652dc03bd2d3ef688b13e5137e7d940fb4c5d",
    "train-000001.tar": "f56f917e924cfde40384fe7fa32a293939f3c0b3e71a3c5f43cf46eb9f893657",
    "train.index.npy": "45885be62d8bc47aa2bfc2b6ee5e0a051289d91555aaaed4a21ef186bd2531b2",
    "validation-000000.tar": "572204cc8ebff7c993388616dd330ff44679b3ce0f7274db80a487b5796f1cd9",
    "validation.index.npy": "6762c971643a8f0ad9d5d6fdc91398195f4bcb8d39d8c1bebf3bfc89d1f385f8",
    "words.npy": "adad11b7d0043ee9b3b4d85b3abe68334d87fcabac065d63ae59edd9ba03e1a3",
    "words.txt": "b3d427b3d4f9ec1b1042292f1a28c49c6940ba9debb8eac3f024905f88f59097",
}
"""The files of the set that version 0.1 built from the same raw data."""


@pytest.fixture(scope="module")
def old_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("old") / "set"
    write_set(folder)
    return folder


@pytest.fixture(scope="module")
def whole_run(old_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as it ends where nothing kills it."""
    folder = tmp_path_factory.mktemp("whole")
    job = folder / "job.yaml"
    job.write_text(JOB.format(shards=old_set))
    done = swamp("run", job, "--run-dir", folder / "run")
    assert done.code == 0, done.said
    return folder / "run"


def test_the_set_is_what_0_1_wrote_byte_by_byte(old_set: Path) -> None:
    assert {path.name: sha256(path) for path in old_set.iterdir()} == SET_SHA256


def test_the_set_of_0_1_verifies_and_damage_is_found(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    done = swamp("shards", "verify", tmp_path / "set")
    assert done.code == 0, done.said
    flip(tmp_path / "set" / "train-000001.tar", 5000)
    assert swamp("shards", "verify", tmp_path / "set").code != 0


def test_a_run_that_0_1_left_is_resumed_bit_by_bit(old_set: Path, whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    write_killed_run(run, old_set, _numbers(whole_run))
    kept = (run / "metrics.jsonl").read_text().splitlines()[: STEP + 2]
    status = swamp("status", run)
    assert status.code == 0, status.said
    assert "failed" in status.said, status.said
    assert "9/12" in status.said, status.said  # steps logged

    done = swamp("run", run / "stage.yaml", "--run-dir", run)

    assert done.code == 0, done.said
    assert sha256(run / "weights.safetensors") == sha256(whole_run / "weights.safetensors")
    assert _state(run, 12) == _state(whole_run, 12)
    rows = (run / "metrics.jsonl").read_text().splitlines()
    assert rows[: STEP + 2] == kept  # one per step and one per validation at steps 4 and 8
    assert _losses(rows[STEP + 2 :]) == _losses(
        (whole_run / "metrics.jsonl").read_text().splitlines()[STEP + 2 :]
    )
    results = [json.loads((folder / "result.json").read_bytes()) for folder in (run, whole_run)]
    for figure in ("evaluations", "selected_step", "steps"):
        assert results[0][figure] == results[1][figure]


def test_a_run_of_0_1_is_not_continued_as_another_training(
    old_set: Path, whole_run: Path, tmp_path: Path
) -> None:
    """The fingerprint that 0.1 wrote is compared, not passed over."""
    run = tmp_path / "run"
    write_killed_run(run, old_set, _numbers(whole_run))
    refused = swamp("run", run / "stage.yaml", "objective.swamp.eta=3", "--run-dir", run)
    assert refused.code == 2, refused.said
    assert "objective.swamp.eta" in refused.said


def _engine(run: Path, step: int) -> dict[str, Any]:
    file = run / "checkpoints" / f"step-{step}" / "engine" / "mp_rank_00_model_states.pt"
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def _numbers(run: Path) -> Numbers:
    """The numbers of a run at STEP. Only this reads what the present version writes."""
    checkpoints = run / "checkpoints"
    progress = json.loads((checkpoints / f"step-{STEP}" / "MANIFEST.json").read_bytes())["meta"]["progress"]
    engine = _engine(run, STEP)
    moments = dict(zip(PARAMETERS, engine["optimizer"]["state"].values(), strict=True))
    return Numbers(
        weights=engine["module"],
        exp_avg={name: moment["exp_avg"] for name, moment in moments.items()},
        exp_avg_sq={name: moment["exp_avg_sq"] for name, moment in moments.items()},
        objective=_objective(run, STEP),
        best_weights=load_file(checkpoints / f"best-step-{progress['best_step']}.safetensors"),
        best_value=progress["best_value"],
        best_step=progress["best_step"],
    )


def _objective(run: Path, step: int) -> dict[str, Tensor]:
    """What the objective keeps, without the ratio of gradients, which 0.1 did not measure, and without what
    passes over the scores, of which 0.1 knew one program."""
    held = load_file(run / "checkpoints" / f"step-{step}" / "objective.safetensors")
    return {name: value for name, value in held.items() if name not in ("gradient_ratio", "passes")}


def _state(run: Path, step: int) -> dict[str, bytes]:
    """Bytes of all tensors of a commit: weights, moments and what the objective keeps."""
    engine = _engine(run, step)
    tensors = dict(engine["module"])
    for number, moments in engine["optimizer"]["state"].items():
        tensors |= {f"{number}/{name}": tensor for name, tensor in moments.items()}
    tensors |= _objective(run, step)
    return {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def _losses(rows: list[str]) -> list[dict[str, float]]:
    """What the rows say, without the measured times and the ratio of gradients, which 0.1 did not measure."""
    left_out = ("perf/", "swamp/effective_ratio")
    return [{k: v for k, v in json.loads(row).items() if not k.startswith(left_out)} for row in rows]
