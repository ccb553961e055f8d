"""Items in memory as the objects that a shard set's readers give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from swamp_dist.data.column import array_objects
from swamp_dist.data.raw_fields import objects
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec

Items = Sequence[str] | Sequence[bytes] | Sequence[np.ndarray] | Sequence[Tensor] | np.ndarray | Tensor
"""Items in memory: texts, files of images, sets of vectors, or rows of an array."""
OBJECTS = ("image", "text", "set")
"""Kinds of input whose items are objects."""


def item_objects(field: str, spec: InputSpec, items: Items) -> np.ndarray:
    """(n,) objects: `bytes` of images, `str` of texts, float32 arrays (elements, values) of sets.

    Raises:
        UserError: items of another kind, sets of another width or without elements.
    """
    if spec.kind == "set":
        return array_objects(_sets(field, spec, items))
    wanted: type = bytes if spec.kind == "image" else str
    what = "the bytes of encoded images" if spec.kind == "image" else "texts"
    raw = tuple(item for item in items if isinstance(item, str | bytes) and isinstance(item, wanted))
    if isinstance(items, str | bytes) or len(raw) != len(items):
        raise UserError(f"field {field!r} holds {spec.kind}s: expected a list of {what}")
    return objects(raw)


def item_rows(field: str, spec: InputSpec, items: Items) -> Tensor:
    """(n, ...) the items of an array: vectors of any type of numbers, or frames of 8 bits.

    Raises:
        UserError: texts or files, another shape, or frames that are no pixels of 8 bits.
    """
    if not isinstance(items, np.ndarray | Tensor):
        if any(isinstance(item, str | bytes) for item in items):
            raise UserError(f"field {field!r} holds vectors: expected an array, found texts or files")
        items = np.asarray(items)
    rows = torch.as_tensor(items)
    if rows.shape[1:] != spec.shape:
        wanted = ", ".join(map(str, ("n", *spec.shape)))
        raise UserError(f"field {field!r}: expected shape ({wanted}), found {tuple(rows.shape)}")
    if spec.kind == "frames" and rows.dtype != torch.uint8:
        raise UserError(f"field {field!r} holds frames: expected pixels as uint8, found {rows.dtype}")
    return rows


def _sets(field: str, spec: InputSpec, items: Items) -> list[np.ndarray]:
    wanted = ", ".join(map(str, ("elements", *spec.shape)))
    what = f"field {field!r} holds sets of vectors: expected a list of arrays ({wanted})"
    if any(isinstance(item, str | bytes) for item in items):
        raise UserError(f"{what}, found texts or files")
    sets = [item.detach().cpu().numpy() if isinstance(item, Tensor) else np.asarray(item) for item in items]
    for number, elements in enumerate(sets):
        if elements.ndim != 1 + len(spec.shape) or elements.shape[1:] != spec.shape or not len(elements):
            raise UserError(f"item {number}: {what}, at least one element in each, found {elements.shape}")
    return [elements.astype(np.float32) for elements in sets]
