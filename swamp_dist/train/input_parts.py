"""Which parts of an input an encoder brings to unit length first: no tensor of its weights shows it."""

from __future__ import annotations

import json
from pathlib import Path

from swamp_dist.config import ModelSettings
from swamp_dist.errors import UserError
from swamp_dist.safetensors_header import read_header

UNIT_PARTS = "unit_parts"
"""Key of a weights file's metadata: JSON {a: widths or null, b: widths or null}."""


def unit_parts(model: ModelSettings) -> str:
    """The entry of a weights file for the encoders of `model`."""
    sides = {"a": model.a.scaled_parts(), "b": model.b.scaled_parts()}
    return json.dumps({side: list(parts) for side, parts in sides.items() if parts is not None})


def check_unit_parts(weights: Path, key: str, model: ModelSettings) -> None:
    """Refuse weights that were trained on inputs scaled otherwise: they fit in shape and rank by chance.

    Weights that do not say pass.

    Args:
        weights: the .safetensors file. key: the setting that names it. model: of the stage that reads it.

    Raises:
        UserError: they differ (names both and the fix); or the file is absent or damaged.
    """
    said = read_header(weights).metadata.get(UNIT_PARTS)
    if said is None:
        return
    found, expected = json.loads(said), json.loads(unit_parts(model))
    for side in found.keys() & expected.keys():
        if found[side] != expected[side]:
            setting, trained = f"model.{side}.unit_parts", found[side] or "null"
            raise UserError(
                f"{setting} = {expected[side] or 'null'}, but the weights of {key} = {weights} were trained "
                f"with {trained}.\nFix: {setting}={trained}, or other weights."
            )
