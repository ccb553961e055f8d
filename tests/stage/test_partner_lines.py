"""What is said before a training by class: sizes of its splits, and classes that it shares with a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swamp_dist.config import StageSettings
from swamp_dist.stage.advice import known_notes, stage_warnings
from swamp_dist.stage.partner_lines import partner_lines
from tests.data.partner_sets import write_couples
from tests.train.tiny import TINY


def stage(folder: Path, **changes: Any) -> StageSettings:
    partners = {"split": "train_photos", "negatives": "uniform", "names": {"a": "sketch", "b": "photo"}}
    data = {"shards": str(folder), "a": "x", "b": "x", "entries": 8, "partners": partners}
    train = {"epochs": 1}
    evaluate = [{"split": "test", "gallery": "test_photos", "relevance": ["class"]}]
    return StageSettings.model_validate(TINY | {"data": data, "train": train, "evaluate": evaluate} | changes)


def test_sizes_are_told(tmp_path: Path) -> None:
    folder = write_couples(tmp_path / "set", each=(3, 4)).folder
    (line,) = partner_lines(stage(folder))
    assert line == (
        "each of the 12 entries of split train (sketch) is paired with one of the 16 of split train_photos "
        "(photo), drawn from its class, of 4, with a negative of another class (uniform)"
    )
    assert partner_lines(stage(tmp_path / "absent")) == []
    assert partner_lines(stage(folder, train=None, random_weights=True)) == []


def test_seen_classes_are_a_warning_that_can_be_known(tmp_path: Path) -> None:
    apart = write_couples(tmp_path / "apart", each=(3, 4)).folder
    assert not [text for text in stage_warnings(stage(apart)) if "unseen" in text]
    folder = write_couples(tmp_path / "set", train=(0, 1, 2, 3), tests=(2, 3, 4), each=(3, 4)).folder
    (told,) = (text for text in stage_warnings(stage(folder)) if "unseen" in text)
    assert told.startswith("2 of 3 classes of split test are classes of split train")
    known = stage(folder, known_warnings={"seen_classes": "many photos of few classes"})
    assert not [text for text in stage_warnings(known) if "unseen" in text]
    assert "known warning seen_classes: many photos of few classes" in known_notes(known)
