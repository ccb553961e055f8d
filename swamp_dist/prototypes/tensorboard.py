"""A study for TensorBoard: embeddings with small pictures in its projector, the sheet and the keywords."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.atomic_files import write_atomically
from swamp_dist.data.reader import open_reader
from swamp_dist.inference import embed
from swamp_dist.printable import printable
from swamp_dist.prototypes.keywords import title
from swamp_dist.prototypes.shown import draw_items, key_of, side_kinds, told
from swamp_dist.prototypes.study import Study
from swamp_dist.prototypes.thumbnails import read_pictures

MOST = 1000
"""Items of each modality in the projector; of more, as many are drawn by their keys."""
TILE = 64
"""Pixels of a picture's side in the projector."""
_ASSETS = "projector"
"""Folder of the projector's files beside the event file."""
_CONFIG = "projector_config.pbtxt"
_HEADINGS = ("what", "side", "prototype", "class", "key")
_LONGEST = 80
"""Characters of a label."""
PROTOTYPE = "prototype"
"""The side of a point that is no item."""
_MARKS = {False: ("ellipse", "#3367d6", 24), True: ("rectangle", "#d9480f", 20)}
"""Shape, colour and empty pixels around it of a point without a picture, by whether it is a prototype."""


@dataclass(frozen=True)
class _Point:
    """One row of the projector: an item, or a prototype."""

    what: str
    side: str
    prototype: int
    label: str
    key: str
    picture: Any = None

    def row(self) -> str:
        values = (self.what[:_LONGEST], self.side, f"{self.prototype:04d}", self.label, self.key)
        return "\t".join(printable(value, one_line=True).replace("\t", " ") for value in values)


def write_tensorboard(found: Study, folder: Path, sheet: bytes, chunk: int = 256) -> None:
    """Write an event file and the projector's files into a folder, which TensorBoard calls a run.

    Points of the projector are items of both modalities, at most `MOST` of each, and the prototypes in use;
    their colours are chosen in TensorBoard by `side`, `prototype` or `class`.

    Args:
        sheet: the picture of `draw_sheet`, a PNG file.
        chunk: items embedded at a time.

    Raises:
        UserError: an image is damaged or larger than the stage allows.
        OSError: the folder cannot be written.
    """
    rows, points = _points(found, chunk)
    folder.mkdir(parents=True, exist_ok=True)
    _write_projector(folder, rows, points)
    _write_events(folder, found, sheet)


def _points(found: Study, chunk: int) -> tuple[np.ndarray, list[_Point]]:
    """(n, D) float32 rows and what each of them is."""
    shards = None if found.manifest.folder == found.model.settings.data.shards else found.manifest.folder
    embedded = embed(found.model, found.split, shards, chunk)
    rows, points = [], []
    for place, side in enumerate((embedded.a, embedded.b)):
        items = draw_items(found, place, MOST)
        pictures = _pictures(found, place, items)
        rows.append(side.rows[items].cpu().numpy())
        points += [_item(found, place, item, pictures) for item in items]
    for each in found.used:
        name = each.class_name or ""
        points.append(_Point(title(each.number, each.keywords), PROTOTYPE, each.number, name, ""))
    rows.append(found.learned.vectors[[each.number for each in found.used]].numpy())
    return np.concatenate(rows), points


def _item(found: Study, place: int, item: int, pictures: dict[int, Any]) -> _Point:
    side, field = found.sides[place], found.model.fields[place]
    label, number = int(side.label[item]), int(side.prototype[item])
    named = found.class_names[label] if 0 <= label < len(found.class_names) else ""
    label_text = named or ("" if label < 0 else str(label))
    key, picture = key_of(found, place, item), pictures.get(int(side.entry[item]))
    return _Point(told(found, place, item), field, number, label_text, key, picture)


def _pictures(found: Study, place: int, items: Sequence[int]) -> dict[int, Any]:
    """Small pictures by entry; none where the modality has no images."""
    if side_kinds(found)[place] != "image":
        return {}
    name, entries = found.model.fields[place], [int(found.sides[place].entry[item]) for item in items]
    with contextlib.closing(open_reader(found.manifest, found.split, [name])) as reader:
        return read_pictures(reader, name, entries, found.model.settings.data.images)


def _write_projector(folder: Path, rows: np.ndarray, points: Sequence[_Point]) -> None:
    """The table of vectors, what each is, one picture of all pictures, and the file that names the three."""
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    assets = folder / _ASSETS
    assets.mkdir(exist_ok=True)
    table = io.BytesIO()
    np.savetxt(table, rows, fmt="%.6g", delimiter="\t")
    write_atomically(assets / "vectors.tsv", table.getvalue())
    lines = ["\t".join(_HEADINGS), *(point.row() for point in points)]
    write_atomically(assets / "points.tsv", "\n".join(lines) + "\n")
    config = ProjectorConfig()
    named = config.embeddings.add()
    named.tensor_name = "items and prototypes"
    named.tensor_path, named.metadata_path = f"{_ASSETS}/vectors.tsv", f"{_ASSETS}/points.tsv"
    if any(point.picture is not None for point in points):
        write_atomically(assets / "pictures.png", _sprite(points))
        named.sprite.image_path = f"{_ASSETS}/pictures.png"
        named.sprite.single_image_dim.extend([TILE, TILE])
    write_atomically(folder / _CONFIG, text_format.MessageToString(config))


def _sprite(points: Sequence[_Point]) -> bytes:
    """A square PNG of tiles, row by row; items without a picture are a dot, prototypes a larger square."""
    from PIL import Image, ImageDraw

    columns = int(np.ceil(np.sqrt(len(points))))
    whole = Image.new("RGBA", (columns * TILE, columns * TILE))  # transparent
    draw = ImageDraw.Draw(whole)
    for place, point in enumerate(points):
        left, top = place % columns * TILE, place // columns * TILE
        if point.picture is None:
            mark, (shape, colour, margin) = (left, top), _MARKS[point.side == PROTOTYPE]
            box = [edge + inner for inner in (margin, TILE - 1 - margin) for edge in mark]
            getattr(draw, shape)(box, fill=colour)
            continue
        small = point.picture.copy()
        small.thumbnail((TILE, TILE))
        whole.paste(small, (left + (TILE - small.width) // 2, top + (TILE - small.height) // 2))
    file = io.BytesIO()
    whole.save(file, "PNG")
    return file.getvalue()


def _write_events(folder: Path, found: Study, sheet: bytes) -> None:
    from PIL import Image
    from torch.utils.tensorboard import SummaryWriter

    step = int(found.learned.weights.metadata.get("step", 0))
    writer: Any = SummaryWriter(str(folder))
    try:
        picture = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))
        writer.add_image(f"prototypes/{found.split}", picture, step, dataformats="HWC")
        largest = sorted(found.used, key=lambda each: (-each.items, each.number))
        told_of = [f"    {each.items:6d}  {title(each.number, each.keywords)}" for each in largest]
        text = printable("\n".join(["    items  prototype", *told_of]))
        writer.add_text(f"prototypes/{found.split}", text, step)
    finally:
        writer.close()
