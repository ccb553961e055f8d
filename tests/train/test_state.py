"""What a resume needs beside the newest checkpoint, and what it goes back to where that is damaged."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from swamp_dist.distributed import alone
from swamp_dist.errors import UserError
from swamp_dist.train.checkpoint import commit
from swamp_dist.train.commit_meta import Progress
from swamp_dist.train.state import TrainState, resume, selected_weights
from swamp_dist.train.weights import save_weights
from tests.end_to_end.command import flip
from tests.train.tiny import tiny_stage


class _Played:
    """An engine and an objective that note what they were restored from."""

    def __init__(self) -> None:
        self.loaded: list[Path] = []
        self.product_library = "onednn"

    def load(self, folder: Path) -> None:
        self.loaded.append(folder)

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        assert state.keys() == {"a"}


def state_over(checkpoints: Path, **changes: Any) -> TrainState:
    settings = tiny_stage(checkpoints, **changes)
    assert settings.train is not None
    played = cast(Any, _Played())
    return TrainState(played, played, settings, settings.train, checkpoints, {}, alone())


def best_path(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"best-step-{step}.safetensors"


def put(checkpoints: Path, step: int, best_step: int, *, recorded: bool = True) -> None:
    """Commit a checkpoint that refers to best weights; of an earlier version where nothing is `recorded`."""
    checkpoints.mkdir(exist_ok=True)
    sha256 = save_weights(best_path(checkpoints, best_step), {"x": torch.full((9,), float(best_step))}, {})

    def write(folder: Path) -> list[Path]:
        save_file({"a": torch.zeros(1)}, folder / "objective.safetensors")
        return [folder / "objective.safetensors"]

    progress = asdict(Progress(step, 10.0, best_step, 0, sha256))
    if not recorded:
        del progress["best_sha256"]
    meta = {"progress": progress, "fingerprint": {}, "zero_stage": 0}
    commit(checkpoints, step, write, meta, alone(), keep=5)


def flip_last(path: Path) -> None:
    flip(path, path.stat().st_size - 2)


@pytest.mark.parametrize("damage", [flip_last, Path.unlink])
def test_a_checkpoint_whose_best_weights_are_damaged_is_skipped_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    logging.getLogger("swamp_dist").propagate = True
    put(tmp_path, 4, 2)
    put(tmp_path, 8, 6)
    damage(best_path(tmp_path, 6))
    state = state_over(tmp_path)
    assert resume(state).step == 4
    assert cast(Any, state.engine).loaded == [tmp_path / "step-4"]
    assert "step-8 is broken and skipped: its best weights best-step-6.safetensors" in caplog.text


def test_best_weights_that_no_checkpoint_can_do_without_end_the_resume(tmp_path: Path) -> None:
    put(tmp_path, 4, 2)
    put(tmp_path, 8, 2)
    flip_last(best_path(tmp_path, 2))
    with pytest.raises(UserError, match=r"(?s)none is valid.*best-step-2\.safetensors differ from their sha"):
        resume(state_over(tmp_path))


def test_best_weights_that_are_not_selected_are_not_missed(tmp_path: Path) -> None:
    put(tmp_path, 8, 6)
    best_path(tmp_path, 6).unlink()
    assert resume(state_over(tmp_path, train__select="last")).step == 8


def test_a_run_of_an_earlier_version_goes_on_and_says_what_is_not_checked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("swamp_dist").propagate = True
    put(tmp_path, 8, 6, recorded=False)
    state = state_over(tmp_path)
    progress = resume(state)
    assert (progress.step, progress.best_sha256) == (8, None)
    tensors, step = selected_weights(state, progress)
    assert (step, tensors["x"][0]) == (6, 6)
    assert caplog.text.count("best-step-6.safetensors: no sha256 was recorded") == 1


def test_best_weights_that_change_during_a_run_are_not_handed_on(tmp_path: Path) -> None:
    put(tmp_path, 8, 6)
    state = state_over(tmp_path)
    progress = resume(state)
    flip_last(best_path(tmp_path, 6))
    with pytest.raises(UserError, match=r"best-step-6\.safetensors: it has changed.*\nRun the same command"):
        selected_weights(state, progress)


def recompute(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a manifest says and give it the hashes of that, as somebody's own script might."""
    path = folder / "MANIFEST.json"
    content = json.loads(path.read_text())
    for file in content["files"]:
        payload = (folder / file["name"]).read_bytes()
        file |= {"bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()}
    del content["sha256"]
    change(content)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"sha256": digest}))


