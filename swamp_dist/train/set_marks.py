"""What becomes of words, places and sets in a model, as far as no shape of a weight shows it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from swamp_dist.config import ModelSettings
from swamp_dist.errors import UserError
from swamp_dist.safetensors_header import read_header

SET_MARKS = "sets"
"""Key of a weights file's metadata: JSON of settings by their keys in a job, for example model.a.unit."""


def set_marks(model: ModelSettings) -> dict[str, str]:
    """The entry of a weights file's metadata for `model`; {} where it has nothing to say."""
    marks = _marks(model)
    return {SET_MARKS: json.dumps(marks)} if marks else {}


def check_set_marks(weights: Path, key: str, model: ModelSettings) -> None:
    """Refuse weights of a model that made something else of its sets: they fit in shape and rank by chance.

    Weights that do not say pass.

    Args:
        weights: the .safetensors file. key: the setting that names it. model: of the stage that reads it.

    Raises:
        UserError: they differ (names the settings and the fix); or the file is absent or damaged.
    """
    said = read_header(weights).metadata.get(SET_MARKS)
    if said is None:
        return
    found, expected = json.loads(said), json.loads(json.dumps(_marks(model)))
    other = [name for name in sorted(found.keys() & expected.keys()) if found[name] != expected[name]]
    if other:
        pairs = [(name, *(json.dumps(each[name]) for each in (expected, found))) for name in other]
        told = "; ".join(f"{name} = {now}, trained with {then}" for name, now, then in pairs)
        fix = " ".join(f"{name}={then}" for name, _, then in pairs)
        raise UserError(f"{key} = {weights} are of another model: {told}.\nFix: {fix}, or other weights")


def _marks(model: ModelSettings) -> dict[str, Any]:
    sides = (("a", model.a.set_marks()), ("b", model.b.set_marks()))
    marks = {f"model.{side}.{name}": value for side, each in sides for name, value in each.items()}
    if model.sets is not None:
        own = model.sets.model_dump(mode="json", exclude={"memory_mib"})  # which changes no score
        marks |= {f"model.sets.{name}": value for name, value in own.items()}
    return marks
