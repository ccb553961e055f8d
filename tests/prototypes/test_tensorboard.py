"""What TensorBoard gets of a study: vectors, what each is, pictures, the sheet and the keywords."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector.projector_config_pb2 import EmbeddingInfo, ProjectorConfig
from typer.testing import CliRunner

from swamp_dist import cli, embed, load_model
from swamp_dist.prototypes import tensorboard
from swamp_dist.prototypes.study import study
from swamp_dist.prototypes.tensorboard import write_tensorboard
from tests.prototypes.made import FEATURES, PICTURES, feature_set, picture_set, run_over


def config(folder: Path) -> EmbeddingInfo:
    (found,) = text_format.Parse(
        (folder / "projector_config.pbtxt").read_text(), ProjectorConfig()
    ).embeddings
    return found


def points(folder: Path) -> list[list[str]]:
    return [line.split("\t") for line in (folder / "projector" / "points.tsv").read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with hostile captions: a tab, a line end and a terminal's escape in every text."""
    root = tmp_path_factory.mktemp("projector")
    captions = ["one\ttwo\nthree\x1b[2J", "a <b>picture</b>"]
    run = run_over(picture_set(root / "set", 24, captions), root / "run", PICTURES, ("image", "text"), 12)
    arguments = ["prototypes", str(run), "--split", "test", "--tensorboard"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    out = run / "prototypes" / "test"
    assert f"projector:   tensorboard --logdir {out}" in done.output.replace("\n", "")
    return out


def test_every_row_is_the_embedding_of_the_item_that_is_named(folder: Path) -> None:
    info, (headings, *rows) = config(folder), points(folder)
    model = load_model(folder.parents[1], device="cpu")
    found, embedded = study(model, "test"), embed(model, "test")
    vectors = np.loadtxt(folder / info.tensor_path, dtype=np.float32, delimiter="\t")
    assert headings == ["what", "side", "prototype", "class", "key"]
    assert [row[1] for row in rows] == ["image"] * 24 + ["text"] * 48 + ["prototype"] * len(found.used)
    both = np.concatenate([embedded.a.rows.numpy(), embedded.b.rows.numpy()])
    np.testing.assert_allclose(vectors[:72], both, atol=1e-6)
    used = [each.number for each in found.used]
    np.testing.assert_allclose(vectors[72:], found.learned.vectors.numpy()[used], atol=1e-6)
    expected = np.concatenate([side.prototype for side in found.sides]).tolist()
    assert [int(row[2]) for row in rows] == expected + used
    assert [row[4] for row in rows[:24]] == list(found.keys)


def test_texts_of_the_set_make_no_line_and_no_column(folder: Path) -> None:
    rows = points(folder)
    assert {len(row) for row in rows} == {5}
    assert "one\\ttwo\\nthree\\u001b[2J" in {row[0] for row in rows}


def test_a_tile_shows_the_picture_of_its_row(folder: Path) -> None:
    info, rows = config(folder), points(folder)[1:]
    assert list(info.sprite.single_image_dim) == [64, 64]
    sprite = np.asarray(Image.open(folder / info.sprite.image_path))
    columns = len(sprite) // 64
    assert columns * columns >= len(rows) > (columns - 1) ** 2
    tiles = sprite.reshape(columns, 64, columns, 64, 4).swapaxes(1, 2).reshape(-1, 64, 64, 4)
    assert len({tile.tobytes() for tile in tiles[:24]}) == 24
    seen = [(tile[..., 3] > 0).mean() for tile in tiles[: len(rows)]]
    assert min(seen[:24]) > 0.5  # pictures; then dots of items and larger marks of prototypes
    assert 0 < max(seen[24:72]) < 0.1 < min(seen[72:]) < 0.2
    assert not tiles[len(rows) :].any()


def test_the_event_file_holds_the_sheet_and_the_keywords(folder: Path) -> None:
    events = EventAccumulator(str(folder))
    events.Reload()
    (image,) = events.Images("prototypes/test")
    assert image.step == 7
    assert image.width == Image.open(folder / "sheet.png").width
    (text,) = events.Tensors("prototypes/test/text_summary")
    assert b"items  prototype" in text.tensor_proto.string_val[0]


def test_of_many_items_some_are_drawn_and_without_images_there_is_no_sprite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorboard, "MOST", 6)
    run = run_over(feature_set(tmp_path / "set", text=False), tmp_path / "run", FEATURES, ("a", "b"), 5)
    picture = tmp_path / "sheet.png"
    Image.new("RGB", (4, 4)).save(picture)
    found = study(load_model(run, device="cpu"), "test")
    write_tensorboard(found, tmp_path / "out", picture.read_bytes())
    rows = points(tmp_path / "out")[1:]
    assert [row[1] for row in rows].count("a") == [row[1] for row in rows].count("b") == 6
    assert not config(tmp_path / "out").sprite.image_path
    assert {row[0] for row in rows[:6]} < set(found.keys)