def of_progress(**values: object) -> Callable[[dict[str, Any]], Any]:
    return lambda content: content["meta"]["progress"].update(values)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (of_progress(epoch=3), r"progress\.'epoch': not known"),
    "another step": (of_progress(step=3), r"progress\.step: expected 8, found 3"),
    "a text": (of_progress(best_value="x" * 99), r"progress\.best_value: .*'xxx"),
    "alarms": (of_progress(alarms={"alarms": {"gap": {"name": 7}}}), r"progress\.alarms: expected counts"),
    "a list": (lambda content: content["meta"].update(progress=[1]), r"progress: expected .* found \[1\]"),
    "no fingerprint": (lambda content: content["meta"].pop("fingerprint"), "fingerprint: expected"),
    "a library": (
        lambda content: content["meta"].update(product_library="cublas"),
        "product_library: expected one of blas, onednn, found 'cublas'",
    ),
    "words": (lambda content: content["meta"].update(zero_stage="\x1b[31m"), r"zero_stage: .*'\\x1b\[31m'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_manifest_that_is_not_understood_is_an_error_and_no_fallback(tmp_path: Path, change: str) -> None:
    put(tmp_path, 4, 2)
    put(tmp_path, 8, 6)
    edit, said = CHANGES[change]
    recompute(tmp_path / "step-8", edit)
    with pytest.raises(UserError, match=r"(?s)step-8/MANIFEST\.json: .*" + said + ".*move it away"):
        resume(state_over(tmp_path))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1] + ', "deep": ' + "[" * 100_000 + "]" * 100_000 + "}",
        lambda text: "[" * 100_000,
        lambda text: text[:40],
        lambda text: "7",
    ],
)
def test_a_manifest_that_does_not_parse_is_skipped(tmp_path: Path, spoil: Callable[[str], str]) -> None:
    put(tmp_path, 4, 2)
    put(tmp_path, 8, 6)
    path = tmp_path / "step-8" / "MANIFEST.json"
    path.write_text(spoil(path.read_text()))
    assert resume(state_over(tmp_path)).step == 4


@pytest.mark.parametrize(
    "content",
    [
        {"step": "8"},
        {"step": True},
        {"world_size": None},
        {"meta": []},
        {"files": 3},
        {"files": [{"name": 1}]},
    ],
)
def test_a_manifest_of_another_form_is_skipped(tmp_path: Path, content: dict[str, Any]) -> None:
    put(tmp_path, 4, 2)
    put(tmp_path, 8, 6)
    recompute(tmp_path / "step-8", lambda manifest: manifest.update(content))
    assert resume(state_over(tmp_path)).step == 4


def test_an_objective_of_another_training_is_named(tmp_path: Path) -> None:
    put(tmp_path, 8, 6)
    state = state_over(tmp_path)

    def refuse(_held: object) -> None:
        raise ValueError("the saved queue lacks a, b")

    cast(Any, state.objective).load_state = refuse
    with pytest.raises(UserError, match=r"(?s)objective\.safetensors: not the queue .* lacks a, b.*move it"):
        resume(state)
    (tmp_path / "step-8" / "objective.safetensors").write_bytes(b"no safetensors")
    recompute(tmp_path / "step-8", lambda content: None)
    with pytest.raises(UserError, match=r"objective\.safetensors: not the queue and potentials"):
        resume(state_over(tmp_path))


def test_a_commit_of_an_earlier_version_goes_on_with_the_products_that_it_knew(tmp_path: Path) -> None:
    put(tmp_path, 4, 2)
    state = state_over(tmp_path)
    resume(state)
    assert state.engine.product_library == "blas"
