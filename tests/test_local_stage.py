"""`train` and `evaluate` from a program: what a stage does, its result, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from swamp_dist import RunDirHeld, UserError, evaluate, load_model, train
from swamp_dist.config import StageSettings
from swamp_dist.loading import load_dumped
from swamp_dist.records import StageResult
from swamp_dist.runs.folder import RunDir
from tests.data.shard_sets import members
from tests.end_to_end.command import ROOT, environment, flip, write_job


def job(shards: Path, **more: Any) -> dict[str, Any]:
    mlp = {"kind": "mlp", "hidden": [32]}
    return {
        "name": "tiny",
        "data": {"shards": shards, "a": "a", "b": "b", "entries": 24, "workers": 0},
        "model": {"embedding_dim": 16, "a": mlp, "b": mlp},
        "objective": {"swamp": {"prototypes": 10, "queue": {"size": 48}}},
        "train": {"epochs": 1, "optimizer": {"lr": 1e-3}},
        "evaluate": [{"split": "test"}],
        **more,
    }


@pytest.fixture(scope="module")
def trained(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    folder = tmp_path_factory.mktemp("here") / "run"
    return train(job(tiny_shards), run_dir=folder, train={"log_every": 1}, **{"model.embedding_dim": 8})


def test_a_stage_is_trained_with_what_was_changed_and_done_once(
    trained: StageResult, tiny_shards: Path
) -> None:
    settings = load_dumped(RunDir(trained.run_dir).stage_yaml, StageSettings)
    assert settings.model.embedding_dim == 8
    assert settings.train is not None
    assert (settings.train.log_every, settings.train.epochs, trained.steps) == (1, 1, 8)
    assert train(settings, run_dir=trained.run_dir) == trained
    with pytest.raises(UserError, match="made otherwise(.|\n)*seed: was 0, asked 1"):
        train(settings, run_dir=trained.run_dir, seed=1)


def test_an_evaluation_gives_the_figures_of_the_stage_and_of_the_model(trained: StageResult) -> None:
    found = evaluate(trained.run_dir, "test")
    assert found.run_dir == trained.run_dir.with_name("run-test")
    assert found.evaluations == trained.evaluations
    assert found.evaluations[0] == load_model(trained.run_dir, device="cpu").evaluate("test")


@pytest.mark.slow
def test_a_script_needs_no_guard(tiny_shards: Path, tmp_path: Path) -> None:
    """Two ranks from a script without `if __name__`."""
    described = json.dumps(job(tiny_shards), default=str)
    (tmp_path / "script.py").write_text(
        "import swamp_dist\n"
        f"job = {described}\n"
        "result = swamp_dist.train(job, ranks=2)\n"
        "print(result.run_dir, result.provenance['world_size'])\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "runs/tiny 2"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda job, _: train(job, train=None), "no `train` section"),
        (lambda job, _: train(job, trian={}), "trian(.|\n)*unknown key; did you mean train"),
        (lambda job, _: train(job, ranks=0), "ranks: expected a whole number of at least 1, found 0"),
        (lambda job, folder: train(job, run_dir=folder / (300 * "x")), "Correct the path"),
        (lambda job, _: train(job, seed=object()), "object is no type that a settings file could hold"),
        (lambda job, _: train(job, **{"data.a": "c"}), "no field 'c'"),
        (lambda job, folder: train(folder / "nothing.yaml"), "does not exist"),
        (lambda job, _: evaluate(job, "test"), "names no weights(.|\n)*weights="),
        (lambda job, folder: evaluate(folder, "test"), "expected a run folder"),
        (
            lambda job, _: evaluate(job, weights="nowhere", evaluate=[]),
            "evaluates nothing|train nor evaluate",
        ),
        (lambda job, _: evaluate(job, "tset", weights="nowhere"), "Did you mean 'test'"),
    ],
)
def test_what_does_not_fit_is_refused(call: Any, words: str, tiny_shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        call(job(tiny_shards), tmp_path)


def test_a_run_that_fails_says_why(tiny_shards: Path, tmp_path: Path) -> None:
    shards = shutil.copytree(tiny_shards, tmp_path / "set")
    shard = next(shards.rglob("*train*.tar"))
    flip(shard, next(iter(members(shard).values()))[0] + 10)
    with pytest.raises(UserError, match=r"(?s)damaged|cannot be read.*The logs of all ranks"):
        train(job(shards), run_dir=tmp_path / "run")


def test_a_folder_that_another_run_holds_is_refused(tiny_shards: Path, tmp_path: Path) -> None:
    with RunDir(tmp_path / "run").hold(lambda _: None), pytest.raises(RunDirHeld, match="held by"):
        train(str(write_job(tmp_path, tiny_shards)), run_dir=tmp_path / "run")
