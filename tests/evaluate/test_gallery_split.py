"""Queries of one split against the gallery of another: the same figures for any ranks and way of reading."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from swamp_dist.config import DataSettings, EvaluateSettings, FoldSettings
from swamp_dist.data.field_inputs import field_inputs
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.distributed import World, alone
from swamp_dist.errors import UserError
from swamp_dist.evaluate.checks import check_evaluation
from swamp_dist.evaluate.embedding import Embedded
from swamp_dist.evaluate.readers import open_readers
from swamp_dist.evaluate.results import from_json, splits_text, to_json
from swamp_dist.evaluate.retrieval import evaluate_embedded, evaluate_scored, evaluate_split
from swamp_dist.evaluate.scored import score_split
from swamp_dist.records import EvaluationResult
from tests.data.partner_sets import vector, write_couples
from tests.ranks import run_on_ranks

SETTINGS = EvaluateSettings(
    split="test", gallery="test_photos", relevance=("class",), chunk=4, precision_at=(5,)
)


def unit(rows: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(rows, dim=1)


def turned(rows: torch.Tensor) -> torch.Tensor:
    return unit(rows.flip(1))


def evaluated(world: World, folder: Path) -> list[EvaluationResult]:
    """By embeddings of entries read in several ways, and by all scores."""
    manifest, found = load_manifest(folder), []
    inputs = field_inputs(manifest, "x"), field_inputs(manifest, "x")
    for how in ({}, {"cache": "memory"}, {"reading": "stream"}):
        data = DataSettings.model_validate({"shards": folder, "a": "x", "b": "x", **how})
        for settings in (SETTINGS, SETTINGS.model_copy(update={"distance": "euclidean"})):
            with open_readers(manifest, settings, data, in_memory=True) as readers:
                names = "sketch", "photo", world, readers, inputs
                found.append(evaluate_split(unit, turned, manifest, settings, *names))
                both = (unit, turned)
                scored = score_split(both, None, manifest, settings, world, readers, inputs)
                found.append(evaluate_scored(scored, settings, "sketch", "photo", world))
    return found


def side(manifest: Manifest, split: str, embed) -> Embedded:
    """The items of a split as the test set has them, in manifest order."""
    index = manifest.split(split)
    pairs = zip(index.keys(range(len(index))), index.labels.tolist(), strict=True)
    made = [vector(split, int(key[-4:]), label) for key, label in pairs]
    rows = torch.stack([torch.from_numpy(each.fields["x"]) for each in made])
    return Embedded(embed(rows), torch.arange(len(made)), torch.from_numpy(index.labels))


def test_both_directions_are_ranked_over_the_other_split(tmp_path: Path) -> None:
    manifest = write_couples(tmp_path / "set", each=(5, 8))
    both = side(manifest, "test", unit), side(manifest, "test_photos", turned)
    expected = [
        evaluate_embedded(*both, SETTINGS.model_copy(update={"distance": name}), "sketch", "photo", alone())
        for name in ("cosine", "euclidean")
    ]
    assert expected[0].metrics["class/a_to_b"].num_queries == 15
    assert expected[0].metrics["class/a_to_b"].num_items == 24
    assert expected[0].metrics["class/b_to_a"].direction == "photo->sketch"
    assert expected[0].chance["class/a_to_b"].map < expected[0].metrics["class/a_to_b"].map < 100
    wanted = [expected[i] for _ in range(3) for i in (0, 0, 1, 1)]
    assert evaluated(alone(), tmp_path / "set") == wanted
    assert run_on_ranks(evaluated, 3, tmp_path / "set", how="threads") == [wanted] * 3


def test_a_result_with_a_gallery_is_written_and_read_again(tmp_path: Path) -> None:
    both = (
        Embedded(torch.eye(2), torch.arange(2), torch.arange(2)),
        Embedded(torch.eye(2), torch.arange(2), torch.arange(2)),
    )
    result = evaluate_embedded(*both, SETTINGS, "sketch", "photo", alone())
    assert from_json(to_json(result)) == result
    assert splits_text(result) == "test with gallery test_photos"
    without = evaluate_embedded(*both, EvaluateSettings(split="test"), "sketch", "photo", alone())
    assert "gallery" not in to_json(without)  # results of before stay as they were
    with pytest.raises(TypeError):
        from_json(to_json(result) | {"gallery": 3})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relevance": ("pair",)}, "has a partner of its own"),
        ({"relevance": ("pair", "class")}, r"Fix: relevance = \[class\]"),
        ({"folds": FoldSettings()}, "evaluate.folds with evaluate.gallery"),
        ({"gallery": "test_photo"}, "Did you mean 'test_photos'"),
        ({"gallery": "train_photos"}, "3 classes of split 'test'.*class 4, class 5, class 6"),
        ({"gallery": "validation_photos"}, "1 classes of split 'test'.*class 6"),
        ({"gallery": None}, "every item would be ranked for itself"),
        ({"split": "validation"}, "1 classes of split 'test_photos'.*class 6"),
    ],
)
def test_what_cannot_be_ranked_is_refused(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    manifest = write_couples(tmp_path / "set", each=(2, 2))
    with pytest.raises(UserError, match=said):
        check_evaluation(manifest, SETTINGS.model_copy(update=changes), "x", "x")
    check_evaluation(manifest, SETTINGS, "x", "x")


def test_a_gallery_needs_classes(tmp_path: Path) -> None:
    manifest = write_couples(tmp_path / "set", tests=(4, -1), each=(2, 3))
    with pytest.raises(UserError, match="2 of 4 entries of split 'test'.*have no class"):
        check_evaluation(manifest, SETTINGS, "x", "x")
