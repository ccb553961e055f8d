"""A stage takes the vocabulary of its shard set, wherever the set lies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from swamp_dist.config import GruSettings, ShardSettings, StageSettings
from swamp_dist.costs.memory import memory_problem, room_here
from swamp_dist.costs.table import cost_table
from swamp_dist.data.field_inputs import stage_inputs
from swamp_dist.data.manifest import load_manifest
from swamp_dist.encoders.vocabulary import VocabularyTokenizer
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.prepare.build import build_shards
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.resolve import resolve
from swamp_dist.train.set_marks import set_marks
from tests.sources.image_text_files import write_scan


def _build(folder: Path, **more: Any) -> Path:
    write_scan(folder / "raw", "train", 4)
    source = {"kind": "scan", "folder": folder / "raw", "splits": ["train"], "width": 8}
    values = {"name": "toy", "source": source, **more}
    return build_shards(ShardSettings.model_validate(values), folder / "toy").folder


def _stage(shards: Path) -> StageSettings:
    model = {
        "embedding_dim": 40, "a": {"kind": "linear"}, "sets": {"kind": "par"},
        "b": {"kind": "gru", "width": 4, "output": "words", "vocabulary": "set", "max_words": 20},
    }  # fmt: skip
    data = {"shards": str(shards), "a": "regions", "b": "text", "entries": 4, "workers": 0}
    objective = {"swamp": {"prototypes": 3, "queue": {"size": 4}}}
    values = {"name": "s", "data": data, "model": model, "objective": objective, "train": {"epochs": 1}}
    return StageSettings.model_validate(values)


def test_it_is_filled_in_where_a_stage_is_resolved_and_not_in_its_marks(tmp_path: Path) -> None:
    shards = _build(tmp_path, vocabulary={"min_count": 1, "splits": ["train"]})
    stage = resolve(_stage(shards), RunDir(tmp_path / "run"), 1)
    words = stage.manifest.record.vocabulary
    gru, training = stage.settings.model.b, stage.training
    assert words is not None
    assert training is not None
    assert isinstance(gru, GruSettings)
    assert gru.vocabulary == shards / "vocabulary.json"
    assert training.fingerprint["model.b.vocabulary"] == "set"
    assert json.loads(set_marks(stage.settings.model)["sets"])["model.b.vocabulary (sha256)"] == words.sha256
    model = build_dual_encoder(stage.settings.model, *stage.inputs, 3, True, 0)
    assert len(model.state_dict()["b.vectors.weight"]) == words.words
    _, texts = stage_inputs(stage.manifest, stage.settings.data, stage.settings.model)
    assert isinstance(texts.tokenizer, VocabularyTokenizer)
    assert len(texts.tokenizer.vocabulary) == words.words
    assert cost_table(_stage(shards), 1, 1).row_count > 3
    assert memory_problem(_stage(shards), 1, room_here(1)) is None


def test_a_set_without_one_is_refused_with_the_fix(tmp_path: Path) -> None:
    shards = _build(tmp_path)
    assert load_manifest(shards).record.vocabulary is None
    with pytest.raises(UserError, match=r"(?s)model.b: vocabulary = set: the shard set has no.*Fix"):
        resolve(_stage(shards), RunDir(tmp_path / "run"), 1)
