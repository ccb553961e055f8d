"""Runs that nobody trained: random encoders and prototypes over small sets, in the form of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from swamp_dist.config import StageSettings
from swamp_dist.data.inputs import input_specs
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.writer import write_shards
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.prototypes.assignment import Assigned
from swamp_dist.records import Sample
from swamp_dist.runs.folder import RunDir
from swamp_dist.train.weights import save_weights
from tests.data.image_sets import encode, smooth

PICTURES = {"a": {"kind": "cnn", "depth": 2, "width": 8}, "b": {"kind": "bag_of_words"}}
FEATURES = {"a": {"kind": "mlp", "hidden": [8]}, "b": {"kind": "mlp", "hidden": [8]}}
THINGS = ("cat", "dog", "pizza", "train", "kite", "bus")


def picture_sample(number: int, texts: Sequence[str] | None = None) -> Sample:
    """A picture and two texts about one of six things; the thing is the class."""
    thing = THINGS[number % 6]
    told = tuple(texts or (f"a {thing} on a table", f"the {thing} number {number}"))
    image = encode(smooth(number, 120 + number % 5, 90), "PNG" if number % 2 else "JPEG")
    return Sample(f"key-{number:04d}", {"image": image, "text": told}, number % 6)


def picture_set(folder: Path, count: int = 24, texts: Sequence[str] | None = None) -> Manifest:
    """Splits train and test of `picture_sample`."""
    samples = {
        name: [picture_sample(i + first, texts) for i in range(count)]
        for name, first in (("train", 0), ("test", 100))
    }
    return write_shards(samples, folder, "pictures", {"kind": "test"}, 10, 0, ["text"])


def feature_set(folder: Path, text: bool) -> Manifest:
    """Vectors alone, with or without captions beside them and without classes."""
    random = np.random.default_rng(0)
    samples = [
        Sample(
            f"clip{i}",
            {name: random.normal(size=6).astype(np.float32) for name in "ab"},
            text={"a": f"somebody flies a {THINGS[i % 6]}"} if text else {},
        )
        for i in range(20)
    ]
    return write_shards({"test": samples}, folder, "features", {"kind": "test"}, 10, 0, [])


def run_over(
    manifest: Manifest,
    folder: Path,
    encoders: dict[str, Any],
    fields: tuple[str, str],
    prototypes: int | None,
) -> Path:
    """A run folder with stage.yaml and weights; `prototypes` None: of a stage without the SwAMP term."""
    swamp: dict[str, Any] = {"weight": 0} if prototypes is None else {"prototypes": prototypes}
    data = {"shards": manifest.folder, "a": fields[0], "b": fields[1], "images": {"size": 16}, "entries": 4}
    job = {
        "name": "made",
        "data": data,
        "model": {"embedding_dim": 8, **encoders},
        "objective": {"swamp": swamp | {"temperature": 0.1}},
        "train": {"epochs": 1},
        "evaluate": [{"split": "test"}],
    }
    settings = StageSettings.model_validate(job)
    specs = input_specs(manifest, settings.data)
    model = build_dual_encoder(settings.model, *specs, prototypes, True, 0)
    run = RunDir(folder)
    run.write_stage(settings)
    save_weights(run.weights, model.state_dict(), {"step": "7", "stage": "made"})
    return folder


def assigned(prototype: Sequence[int], entry: Sequence[int], label: Sequence[int] | None = None) -> Assigned:
    """Items of one modality, with scores that say nothing."""
    count = len(prototype)
    scores = np.zeros(count, dtype=np.float32)
    labels = np.full(count, -1) if label is None else np.array(label)
    return Assigned(np.array(prototype), scores, scores, np.array(entry), labels.astype(np.int64))


def unit(rows: int, dim: int, seed: int) -> torch.Tensor:
    """Random rows of unit length."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=generator), dim=1)
