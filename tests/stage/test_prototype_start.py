"""Prototypes started by k-means: the same on any number of ranks, once, and only where they are fresh."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from swamp_dist.data.blend import one_set
from swamp_dist.data.manifest import load_manifest
from swamp_dist.distributed import World, alone
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder
from swamp_dist.model.kmeans import inertia
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage import prototype_start
from swamp_dist.stage.prototype_start import start_prototypes
from swamp_dist.stage.resolve import resolve
from tests.data.video_sets import build_videos
from tests.ranks import run_on_ranks
from tests.stage.test_resolve import stage as plain_stage
from tests.train.tiny import tiny_stage

KMEANS = {"prototypes_start": "kmeans", "kmeans": {"items": 150, "iterations": 30}}


def _model(shards: Path) -> DualEncoder:
    settings = tiny_stage(shards)
    return build_dual_encoder(settings.model, (12,), (12,), 10, True, settings.seed)


def _start(world: World, shards: Path, changes: dict[str, Any]) -> Tensor:
    prototype_start._CHUNK = 32
    settings, model = tiny_stage(shards, objective__swamp=changes), _model(shards)
    start_prototypes(model, settings, one_set(load_manifest(shards), "train"), world)
    assert model.training
    assert model.prototypes is not None
    return model.prototypes.weight.detach()


def test_any_number_of_ranks_finds_the_same_bits(tiny_shards: Path) -> None:
    one = _start(alone(), tiny_shards, KMEANS)
    random = _start(alone(), tiny_shards, {})
    assert not torch.allclose(one, random, atol=0.1)
    torch.testing.assert_close(one.norm(dim=1), torch.ones(10))
    for found in run_on_ranks(_start, 3, tiny_shards, KMEANS):
        assert torch.equal(found, one)


def test_it_says_what_it_did(tiny_shards: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "swamp_dist"):
        _start(alone(), tiny_shards, KMEANS)
        assert "k-means centres of 300 embeddings of 150 entries" in caplog.text
        _start(alone(), tiny_shards, KMEANS | {"kmeans": {"items": 10**6}})
        assert "of 400 embeddings of 200 entries" in caplog.text
        caplog.clear()
        _start(alone(), tiny_shards, {})
        assert "k-means" not in caplog.text


def test_centres_are_nearer_to_the_embeddings_than_random_ones(tiny_shards: Path) -> None:
    model, settings = _model(tiny_shards).eval(), tiny_stage(tiny_shards)
    manifest = load_manifest(tiny_shards)
    (training,) = one_set(manifest, "train").sets
    with torch.no_grad():
        rows = prototype_start._embed(model, settings, training, 200, alone()).flatten(0, 1)
    started, random = (_start(alone(), tiny_shards, changes) for changes in (KMEANS, {}))
    assert inertia(rows, started) < 0.5 * inertia(rows, random)


def test_clips_and_words_are_embedded_too(tmp_path: Path) -> None:
    manifest = build_videos(tmp_path / "set")
    networks = {"embedding_dim": 8, "a": {"kind": "words"}, "b": {"kind": "mlp", "hidden": [4]}}
    swamp = {"prototypes": 6} | KMEANS
    settings = plain_stage(manifest.folder, clips=True, objective={"swamp": swamp}, model=networks)
    resolved = resolve(settings, RunDir(tmp_path / "run"), 1)
    model = build_dual_encoder(resolved.settings.model, *resolved.inputs, 6, True, 0)
    start_prototypes(model, resolved.settings, one_set(manifest, "train"), alone())
    assert model.prototypes is not None
    assert bool(model.prototypes.weight.isfinite().all())


def test_embeddings_that_are_not_finite_are_refused(tiny_shards: Path) -> None:
    model = _model(tiny_shards)
    next(model.a.parameters()).data.fill_(torch.nan)
    settings = tiny_stage(tiny_shards, objective__swamp=KMEANS)
    with pytest.raises(UserError, match="prototypes_start = kmeans: a row is not finite"):
        start_prototypes(model, settings, one_set(load_manifest(tiny_shards), "train"), alone())


def test_more_prototypes_than_embeddings_are_refused_before_a_rank_starts(
    tiny_shards: Path, tmp_path: Path
) -> None:
    swamp = KMEANS | {"prototypes": 301}
    with pytest.raises(
        UserError, match="301 prototypes are more than the 300 embeddings of kmeans.items = 150"
    ):
        resolve(tiny_stage(tiny_shards, objective__swamp=swamp), RunDir(tmp_path / "run"), 1)


class _Stop:
    """Asks to stop once a checkpoint is there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "checkpoints" / "step-5"

    def __call__(self) -> bool:
        return self._folder.is_dir()


def _runs(world: World, shards: Path, folder: Path, stage: int) -> dict[str, str]:
    """Logs of: a run that is stopped, the same that goes on, one of its weights."""
    from swamp_dist.stage.run import run_stage
    from swamp_dist.train.loop import Preempted

    said: dict[str, str] = {}

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said[name] = said.get(name, "") + record.getMessage() + "\n"

    logger = logging.getLogger("swamp_dist")
    logger.addHandler(Collect())
    logger.setLevel(logging.INFO)
    changes = {"objective__swamp": KMEANS, "train__epochs": 1, "engine__zero_stage": stage}
    settings = tiny_stage(shards, evaluate=[], **changes)
    first = RunDir(folder / "first")
    name = "stopped"
    try:
        run_stage(settings, first, world, _Stop(first.path))
    except Preempted:
        said[name] += "preempted"
    name = "resumed"
    run_stage(settings, first, world)
    name = "straight"
    run_stage(settings, RunDir(folder / "straight"), world)
    name = "after"
    run_stage(
        tiny_stage(shards, evaluate=[], **changes, train__init_from=str(first.path)),
        RunDir(folder / "after"),
        world,
    )
    return said


@pytest.mark.parametrize(("size", "zero_stage"), [pytest.param(1, 0, marks=pytest.mark.slow), (2, 3)])
def test_a_run_starts_so_once_and_the_engine_takes_it(
    tiny_shards: Path, tmp_path: Path, size: int, zero_stage: int
) -> None:
    for said in run_on_ranks(_runs, size, tiny_shards, tmp_path, zero_stage):
        assert "k-means centres of 300" in said["stopped"]
        assert "preempted" in said["stopped"]
        assert "continuing from" in said["resumed"]
        assert "k-means" not in said["resumed"]
        assert "prototypes_start = kmeans: not done" in said["after"]
        assert "centres of" not in said["after"]
    resumed, straight = (load_file(tmp_path / name / "weights.safetensors") for name in ("first", "straight"))
    assert all(torch.equal(straight[key], rows) for key, rows in resumed.items())
    # A few small steps away from where they started, and far from the random ones.
    started, random = (_start(alone(), tiny_shards, changes) for changes in (KMEANS, {}))
    ended = torch.nn.functional.normalize(straight["prototypes.weight"], dim=1)
    assert float((ended * started).sum(dim=1).min()) > 0.95
    assert float((ended * random).sum(dim=1).min()) < 0.9
