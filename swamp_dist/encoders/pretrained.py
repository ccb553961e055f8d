"""What encoders around a network of another library share: their settings, and the check of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

Trained = Literal["all", "none"] | Annotated[int, Field(ge=1, le=10**4)]
"""Which blocks of a network are trained: all, none, or so many of the last ones."""
Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of tensors by their names."""
_SHOWN = 4


def other_weights_problem(found: Shapes, expected: Shapes, source: str, model: str) -> str | None:
    """Why the weights of a file are not those of a model, with the first names that differ; or None.

    Args:
        found: what the file holds, under the names of the model.
        expected: what the model has.
        source: the file, for people.
        model: the model, for people.
    """
    lines = [f"{name}: missing in the file" for name in expected if name not in found]
    lines += [f"{name}: not in the model" for name in found if name not in expected]
    lines += [
        f"{name}: shape {found[name]} in the file, {expected[name]} in the model"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    if not lines:
        return None
    shown = "\n  ".join(lines[:_SHOWN])
    more = f"\n  and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return (
        f"{source} holds weights of another model than {model}:\n  {shown}{more}\n"
        "Fix: name the model that the weights belong to, or other weights."
    )
