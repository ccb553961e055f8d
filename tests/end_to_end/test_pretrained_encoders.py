"""A locked image tower and a partly trained text model through `swamp`, the layouts, and a resume."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from swamp_dist import load_model
from swamp_dist.config import StageSettings
from swamp_dist.costs.table import known_inputs, model_cost
from swamp_dist.distributed import World
from swamp_dist.encoders.libraries import import_timm, library_problem
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import build_encoder
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.resolve import resolve, training_marks
from swamp_dist.stage.run import run_stage
from swamp_dist.train.fingerprint import FILES_MARK, check_fingerprint, default_marks
from swamp_dist.train.loop import Preempted
from tests.data.image_sets import build_raw
from tests.encoders.tiny_text_models import save_text_model
from tests.end_to_end.command import refused, sha256, swamp
from tests.ranks import run_on_ranks
from tests.train.test_loop import _run
from tests.train.tiny import StopAfter

MISSING = library_problem("timm", "timm") or library_problem("transformers", "hf_text")
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard set of images and texts, weights of an image model and a folder of a text model."""
    folder = tmp_path_factory.mktemp("locked")
    build_raw(folder / "set")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_file(import_timm().create_model("test_resnet").state_dict(), folder / "image.safetensors")
    save_text_model(folder / "text")
    return folder


def tree(files: Path, **model: Any) -> dict[str, Any]:
    """A job of three steps per epoch; `model` changes settings of both encoders."""
    image = {
        "kind": "timm",
        "name": "test_resnet",
        "weights": str(files / "image.safetensors"),
        "train": "none",
    }
    text = {"kind": "hf_text", "folder": str(files / "text"), "train": 1, "learning_rate_factor": 0.1}
    return {
        "name": "locked",
        "data": {
            "shards": str(files / "set"), "a": "text", "b": "image", "entries": 8, "workers": 0,
            "images": {"size": 64},
        },
        "model": {"embedding_dim": 8, "a": text | model.get("a", {}), "b": image | model.get("b", {})},
        "objective": {"swamp": {"prototypes": 4, "queue": {"size": 8}}},
        "train": {
            "epochs": 2, "log_every": 1, "checkpoint": {"every": 2}, "optimizer": {"lr": 1e-3},
            "schedule": {"kind": "cosine", "warmup_steps": 2},
        },
        "evaluate": [{"split": "test"}],
    }  # fmt: skip


def stage(files: Path, engine: dict[str, Any] | None = None, **model: Any) -> StageSettings:
    """The job as settings."""
    return StageSettings.model_validate(tree(files, **model) | {"engine": engine or {}})


