from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from swamp_dist.config import ModelSettings, ParSettings, StageSettings
from swamp_dist.distributed import World
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.records import InputSpec
from swamp_dist.runs.folder import RunDir
from swamp_dist.safetensors_header import read_header
from swamp_dist.stage.resolve import resolve
from swamp_dist.stage.run import run_stage
from swamp_dist.train.input_parts import check_unit_parts
from swamp_dist.train.weights import load_weights, save_weights
from swamp_dist.train.weights_header import (
    embedding_dim_of,
    embedding_dim_problem,
    kinds_problem,
    with_embedding_dim,
)
from swamp_dist.train.word_source import check_word_source
from tests.ranks import run_on_ranks
from tests.train.tiny import tiny_stage

PAR = {"kind": "par", "queries": 3, "heads": 2}
KINDS = {
    "words and gated": {"a": {"kind": "words", "sentence_dim": 3}, "b": {"kind": "gated"}},
    "gated and mlp": {"a": {"kind": "gated"}, "b": {"kind": "mlp"}},
    "mlp of eleven layers": {"a": {"kind": "mlp", "hidden": [4] * 11}, "b": {"kind": "mlp", "hidden": []}},
}


def model_of(kinds: str, dim: int | None) -> ModelSettings:
    return ModelSettings.model_validate({**KINDS[kinds], "embedding_dim": dim})


def written(path: Path, model: ModelSettings) -> Path:
    specs = [InputSpec((5,), 7 if side.kind == "words" else None) for side in (model.a, model.b)]
    encoder = build_dual_encoder(model, *specs, None, normalize_prototypes=True, seed=0)
    path.mkdir(exist_ok=True)
    save_weights(path / "weights.safetensors", encoder.state_dict(), {})
    return path


def stage(model: ModelSettings, weights: Path | None, key: str = "weights") -> StageSettings:
    start = {"weights": weights, "evaluate": [{"split": "test"}]}
    if key == "train.init_from":
        start = {"train": {"init_from": weights}}
    data = {"shards": "s", "a": "a", "b": "b"}
    return StageSettings.model_validate({"name": "s", "data": data, "model": model.model_dump(), **start})


@pytest.mark.parametrize("kinds", KINDS)
def test_the_size_is_that_of_the_weights_for_every_kind_of_encoder(tmp_path: Path, kinds: str) -> None:
    folder = written(tmp_path / "run", model_of(kinds, 6))
    for source in (folder, folder / "weights.safetensors"):
        for key in ("weights", "train.init_from"):
            assert with_embedding_dim(stage(model_of(kinds, None), source, key)).model.embedding_dim == 6
    one_side = model_of(kinds, 6).model_copy(update={"a": model_of("words and gated", 6).a})
    assert embedding_dim_of(folder, one_side) == 6


@pytest.mark.parametrize(
    "sets", [{"kind": "mean"}, PAR, {**PAR, "head_form": "slice"}, {**PAR, "head_form": "project"}]
)
def test_the_size_of_sets_is_that_of_embeddings_and_not_of_elements(tmp_path: Path, sets: Any) -> None:
    values = {"a": {"kind": "linear"}, "b": {"kind": "gru", "output": "words", "buckets": 9}, "sets": sets}
    model = ModelSettings.model_validate({**values, "embedding_dim": 24})
    specs = InputSpec((5,), kind="set"), InputSpec((), kind="text")
    encoder = build_dual_encoder(model, *specs, None, normalize_prototypes=True, seed=0)
    save_weights(tmp_path / "weights.safetensors", encoder.state_dict(), {})
    unknown = ModelSettings.model_validate({**values, "embedding_dim": None})
    assert embedding_dim_of(tmp_path, unknown) == 24
    other = unknown.model_copy(update={"sets": ParSettings(queries=7)})
    with pytest.raises(UserError, match=r"weights of another model: embedding_dim = 24: expected .* = 7"):
        embedding_dim_of(tmp_path, other)


@pytest.mark.parametrize("key", ["weights", "train.init_from"])
def test_another_size_is_named_with_the_fix(tmp_path: Path, key: str) -> None:
    folder = written(tmp_path / "run", model_of("gated and mlp", 6))
    for dim, problem in ((6, None), (None, None), (8, "embedding_dim = 8")):
        found = embedding_dim_problem(stage(model_of("gated and mlp", dim), folder, key), key, folder)
        assert (found is None) == (problem is None)
    assert found is not None
    assert all(part in found for part in (key, str(folder), "with 6", "embedding_dim=6", "null"))


