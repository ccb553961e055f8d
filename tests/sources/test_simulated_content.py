"""What a simulated corpus tells and shows, and what can be learned from it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from swamp_dist.config import SimulatedVideoTextSource
from swamp_dist.errors import UserError
from swamp_dist.sources.simulated_captions import content, make_corpus
from swamp_dist.sources.simulated_features import (
    Scenes,
    feature_map,
    pooled_features,
    stem_of,
    video_features,
    word_vector,
)
from swamp_dist.sources.simulated_video_text import ensure_raw_files
from tests.sources.simulated_sets import SMALL, small_settings


def test_forms_of_a_word_are_close_and_other_words_are_not(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, word_dim=300)
    chop, chopped, stir = (word_vector(word, settings) for word in ("chop", "chopped", "stir"))
    cosine = np.corrcoef([chop, chopped, stir])
    assert cosine[0, 1] > 0.7
    assert abs(cosine[0, 2]) < 0.25
    assert {stem_of(word) for word in ("chop", "chops", "Chopped", "chopping")} == {"chop"}


def test_no_sentence_is_shown_in_training_and_test(tmp_path: Path) -> None:
    corpus = make_corpus(small_settings(tmp_path))
    shown = {part: {clip.shown for clip in clips} for part, clips in corpus.pooled.items()}
    assert sum(map(len, shown.values())) == 40 + 10 + 12 + 6 + 90 + 6  # all distinct, in and across sets
    assert len(set().union(*shown.values())) == 164
    told = {text for video in corpus.videos for _, text in video.shown}
    assert not told & set().union(*shown.values())


def test_features_of_a_video_follow_what_is_shown_then(tmp_path: Path) -> None:
    settings = small_settings(tmp_path, nuisance=0, noise=0, row_noise=0, width=256)
    scenes, into = Scenes(settings, 0), feature_map(0, settings)
    video = make_corpus(settings).videos[0]
    rows = video_features(video, scenes, into, settings)
    for end, text in video.shown[:3]:
        expected = np.maximum(scenes.latent(text).astype(np.float32) @ into.matrices["3d"], 0)
        row = rows["3d"][int(1.5 * end - 0.5)].astype(np.float32)  # the last row whose middle is before `end`
        assert row @ expected / np.linalg.norm(expected) == pytest.approx(1, abs=1e-3)


def test_a_linear_map_learned_on_one_set_retrieves_on_others_with_the_same_map_only(tmp_path: Path) -> None:
    """Ridge regression from bags of word vectors to features: closed form, so nothing hangs on training."""
    sizes = {"lsmdc_train": 1200, "youcook2_test": 200, "howto100m_videos": 1, "youcook2_train": 1}
    given = SMALL | sizes | {"part": "lsmdc", "width": 256, "word_dim": 100, "latent_dim": 16}
    settings = SimulatedVideoTextSource.model_validate_json(json.dumps(given | {"raw_dir": str(tmp_path)}))
    corpus = make_corpus(settings)

    def bags(part: str) -> np.ndarray:
        said = [content(clip.captions[0]) for clip in corpus.pooled[part]]
        return np.stack([np.mean([word_vector(w, settings) for w in words], axis=0) for words in said])

    def features(part: str, map_seed: int) -> np.ndarray:
        into = feature_map(map_seed, settings)
        rows = [
            np.concatenate([*f.values()]) for f in pooled_features(part, corpus.pooled[part], into, settings)
        ]
        return np.stack(rows).astype(np.float64)

    x, held_out, clips = bags("lsmdc_train"), bags("youcook2_test"), features("youcook2_test", 0)
    recall = {}
    for map_seed in (0, 1):
        y = features("lsmdc_train", map_seed)
        weights = np.linalg.solve(x.T @ x + 0.1 * np.eye(100), x.T @ (y - y.mean(axis=0)))
        predicted, found = held_out @ weights, clips - clips.mean(axis=0)
        scores = (
            predicted @ found.T / np.linalg.norm(predicted, axis=1)[:, None] / np.linalg.norm(found, axis=1)
        )
        recall[map_seed] = 100 * np.mean((scores >= scores.diagonal()[:, None]).sum(axis=1) <= 10)
    assert recall[0] > 20  # chance is 5
    assert recall[1] < 12  # chance, with three standard errors of 200 queries


def _annotations(tmp_path: Path, per_subset: int = 90) -> Path:
    def videos(subset: str, verb: str) -> dict[str, object]:
        made = [
            {"segment": [0, 5], "id": i, "sentence": f"{verb} the item{i}  well"} for i in range(per_subset)
        ]
        return {f"{subset}-v": {"subset": subset, "recipe_type": "101", "annotations": [*made, made[0]]}}

    path = tmp_path / "annotations.json"
    database = videos("training", "chop") | videos("validation", "fry")
    path.write_text(json.dumps({"database": database}))
    return path


def test_sentences_of_an_annotation_file_are_kept_on_their_side(tmp_path: Path) -> None:
    sizes = {"youcook2_train": 20, "lsmdc_train": 20}
    corpus = make_corpus(small_settings(tmp_path, annotations=str(_annotations(tmp_path)), **sizes))
    shown = {part: {clip.shown for clip in clips} for part, clips in corpus.pooled.items()}
    for part, sentences in shown.items():
        verb = "fry" if part.endswith("test") else "chop"
        assert all(s.startswith(f"{verb} the item") and s.endswith(" well") for s in sentences)
        assert all("  " not in s for s in sentences)
    assert {c.captions[0] for c in corpus.pooled["youcook2_test"]} == shown["youcook2_test"]


@pytest.mark.parametrize(
    ("content_of_file", "words"),
    [
        (None, "found no readable file at"),
        ("{}", "expected the official YouCook2 annotation json"),
        ('{"database": [1]}', "expected the official YouCook2 annotation json"),
        ('{"database": {}}', r"has 0 distinct training sentences, but the settings ask for 143"),
    ],
)
def test_an_annotation_file_that_cannot_serve_is_named(
    tmp_path: Path, content_of_file: str | None, words: str
) -> None:
    path = tmp_path / "annotations.json"
    if content_of_file is not None:
        path.write_text(content_of_file)
    with pytest.raises(UserError, match=words):
        ensure_raw_files(small_settings(tmp_path / "raw", annotations=str(path)))
    assert not (tmp_path / "raw").exists()


def test_another_map_is_another_from_the_words_on(tmp_path: Path) -> None:
    """Words that show alike under one map do not under another, so no encoder of words can carry that
    over."""
    settings = small_settings(tmp_path)
    texts = [text for _, text in make_corpus(settings).videos[0].shown]
    one, other = (np.stack([Scenes(settings, seed).latent(text) for text in texts]) for seed in (0, 1))
    alike = [np.corrcoef(z)[np.triu_indices(len(texts), 1)] for z in (one, other)]
    assert not np.allclose(one, other)
    assert abs(np.corrcoef(*alike)[0, 1]) < 0.9
