"""What a study leaves in its folder; the same study leaves the same bytes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from swamp_dist.atomic_files import write_atomically
from swamp_dist.errors import UserError
from swamp_dist.file_names import SHEET_FILE, checkpoint_of, name_problem, run_of
from swamp_dist.prototypes.cards import card_pictures
from swamp_dist.prototypes.gallery import build_gallery
from swamp_dist.prototypes.keywords import title
from swamp_dist.prototypes.sheet import draw_sheet
from swamp_dist.prototypes.shown import Order
from swamp_dist.prototypes.study import PrototypeFigures, Study

FIGURES_FILE = "prototypes.json"
ITEMS_FILE = "items.npz"
GALLERY_FILE = "gallery.html"


def default_folder(source: Path, split: str, other_set: str | None = None) -> Path:
    """RUN/prototypes/SPLIT; of a step of a run SPLIT-step-N, of another shard set SET-SPLIT.

    Raises:
        UserError: the name of the split or set is no name of a folder.
    """
    name = split if other_set is None else f"{other_set}-{split}"
    checkpoint = checkpoint_of(source)
    if checkpoint is not None:
        name += f"-{checkpoint.name}"
    problem = name_problem(name)
    if problem is not None:
        raise UserError(f"no folder can be named after the split: {problem}.\nFix: choose one with --out")
    return run_of(source) / "prototypes" / name


def write_figures(found: Study, folder: Path) -> list[Path]:
    """Write the figures and every item's assignment; the files written.

    Raises:
        OSError: the folder cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures, items = folder / FIGURES_FILE, folder / ITEMS_FILE
    write_atomically(figures, json.dumps(as_json(found), indent=1, allow_nan=False) + "\n")
    write_atomically(items, _items(found))
    return [figures, items]


def write_pictures(found: Study, folder: Path, per_card: int, order: Order) -> list[Path]:
    """Write the gallery and the sheet; the files written.

    Raises:
        OSError: the folder cannot be written.
        UserError: an image is damaged or larger than the stage allows.
    """
    page = build_gallery(found, card_pictures(found, per_card, order), per_card, order)
    gallery, sheet = folder / GALLERY_FILE, folder / SHEET_FILE
    write_atomically(gallery, page.html)
    write_atomically(sheet, draw_sheet(found, order))
    return [gallery, sheet]


def as_json(found: Study) -> dict[str, Any]:
    """All figures: the run, the whole split, every prototype, super-clusters."""
    weights, (a, b) = found.learned.weights, found.model.fields
    return {
        "weights": {
            "file": str(found.model.weights),
            "sha256": weights.sha256,
            "step": int(weights.metadata["step"]) if "step" in weights.metadata else None,
        },
        "data": {
            "shards": str(found.manifest.folder),
            "hash": found.manifest.hash,
            "split": found.split,
            "a": a,
            "b": b,
            "entries": len(found.keys),
            "items": {"a": len(found.sides[0]), "b": len(found.sides[1])},
        },
        "classifier": {
            "prototypes": len(found.prototypes),
            "dim": found.learned.vectors.shape[1],
            "temperature": found.learned.temperature,
            "unit_length": found.learned.normalized,
        },
        "used": {
            name: int(np.unique(side.prototype).size) for name, side in zip("ab", found.sides, strict=True)
        }
        | {"both": len(found.used)},
        "agreement": {"share": found.agreement.share, "chance": found.agreement.chance},
        "classes": {name: {"purity": each.purity, "nmi": each.nmi} for name, each in found.classes.items()},
        "words_from": found.words_from,
        "super_clusters": [
            {"members": list(group.members), "mean_cosine": group.mean_cosine}
            for group in found.super_clusters
        ],
        "prototypes": [_prototype(each) for each in found.prototypes],
    }


def _prototype(each: PrototypeFigures) -> dict[str, Any]:
    return {
        "number": each.number,
        "title": title(each.number, each.keywords),
        "a": each.sizes[0],
        "b": each.sizes[1],
        "agreement": each.agreement,
        "purity": each.purity,
        "class": each.label,
        "class_name": each.class_name,
        "super_cluster": each.super_cluster,
        "keywords": [word._asdict() for word in each.keywords],
    }


def _items(found: Study) -> bytes:
    """An npz without dates or objects: of a and b prototype, score, probability, entry and label of every
    item, and the keys of the entries."""
    arrays: dict[str, np.ndarray] = {"keys": np.array(found.keys)}
    for name, side in zip("ab", found.sides, strict=True):
        for part in ("prototype", "score", "probability", "entry", "label"):
            arrays[f"{name}_{part}"] = getattr(side, part)
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()