def _finetuned(world: World, shards: Path, folder: Path) -> None:
    stage = tiny_stage(shards, train__epochs=1)
    pretrained = RunDir(folder / "pretrained")
    run_stage(stage, pretrained, world)
    changes = {"model__embedding_dim": None, "train__epochs": 1, "train__init_from": str(pretrained.path)}
    run_stage(tiny_stage(shards, **changes), RunDir(folder / "finetuned"), world)


def test_a_stage_trains_at_the_size_of_the_weights_it_starts_from(tiny_shards: Path, tmp_path: Path) -> None:
    run_on_ranks(_finetuned, 1, tiny_shards, tmp_path)
    found = load_weights(tmp_path / "finetuned").tensors
    assert found["b.layers.2.bias"].shape == (8,)
    assert found["prototypes.weight"].shape == (10, 8)
    stage = tiny_stage(tiny_shards, model__embedding_dim=16, train__init_from=str(tmp_path / "pretrained"))
    with pytest.raises(
        UserError, match=r"model.embedding_dim = 16, but train.init_from[\s\S]*embedding_dim=8"
    ):
        resolve(stage, RunDir(tmp_path / "refused"), 1)


def test_weights_of_other_encoders_say_so(tmp_path: Path) -> None:
    folder = written(tmp_path / "run", model_of("words and gated", 6))
    other = stage(model_of("gated and mlp", None), folder)
    with pytest.raises(UserError, match="other encoders than model.a = gated and model.b = mlp"):
        with_embedding_dim(other)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "a size beyond the limit": lambda good: b"\xff" * 20,
    "a list": lambda good: b"\x02" + bytes(7) + b"[]",
    "no JSON": lambda good: good[:8] + b"}" + good[9:],
    "cut in the header": lambda good: good[:40],
    "cut in the values": lambda good: good[:-1],
    "too long": lambda good: good + b"x",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_in_the_same_words_wherever_a_header_is_read(tmp_path: Path, damage: str) -> None:
    model = model_of("words and gated", 6)
    path = written(tmp_path / "run", model) / "weights.safetensors"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    told = set()
    for read in (
        read_header,
        load_weights,
        lambda path: embedding_dim_of(path, model),
        lambda path: check_word_source(path, "weights", "s" * 64),
        lambda path: check_unit_parts(path, "weights", model),
    ):
        with pytest.raises(UserError, match=r"not a readable safetensors file \(.+\)") as refused:
            read(path)
        told.add(str(refused.value))
    assert len(told) == 1


def test_null_without_weights_is_refused_with_the_settings() -> None:
    with pytest.raises(ValidationError, match="neither train.init_from nor weights is given"):
        stage(model_of("gated and mlp", None), None)


@pytest.mark.parametrize("key", ["weights", "train.init_from"])
def test_encoders_of_another_kind_are_named_with_those_of_the_weights(tmp_path: Path, key: str) -> None:
    own = model_of("gated and mlp", 6)
    folder = written(tmp_path / "run", own)
    other = stage(own.model_copy(update={"b": own.a}), folder, key)
    assert kinds_problem(other, key, folder) is None  # nothing beside them says what they are of
    RunDir(folder).write_stage(stage(own, Path("elsewhere")))
    told = kinds_problem(other, key, folder)
    assert told is not None
    assert told.startswith(
        f"{key} = {folder} are weights of other encoders: model.b = gated here and mlp there"
    )
    assert kinds_problem(stage(own, folder, key), key, folder) is None


def test_a_stage_with_encoders_of_another_kind_is_refused_before_ranks_start(
    tiny_shards: Path, tmp_path: Path
) -> None:
    own = tiny_stage(tiny_shards).model
    folder = written(tmp_path / "run", own)
    RunDir(folder).write_stage(tiny_stage(tiny_shards))
    changed = tiny_stage(tiny_shards, train__init_from=str(folder))
    changed = changed.model_copy(
        update={"model": own.model_copy(update={"b": model_of("gated and mlp", 8).a})}
    )
    with pytest.raises(UserError, match=r"model\.b = gated here and mlp there"):
        resolve(changed, RunDir(tmp_path / "refused"), 1)