def frozen(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the job does not train."""
    parts = ("b.timm.", "a.transformer.embeddings.", "a.transformer.transformer.layer.0.")
    return {name: value for name, value in weights.items() if name.startswith(parts)}


def small_stage(files: Path) -> StageSettings:
    """One epoch, nothing evaluated."""
    short = tree(files) | {"evaluate": [], "engine": {"zero_stage": 1}}
    short["train"]["epochs"] = 1
    return StageSettings.model_validate(short)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_locked_tower_keeps_its_weights(files: Path, tmp_path: Path) -> None:
    run_on_ranks(_run, 2, small_stage(files), tmp_path, [], timeout=300)
    trained = load_file(tmp_path / "weights.safetensors")
    image, text = load_file(files / "image.safetensors"), load_file(files / "text" / "model.safetensors")
    fixed = frozen(trained)
    assert len(fixed) > 50
    for name, value in fixed.items():
        own = image if name.startswith("b.") else text
        assert torch.equal(value, own[name.split(".", 2)[2]].to(value.dtype)), name
    layer = "transformer.layer.2.attention.q_lin.weight"
    assert not torch.equal(trained[f"a.transformer.{layer}"], text[layer])


def test_every_problem_is_told_before_a_rank_starts(files: Path, tmp_path: Path) -> None:
    model = {"a": {"folder": str(tmp_path)}, "b": {"name": "test_efficientnet"}}
    with pytest.raises(UserError) as refused:
        resolve(stage(files, **model), RunDir(tmp_path / "run"), 2)
    assert "- model.a: encoder hf_text: " in str(refused.value)
    assert "no config.json there" in str(refused.value)
    assert "- model.b: encoder timm: " in str(refused.value)
    assert "weights of another model than test_efficientnet:\n  " in str(refused.value)
    resolve(stage(files), RunDir(tmp_path / "run"), 2)


def test_other_files_behind_the_same_path_are_another_training(files: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    shutil.copytree(files / "text", own / "text")
    shutil.copy(files / "image.safetensors", own)
    shutil.copytree(files / "set", own / "set")
    settings = stage(own)
    before = training_marks(settings, "hash")
    hashed = {key for key in before if key.endswith(FILES_MARK)}
    assert hashed == {f"model.{name}{FILES_MARK}" for name in ("a.folder", "a.weights", "b.weights")}
    check_fingerprint({k: v for k, v in before.items() if k not in hashed}, before, default_marks(settings))
    for name in ("image.safetensors", "text/model.safetensors", "text/config.json"):
        content = (own / name).read_bytes()
        (own / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(UserError, match=r"sha256 of files\) .*bring back the files that it began with"):
            check_fingerprint(before, training_marks(settings, "hash"), default_marks(settings))
        (own / name).write_bytes(content)
    check_fingerprint(before, training_marks(settings, "hash"), default_marks(settings))
    later = tree(own)
    later["train"]["init_from"] = str(own / "run")
    marks = training_marks(StageSettings.model_validate(later), "hash")
    assert {key for key in marks if key.endswith(FILES_MARK)} == {f"model.a.folder{FILES_MARK}"}


def test_frozen_weights_are_priced_as_memory_alone(files: Path) -> None:
    settings = stage(files)
    inputs = known_inputs(settings)
    assert inputs is not None
    encoders = [
        build_encoder(encoder, spec, 8)
        for encoder, spec in zip((settings.model.a, settings.model.b), inputs, strict=True)
    ]
    parameters = [p for encoder in encoders for p in encoder.parameters()]
    trained = sum(p.numel() for p in parameters if p.requires_grad) + 4 * 8
    fixed = sum(p.numel() for p in parameters if not p.requires_grad)
    memory = model_cost(settings, inputs, 8, 2).memory
    assert memory["weights"] == 4 * (trained + fixed)
    assert memory["gradients"] == 4 * trained
    assert memory["optimiser"] == 8 * trained


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_resume_is_bit_identical(files: Path, tmp_path: Path) -> None:
    settings = stage(files, {"zero_stage": 1})
    run_on_ranks(_run, 2, settings, tmp_path / "whole", [], timeout=400)
    run_on_ranks(_run, 2, settings, tmp_path / "parts", [3], timeout=400)
    assert _shown_losses(tmp_path / "whole") == _shown_losses(tmp_path / "parts")
    whole, parts = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, whole[name]) for name, value in parts.items())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_train_price_and_refuse_such_a_job(files: Path, tmp_path: Path) -> None:
    job, run_dir = tmp_path / "job.yaml", tmp_path / "run"
    job.write_text(json.dumps(tree(files)))
    done = swamp("run", job, "--run-dir", run_dir, "train.epochs=1")
    assert done.code == 0, done.said
    result = json.loads((run_dir / "result.json").read_text())
    assert result["steps"] == 3
    assert result["provenance"]["encoder_files_sha256"]["model.b.weights"] == sha256(
        files / "image.safetensors"
    )
    assert {"timm", "transformers", "tokenizers"} < result["provenance"]["versions"].keys()
    config = files / "text" / "config.json"
    said = config.read_text()
    config.write_text(said + " ")
    changed = swamp("run", job, "--run-dir", run_dir, "train.epochs=1")
    config.write_text(said)
    refused(changed, "model.a.folder: its files have changed since")
    model = load_model(run_dir, device="cpu")
    assert model.embed("text", ["the cat", "a dog"]).shape == (2, 8)
    priced = swamp("show", job, "--cost", "--gpus-per-node", "2")
    assert priced.code == 0, priced.said
    assert "compute: encoders" in priced.said
    later = swamp(
        "run", job, "--run-dir", tmp_path / "later", f"train.init_from={run_dir}", "model.b.weights=gone"
    )
    assert later.code == 0, later.said
    for change, said in (
        ("model.b.name=test_resnot", "encoder timm: no model 'test_resnot' in timm"),
        (f"model.a.folder={tmp_path}", "no config.json there"),
    ):
        ended = swamp("run", job, "--run-dir", tmp_path / "refused", change)
        assert ended.code == 2
        assert said in " ".join(ended.said.split())
        assert not (tmp_path / "refused" / "events.jsonl").exists()


def _losses(world: World, settings: StageSettings, folder: Path) -> None:
    _run(world, settings, folder, [])


def _shown_losses(folder: Path) -> list[float]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["loss/total"] for row in rows if "loss/total" in row]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_zero_stage_and_the_gradient_cache_train_the_same_model(files: Path, tmp_path: Path) -> None:
    """With BatchNorm in the blocks that are trained."""
    model = {"b": {"train": 2, "learning_rate_factor": 0.5}}
    run_on_ranks(_losses, 1, stage(files, **model), tmp_path / "one", timeout=400)
    expected = load_file(tmp_path / "one" / "weights.safetensors")
    engines = [{"zero_stage": number} for number in range(4)]
    engines += [{"zero_stage": 0, "micro_batch": 2}, {"zero_stage": 3, "micro_batch": 2}]
    for number, engine in enumerate(engines):
        folder = tmp_path / str(number)
        run_on_ranks(_losses, 2, stage(files, engine, **model), folder, timeout=400)
        assert _shown_losses(folder) == pytest.approx(_shown_losses(tmp_path / "one"), rel=1e-3), engine
        found = load_file(folder / "weights.safetensors")
        assert found.keys() == expected.keys()
        statistics = [name for name in found if "running_" in name]
        assert statistics
        for name in (*statistics, *(n for n in frozen(found) if n.startswith("a."))):
            assert torch.equal(found[name], expected[name]), f"{engine}: {name}"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("saved", "resumed"), [((2, 3), (1, 0)), ((1, 0), (2, 3)), ((2, 1), (2, 2))])
def test_a_run_goes_on_at_another_layout(
    files: Path, tmp_path: Path, saved: tuple[int, int], resumed: tuple[int, int]
) -> None:
    run_on_ranks(_run, saved[0], stage(files, {"zero_stage": saved[1]}), tmp_path / "whole", [], timeout=400)
    run_on_ranks(_stop, saved[0], stage(files, {"zero_stage": saved[1]}), tmp_path / "parts", timeout=400)
    run_on_ranks(
        _run, resumed[0], stage(files, {"zero_stage": resumed[1]}), tmp_path / "parts", [], timeout=400
    )
    assert _shown_losses(tmp_path / "parts") == pytest.approx(_shown_losses(tmp_path / "whole"), rel=1e-3)
    whole, parts = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(value, frozen(whole)[name]) for name, value in frozen(parts).items())


def _stop(world: World, settings: StageSettings, folder: Path) -> None:
    with pytest.raises(Preempted):
        run_stage(settings, RunDir(folder), world, StopAfter(3))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("text", ["hf_text", "gru", "bag_of_words"])
def test_bf16_trains_with_finite_losses_near_those_of_float32(files: Path, tmp_path: Path, text: str) -> None:
    model: dict[str, Any] = {"b": {"train": 1}}
    base = tree(files, **model)
    if text != "hf_text":
        base["model"]["a"] = {"kind": text, "buckets": 100}
    losses = {}
    for precision in ("fp32", "bf16"):
        settings = StageSettings.model_validate(base | {"engine": {"precision": precision, "zero_stage": 2}})
        run_on_ranks(_losses, 2, settings, tmp_path / precision, timeout=400)
        losses[precision] = _shown_losses(tmp_path / precision)
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)
