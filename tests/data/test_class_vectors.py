"""Names and vectors of classes beside the shards, held to the hashes of the manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from swamp_dist.config import ClassVectorsBuildSettings, ShardSettings
from swamp_dist.data.class_vectors import class_names, class_vectors, write_class_names, write_class_vectors
from swamp_dist.data.manifest import Manifest, read_manifest
from swamp_dist.data.verify import verify_shards
from swamp_dist.errors import UserError
from swamp_dist.prepare.build import build_shards
from swamp_dist.sources import minilm

MODULE = """
import numpy as np
from swamp_dist import RawSplit, Sample

def item_fields(names, labels):
    return ()

def open_splits(names, labels):
    def read(i):
        return Sample(f"key{i}", {"a": np.ones(2), "b": np.ones(2)}, labels[i])
    return {"train": RawSplit([f"key{i}" for i in range(len(labels))], read, class_names=names)}
"""


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    (tmp_path / "named_classes.py").write_text(MODULE)
    (tmp_path / "v.txt").write_text("ant 3 4\nbee 0 2\nsea 1 0\n")
    monkeypatch.chdir(tmp_path)

    def build(names: list[str], labels: list[int], **changes: object) -> Manifest:
        options = {"names": names, "labels": labels}
        source = {"kind": "python", "target": "named_classes", "options": options}
        recipe = ShardSettings.model_validate({"name": "toy", "source": source, **changes})
        return build_shards(recipe, tmp_path / "toy")

    return build


def test_row_i_belongs_to_label_i(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    manifest = build(["ant", "sea_bee"], [1, 0, 1], class_vectors={"vectors": tmp_path / "v.txt"})
    assert class_names(manifest) == ("ant", "sea_bee")
    rows = class_vectors(manifest)
    assert rows is not None
    np.testing.assert_allclose(rows, [[0.6, 0.8], [np.sqrt(0.2), np.sqrt(0.8)]], rtol=1e-6)
    assert rows.dtype == np.float32
    assert verify_shards(tmp_path / "toy") == []
    same = build(["ant", "sea_bee"], [1, 0, 1], class_vectors={"vectors": tmp_path / "v.txt"})
    assert same.hash == manifest.hash
    with pytest.raises(UserError, match=r"class_vectors.unit: found True, wanted False"):
        build(["ant", "sea_bee"], [1, 0, 1], class_vectors={"vectors": tmp_path / "v.txt", "unit": False})
    with pytest.raises(UserError, match="class_vectors: found some, wanted none"):
        build(["ant", "sea_bee"], [1, 0, 1])
    (tmp_path / "v.txt").write_text("ant 3 4\nbee 0 2\nsea 7 0\n")
    with pytest.raises(UserError, match="holds vectors of another file"):
        build(["ant", "sea_bee"], [1, 0, 1], class_vectors={"vectors": tmp_path / "v.txt"})
    (tmp_path / "v.txt").unlink()  # a set is used where the file is not
    again = build(["ant", "sea_bee"], [1, 0, 1], class_vectors={"vectors": tmp_path / "v.txt"})
    assert again.hash == manifest.hash


def test_sets_without_names_say_nothing_of_them(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    manifest = build([], [0, 1])
    assert class_names(manifest) is None
    assert class_vectors(manifest) is None
    assert "class_names" not in json.loads((tmp_path / "toy" / "manifest.json").read_text())
    with pytest.raises(UserError, match="the classes of this source have no names"):
        build_shards_fresh(build, tmp_path, [], [0, 1], class_vectors={"vectors": tmp_path / "v.txt"})


def build_shards_fresh(build, tmp_path: Path, names, labels, **changes):  # type: ignore[no-untyped-def]
    (tmp_path / "toy").rename(tmp_path / "older")
    return build(names, labels, **changes)


def test_names_without_vectors(build) -> None:  # type: ignore[no-untyped-def]
    manifest = build(["ant", "bee", "cow"], [0, 1])
    assert class_names(manifest) == ("ant", "bee", "cow"), "a class may have no entry"
    assert manifest.classes == 2
    assert class_vectors(manifest) is None


def test_a_class_without_a_name_or_a_vector_is_refused(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=r"entry 'key\d': class 2; the source names 2 classes"):
        build(["ant", "bee"], [0, 2])
    with pytest.raises(UserError, match=r"no vector for 1 of 2 classes: cow\."):
        build(["ant", "cow"], [0, 1], class_vectors={"vectors": tmp_path / "v.txt"})
    with pytest.raises(UserError, match="class_vectors.words: no class Ant"):
        build(["ant"], [0], class_vectors={"vectors": tmp_path / "v.txt", "words": {"Ant": "bee"}})
    np.save(tmp_path / "t.npy", np.array([[1, 2], [np.nan, 3]]))
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    for unit in (True, False):
        wanted = {"vectors": tmp_path / "t.npy", "names": tmp_path / "names.txt", "unit": unit}
        with pytest.raises(UserError, match=r"t.npy: the vector of bee holds a number that is not finite"):
            build(["ant", "bee"], [0, 1], class_vectors=wanted)
    with pytest.raises(UserError, match="class 1: the name 'ant' stands twice"):
        build(["ant", "ant"], [0, 1])


def test_files_of_another_set_are_refused_and_named(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    build(["ant", "bee"], [0, 1], class_vectors={"vectors": tmp_path / "v.txt"})
    (tmp_path / "toy" / "class_names.txt").unlink()
    write_class_names(tmp_path / "toy", ["bee", "ant"])
    (tmp_path / "toy" / "class_vectors.npy").unlink()
    write_class_vectors(tmp_path / "toy", np.eye(2, dtype=np.float32))
    manifest = read_manifest(tmp_path / "toy")
    for read in (class_names, class_vectors):
        with pytest.raises(UserError, match="the manifest says"):
            read(manifest)
    found = sorted(str(problem) for problem in verify_shards(tmp_path / "toy"))
    assert found == [
        "class_names.txt: sha256 differs from the manifest",
        "class_vectors.npy: sha256 differs from the manifest",
    ]
    (tmp_path / "toy" / "class_names.txt").unlink()
    with pytest.raises(UserError, match="cannot be read"):
        class_names(manifest)


def test_sentence_vectors_of_names(build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    asked: list[str] = []

    def features(tokenizer: object, weights: object, texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return np.array([[len(text), 1] for text in texts], np.float32)

    monkeypatch.setattr("swamp_dist.prepare.classes.fetch", lambda package, downloads: downloads)
    monkeypatch.setattr(minilm, "load", lambda folder: (folder, {}))
    monkeypatch.setattr(minilm, "features", features)
    wanted = {"network": "minilm", "words": {"bee": "honey bee"}, "unit": False}
    manifest = build(["sea_ant", "bee"], [0, 1], class_vectors=wanted)
    assert asked == ["sea ant", "honey bee"]
    np.testing.assert_array_equal(class_vectors(manifest), [[7, 1], [9, 1]])
    names = manifest.record.class_names
    assert names is not None
    assert names.vectors is not None
    assert (names.vectors.kind, names.vectors.source_sha256) == ("minilm", minilm.PACKAGE.sha256)


@pytest.mark.parametrize(
    ("wanted", "finding"),
    [
        ({}, "give either vectors"),
        ({"vectors": "v.txt", "network": "minilm"}, "give either vectors"),
        ({"vectors": "v.txt", "names": "n.txt"}, "names belongs to vectors in a .npy"),
    ],
)
def test_settings_that_say_two_things_are_refused(wanted: dict[str, str], finding: str) -> None:
    with pytest.raises(ValidationError, match=finding):
        ClassVectorsBuildSettings.model_validate(wanted)


@pytest.mark.parametrize(
    "rows", [np.full((1, 2), np.nan, np.float32), np.ones((2, 2)), np.ones(3, np.float32)]
)
def test_vectors_that_no_loss_could_take_are_not_written(rows: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected finite float32 rows, one a class"):
        write_class_vectors(tmp_path, rows)
