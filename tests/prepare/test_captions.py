"""Captions of a recipe in its shards: those without words, those that are no texts, and sets of before."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from swamp_dist.config import ShardSettings, WordsBuildSettings
from swamp_dist.data.manifest import Manifest, ManifestRecord
from swamp_dist.data.reader import open_reader
from swamp_dist.errors import UserError
from swamp_dist.prepare.build import build_shards, read_coverage
from swamp_dist.prepare.raw_data import source_record
from tests.sources import raw_layouts
from tests.sources.raw_layouts import WIDTH, write_rows, write_tables


@pytest.fixture
def recipe(tmp_path: Path) -> ShardSettings:
    """MSR-VTT with one sound training video, two without words, one with a caption that is no text."""
    source = raw_layouts.msrvtt(tmp_path)
    said = [("video0", "the dog"), ("video0", None), ("video1", None), ("video1", math.nan), ("video2", 7)]
    sentences = [{"video_id": video, "caption": caption} for video, caption in said]
    source.captions.write_text(json.dumps({"sentences": sentences}))
    write_rows(source.test_list, ("video_id", "sentence"), [("video9770", "the"), ("video9771", "...")])
    (tmp_path / "vectors.txt").write_text("the 1 2\ndog 3 4\nNone 5 6\nnan 7 8\n7 9 10\n")
    words = WordsBuildSettings(vectors=tmp_path / "vectors.txt", max_words=3)
    return ShardSettings(name="said", source=source, words=words, on_missing="skip", max_missing_share=1)


def _with(recipe: ShardSettings, **changes: object) -> ShardSettings:
    return recipe.model_copy(update={"source": recipe.source.model_copy(update=changes)})


def _ids(manifest: Manifest, split: str) -> dict[str, list[list[int]]]:
    reader = open_reader(manifest, split, ("text",))
    entries = reader.read(range(len(reader.split)))
    return {entry.key: entry.arrays["text"].tolist() for entry in entries}


def test_a_test_caption_without_words_stops_a_build_and_is_padding_where_it_is_kept(
    recipe: ShardSettings, tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"v_video9771: .*test\.csv:3: the caption has no word.*wordless: keep"
    ):
        build_shards(recipe, tmp_path / "refused")
    manifest = build_shards(_with(recipe, wordless="keep"), tmp_path / "kept")
    assert _ids(manifest, "test") == {"v_video9770": [[1, 0, 0]], "v_video9771": [[0, 0, 0]]}
    train = _ids(manifest, "train")
    assert train == {"v_video0": [[1, 2, 0], [0, 0, 0]], "v_video1": [[0, 0, 0], [0, 0, 0]]}
    assert (tmp_path / "kept" / "words.txt").read_text() == "\nthe\ndog\n"  # neither None, nan nor 7
    coverage, _ = read_coverage(tmp_path / "kept")
    assert coverage is not None
    assert list(coverage.splits["train"].skipped) == ["captions malformed"]
    assert coverage.splits["train"].tally["captions_without_words"] == 3


def test_captions_without_words_are_dropped_where_that_is_asked_for(
    recipe: ShardSettings, tmp_path: Path
) -> None:
    dropping = _with(recipe, wordless="drop")
    write_rows(dropping.source.test_list, ("video_id", "sentence"), [("video9770", "the")])  # type: ignore[union-attr]
    manifest = build_shards(dropping, tmp_path / "set")
    assert _ids(manifest, "train") == {"v_video0": [[1, 2, 0]]}
    coverage, _ = read_coverage(tmp_path / "set")
    assert coverage is not None
    assert set(coverage.splits["train"].skipped) == {"caption without words", "captions malformed"}


def test_float16_and_float32_features_make_a_set_of_float32(recipe: ShardSettings, tmp_path: Path) -> None:
    source = recipe.source
    assert source.kind == "msrvtt"
    write_tables(source.train_features, ["video0", "video1", "video2"], torch.float16)
    manifest = build_shards(_with(recipe, wordless="keep"), tmp_path / "set")
    assert manifest.field("video").dtype == "float32"
    rows = open_reader(manifest, "train", ("video",)).stack("video", [0, 1])
    assert sorted(rows[:, 0].tolist()) == [0.0, 1.0]
    assert rows.shape == (2, 2 * WIDTH)
    assert rows.dtype == np.float32


def test_a_set_of_before_the_setting_is_up_to_date(recipe: ShardSettings, tmp_path: Path) -> None:
    """Its manifest does not name `wordless`; what it was built with is the default."""
    assert "wordless" not in source_record(recipe.source)
    assert source_record(_with(recipe, wordless="keep").source)["wordless"] == "keep"
    narrated = raw_layouts.howto100m(tmp_path / "narrated")
    assert source_record(narrated)["wordless"] == "keep"  # as its sets always named it
    write_rows(recipe.source.test_list, ("video_id", "sentence"), [("video9770", "the")])  # type: ignore[union-attr]
    built = build_shards(recipe, tmp_path / "set")
    assert "wordless" not in built.record.source
    again = ManifestRecord.model_validate_json((tmp_path / "set" / "manifest.json").read_bytes())
    assert build_shards(recipe, tmp_path / "set").record == again
    with pytest.raises(UserError, match=r"source\.wordless: found None, wanted 'keep'"):
        build_shards(_with(recipe, wordless="keep"), tmp_path / "set")
