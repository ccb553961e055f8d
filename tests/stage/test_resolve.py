"""What is refused from settings and files alone: whole videos and word vectors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from swamp_dist.config import GatedSettings, ModelSettings, StageSettings
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.words import check_table_hash
from swamp_dist.errors import UserError
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.problems import word_source
from swamp_dist.stage.resolve import resolve, training_marks
from swamp_dist.train.input_parts import UNIT_PARTS, check_unit_parts, unit_parts
from swamp_dist.train.weights import save_weights
from swamp_dist.train.word_source import WORD_SOURCE
from tests.data.video_sets import build_pooled, build_videos
from tests.train.tiny import TINY

PLAIN: dict[str, Any] = {"epochs": 1, "schedule": {"kind": "constant"}, "select": "last"}


def stage(folder: Path, clips: bool, **changes: Any) -> StageSettings:
    data = {"shards": str(folder), "entries": 8, "clips": {} if clips else None}
    model = TINY["model"] | {"a": {"kind": "words"}}
    return StageSettings.model_validate(
        TINY | {"data": data, "model": model, "train": PLAIN, "evaluate": []} | changes
    )


def refusal(settings: StageSettings, folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        resolve(settings, RunDir(folder / "run"), 1)
    return str(refused.value)


def test_a_stage_over_whole_videos_may_start(tmp_path: Path) -> None:
    manifest = build_videos(tmp_path / "set")
    settings = stage(manifest.folder, clips=True)
    assert resolve(settings, RunDir(tmp_path / "run"), 1).manifest.hash == manifest.hash
    assert word_source(settings, manifest) == "s" * 64


def test_classes_of_a_set_without_labels_are_no_positives(tmp_path: Path) -> None:
    folder = build_videos(tmp_path / "set").folder
    several = {"contrastive": {"positives": "class"}}
    said = refusal(stage(folder, clips=True, objective=several), tmp_path)
    assert "entries of the training split have no class label" in said
    assert "positives: entry or partner" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate": [{"split": "train"}]},
        {"train": PLAIN | {"validate_on": {"split": "train"}}},
    ],
    ids=["evaluate", "validate"],
)
def test_whole_videos_cannot_be_ranked(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = build_videos(tmp_path / "set").folder
    said = refusal(stage(folder, clips=True, **changes), tmp_path)
    assert "no one set of pairs to rank" in said
    assert "Fix: evaluate = [], train.validate_on = null" in said
    assert "no field" not in said


def test_whole_videos_without_clip_settings_are_refused(tmp_path: Path) -> None:
    folder = build_videos(tmp_path / "set").folder
    assert "no field 'video'" in refusal(stage(folder, clips=False), tmp_path)


def test_clip_settings_over_single_clips_are_refused(tmp_path: Path) -> None:
    folder = build_pooled(tmp_path / "set").folder
    assert "no field 'times'" in refusal(stage(folder, clips=True), tmp_path)


@pytest.mark.parametrize(
    ("metadata", "refused"),
    [({WORD_SOURCE: "t" * 64}, True), ({WORD_SOURCE: "s" * 64}, False), ({"step": "3"}, False), ({}, False)],
    ids=["other", "same", "unsaid", "nothing"],
)
@pytest.mark.parametrize("key", ["train.init_from", "weights"])
def test_weights_of_other_word_vectors_are_refused(
    tmp_path: Path, metadata: dict[str, str], refused: bool, key: str
) -> None:
    folder = build_pooled(tmp_path / "set").folder
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(3)}, metadata)
    if key == "weights":
        changes = {"train": None, "weights": str(path), "evaluate": [{"split": "test"}]}
    else:
        changes = {"train": PLAIN | {"init_from": str(path)}}
    settings = stage(folder, clips=False, **changes)
    if not refused:
        resolve(settings, RunDir(tmp_path / "run"), 1)
        return
    said = refusal(settings, tmp_path)
    assert f"{key} = {path}: these weights were trained with other word vectors" in said
    assert f"Expected vectors with sha256 {'s' * 64}, found {'t' * 64}" in said
    assert "Fix: build the shard set with" in said


def test_stages_without_words_take_any_weights(tmp_path: Path) -> None:
    from tests.data.shard_sets import build

    folder = build(tmp_path / "set").folder
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(3)}, {WORD_SOURCE: "t" * 64})
    data = {"shards": str(folder), "a": "a", "b": "b", "entries": 8}
    resolve(
        stage(folder, False, data=data, model=TINY["model"], train=PLAIN | {"init_from": str(path)}),
        RunDir(tmp_path / "run"),
        1,
    )


def test_checkpoints_from_before_clips_keep_their_marks_and_clips_change_them(tmp_path: Path) -> None:
    plain = training_marks(stage(tmp_path, clips=False), "hash")
    assert not [key for key in plain if "clips" in key]
    cut = training_marks(stage(tmp_path, clips=True), "hash")
    assert cut["data.clips.min_seconds"] == 5.0
    assert cut["data.clips.parts"] == [["features_2d", 1.0], ["features_3d", 1.5]]  # in order: of the halves


def test_features_at_another_rate_than_the_job_takes_them_for_are_refused(tmp_path: Path) -> None:
    folder = build_videos(tmp_path / "set", source={"rate_2d": 1.0, "rate_3d": 1.0}).folder
    assert "Fix: data.clips.parts.features_3d=1" in refusal(stage(folder, clips=True), tmp_path)
    fitting = {
        "shards": str(folder),
        "entries": 8,
        "clips": {"parts": {"features_2d": 1.0, "features_3d": 1.0}},
    }
    resolve(stage(folder, clips=True, data=fitting), RunDir(tmp_path / "run"), 1)


def test_weights_of_inputs_that_were_scaled_otherwise_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    scaled = ModelSettings(b=GatedSettings(unit_parts=(6, 8)))
    save_weights(path, {"a": torch.ones(3)}, {UNIT_PARTS: unit_parts(scaled)})
    check_unit_parts(path, "weights", scaled)
    with pytest.raises(UserError, match=r"Fix: model.b.unit_parts=\[6, 8\]"):
        check_unit_parts(path, "weights", ModelSettings())
    save_weights(path, {"a": torch.ones(3)}, {})
    check_unit_parts(path, "weights", ModelSettings())  # written by a program that does not say


def test_a_word_table_of_other_bytes_is_found_before_the_first_step(tmp_path: Path) -> None:
    manifest = build_videos(tmp_path / "set")
    words = manifest.record.words
    assert words is not None
    check_table_hash(manifest.folder, words)
    path = manifest.folder / words.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match="the manifest says"):
        check_table_hash(manifest.folder, words)


@pytest.mark.parametrize(("prototypes", "start"), [(500, None), (4, 21)])
def test_more_unique_rows_than_the_split_has_are_refused(
    tmp_path: Path, prototypes: int, start: int | None
) -> None:
    folder = build_pooled(tmp_path / "set").folder
    count = len(load_manifest(folder).split("train"))
    queue = {"size": 600, "unique_items": True, "start_when_filled": start or None}
    swamp = {"prototypes": prototypes, "queue": queue}
    said = refusal(stage(folder, clips=False, objective={"swamp": swamp}), tmp_path)
    assert f"start_when_filled = {start or 500}" in said
    assert f"split of {count} entries at most {count} rows can count" in said
    assert f"Lower it to {count} or less" in said
    for allowed in (queue | {"start_when_filled": count}, queue | {"unique_items": False}):
        resolve(
            stage(folder, clips=False, objective={"swamp": swamp | {"queue": allowed}}),
            RunDir(tmp_path / "run"),
            1,
        )


def test_the_checks_load_no_torch(tmp_path: Path) -> None:
    folder = build_videos(tmp_path / "set").folder
    settings = stage(folder, clips=True).model_dump_json()
    program = (
        "import json, sys; from pathlib import Path\n"
        "from swamp_dist.config import StageSettings\n"
        "from swamp_dist.stage.resolve import resolve\n"
        "from swamp_dist.runs.folder import RunDir\n"
        f"settings = StageSettings.model_validate_json({settings!r})\n"
        f"resolve(settings, RunDir(Path({str(tmp_path / 'run')!r})), 1)\n"
        "print(json.dumps('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) is False
