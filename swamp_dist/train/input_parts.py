"""Which parts of an input vector an encoder brings to unit length first: no tensor of its weights shows it."""

from __future__ import annotations

import json
from pathlib import Path

from swamp_dist.config import GatedSettings, ModelSettings
from swamp_dist.records import UserError
from swamp_dist.train.word_source import read_metadata

UNIT_PARTS = "unit_parts"
"""Key of a weights file's metadata: JSON {a: widths or null, b: widths or null}."""


def unit_parts(model: ModelSettings) -> str:
    """The entry of a weights file for the encoders of `model`."""
    sides = {"a": model.a, "b": model.b}
    return json.dumps({k: list(e.unit_parts or ()) for k, e in sides.items() if isinstance(e, GatedSettings)})


def check_unit_parts(weights: Path, key: str, model: ModelSettings) -> None:
    """Refuse weights that were trained on inputs scaled otherwise: they fit in shape and rank by chance.

    Weights that do not say pass.

    Args:
        weights: the .safetensors file. key: the setting that names it. model: of the stage that reads it.

    Raises:
        UserError: names both and the fix.
    """
    said = read_metadata(weights).get(UNIT_PARTS)
    if said is None:
        return
    found, expected = json.loads(said), json.loads(unit_parts(model))
    for side in found.keys() & expected.keys():
        if found[side] != expected[side]:
            raise UserError(
                f"model.{side}.unit_parts = {expected[side] or 'null'}, but the weights of {key} = {weights} were trained with "
                f"{found[side] or 'null'}.\nFix: model.{side}.unit_parts={found[side] or 'null'}, or other weights."
            )
