"""A study of runs that were made up: its figures against counts by hand, its files, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from swamp_dist import UserError, cli, embed, load_model
from swamp_dist.cli.prototypes import table
from swamp_dist.console import open_console
from swamp_dist.data.class_vectors import write_class_names
from swamp_dist.data.manifest import Manifest
from swamp_dist.prototypes.files import default_folder
from swamp_dist.prototypes.keywords import Keyword
from swamp_dist.prototypes.study import PrototypeFigures, Study, study
from swamp_dist.train.weights import load_weights, save_weights
from tests.prototypes.made import FEATURES, PICTURES, THINGS, feature_set, picture_set, run_over


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    return run_over(picture_set(folder / "set"), folder / "run", PICTURES, ("image", "text"), 12)


@pytest.fixture(scope="module")
def found(pictures: Path) -> Study:
    return study(load_model(pictures, device="cpu"), "test")


def swamp(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["prototypes", *map(str, arguments)])


def test_items_go_where_the_saved_prototypes_send_them(found: Study, pictures: Path) -> None:
    model = load_model(pictures, device="cpu")
    prototypes = load_weights(model.weights).tensors["prototypes.weight"]
    unit = prototypes / prototypes.norm(dim=1, keepdim=True)
    rows = embed(model, "test")
    for side, given in zip(found.sides, (rows.a, rows.b), strict=True):
        assert side.prototype.tolist() == (given.rows @ unit.T).argmax(dim=1).tolist()
    assert (len(found.sides[0]), len(found.sides[1])) == (24, 48)
    assert [sum(p.sizes[i] for p in found.prototypes) for i in (0, 1)] == [24, 48]


def test_prototypes_tell_what_their_items_are(found: Study) -> None:
    texts = found.texts.items[1]
    assert texts is not None
    assert set(texts) >= {f"a {thing} on a table" for thing in THINGS}
    for each in found.prototypes:
        own = [t for t, k in zip(texts, found.sides[1].prototype, strict=True) if k == each.number]
        for keyword in each.keywords:
            assert keyword.texts == sum(keyword.word in text.split() for text in own)
        labels = [int(y) for s in found.sides for y, k in zip(s.label, s.prototype, strict=True)
                  if k == each.number]  # fmt: skip
        if labels:
            most = Counter(labels).most_common(1)[0][1]
            assert each.purity == pytest.approx(most / len(labels))
        assert (each.super_cluster is None) == (each.items == 0)
    assert found.words_from == "texts of text"
    members = [number for group in found.super_clusters for number in group.members]
    assert sorted(members) == [each.number for each in found.used]


def test_classes_are_called_by_their_names(pictures: Path, found: Study) -> None:
    model = load_model(pictures, device="cpu")
    record = write_class_names(model.manifest.folder, THINGS)
    named = model.manifest.record.model_copy(update={"class_names": record})
    manifest = Manifest(model.manifest.folder, named)
    for each in study(replace(model, manifest=manifest), "test").used:
        assert each.label is not None
        assert each.class_name == THINGS[each.label]
    assert {each.class_name for each in found.prototypes} == {None}


def test_the_same_study_leaves_the_same_bytes(pictures: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        done = swamp(pictures, "--split", "test", "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"prototypes.json", "items.npz"} <= set(names)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_files_hold_every_figure_and_every_item(pictures: Path, found: Study) -> None:
    done = swamp(pictures, "--split", "test", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    folder = pictures / "prototypes" / "test"
    assert told == json.loads((folder / "prototypes.json").read_text())
    assert told["weights"]["step"] == 7
    assert told["data"]["items"] == {"a": 24, "b": 48}
    assert told["agreement"]["share"] == found.agreement.share
    assert [each["a"] for each in told["prototypes"]] == [each.sizes[0] for each in found.prototypes]
    with np.load(folder / "items.npz", allow_pickle=False) as items:
        assert items["keys"].tolist() == list(found.keys)
        for name, side in zip("ab", found.sides, strict=True):
            for part in ("prototype", "score", "probability", "entry", "label"):
                np.testing.assert_array_equal(items[f"{name}_{part}"], getattr(side, part))


def test_the_table_fits_eighty_columns(pictures: Path) -> None:
    done = swamp(pictures, "--split", "test")
    table = done.stdout.split("shown:")[0].splitlines()
    assert max(map(len, table)) <= 80
    assert all(line.split()[0].isdigit() and line.split()[-1] for line in table[1:])
    assert table[0].split() == ["ID", "a", "b", "agree", "purity", "keywords"]
    assert "by chance" in done.output


def test_prototypes_that_were_trained_as_they_are_stay_so(pictures: Path, tmp_path: Path) -> None:
    model = load_model(pictures, device="cpu")
    text = (pictures / "stage.yaml").read_text()
    changed = text.replace("normalize_prototypes: true", "normalize_prototypes: false")
    assert changed != text
    (tmp_path / "stage.yaml").write_text(changed)
    tensors = dict(load_weights(model.weights).tensors)
    tensors["prototypes.weight"] = tensors["prototypes.weight"] * torch.linspace(0.1, 3, 12)[:, None]
    save_weights(tmp_path / "weights.safetensors", tensors, {})
    raw = study(load_model(tmp_path, device="cpu"), "test")
    expected = (embed(model, "test").a.rows @ tensors["prototypes.weight"].T).argmax(dim=1)
    assert raw.sides[0].prototype.tolist() == expected.tolist()
    assert not raw.learned.normalized


@pytest.mark.parametrize(
    ("text", "source"), [(True, "texts beside the entries"), (False, None)], ids=["captions", "nothing"]
)
def test_features_are_told_by_captions_beside_them_or_not_at_all(
    tmp_path: Path, text: bool, source: str | None
) -> None:
    run = run_over(feature_set(tmp_path / "set", text), tmp_path / "run", FEATURES, ("a", "b"), 5)
    found = study(load_model(run, device="cpu"), "test")
    assert found.words_from == source
    assert found.classes == {}
    words = {keyword.word for each in found.prototypes for keyword in each.keywords}
    assert words == ({"somebody", "flies", *THINGS} if text else set())
    assert all(each.purity is None and each.label is None for each in found.prototypes)


def test_what_cannot_be_looked_at_is_refused(pictures: Path, tmp_path: Path) -> None:
    run = run_over(picture_set(tmp_path / "set", 8), tmp_path / "run", PICTURES, ("image", "text"), None)
    for arguments, told in (
        ((run, "--split", "test"), "trained without the SwAMP term"),
        ((run, "--split", "tset"), "Did you mean 'test'"),  # of both mistakes
        ((pictures, "--split", "tset"), "Did you mean 'test'"),
        ((tmp_path / "nowhere", "--split", "test"), "expected a run folder"),
    ):
        done = swamp(*arguments)
        assert done.exit_code == 2, done.output
        assert told in done.output
    (run / "weights.safetensors").unlink()
    done = swamp(run, "--split", "test")
    assert done.exit_code == 2, done.output
    assert "run: expected a run folder, RUN@STEP" in done.output


def test_folders_are_named_after_what_is_looked_at(tmp_path: Path) -> None:
    run, inside = tmp_path / "run", tmp_path / "run" / "checkpoints" / "step-40"
    inside.mkdir(parents=True)
    (run / "weights.safetensors").touch()
    assert default_folder(run, "test") == run / "prototypes" / "test"
    assert default_folder(tmp_path / "run@40", "test") == run / "prototypes" / "test-step-40"
    assert default_folder(run, "test", "other") == run / "prototypes" / "other-test"
    with pytest.raises(UserError, match="choose one with --out"):
        default_folder(run, "../test")


def test_long_keywords_leave_room_for_figures() -> None:
    words = tuple(Keyword("letters" * 5, 1, 1.0) for _ in range(8))
    figures = [PrototypeFigures(n, (123456, 7), 0.5, 0.25, 3, None, words, 0) for n in (3, 1000)]
    console = open_console(width=80, terminal=False)
    with console.capture() as drawn:
        console.print(table(figures, classes=True))
    lines = drawn.get().splitlines()
    assert max(map(len, (line.rstrip() for line in lines))) <= 80
    assert lines[1].split()[:5] == ["0003", "123456", "7", "50%", "25%"]
    assert lines[2].split()[:1] == ["1000"]
    assert "letters" in lines[1]
