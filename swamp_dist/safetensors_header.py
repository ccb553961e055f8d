"""What the header of a safetensors file tells: shapes and metadata. The one place that reads headers.

No tensor is read and torch is not imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from swamp_dist.errors import UserError


@dataclass(frozen=True)
class WeightsHeader:
    """What a safetensors file holds, without its values."""

    shapes: Mapping[str, tuple[int, ...]]
    """By the name of the tensor."""
    metadata: Mapping[str, str]
    """What was recorded beside the tensors; empty where nothing was."""


def read_header(path: Path) -> WeightsHeader:
    """The header of a safetensors file, checked against the file's size by the format's own library.

    Raises:
        UserError: absent, damaged, cut short, or not a safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            return WeightsHeader(shapes, file.metadata() or {})
    except FileNotFoundError:
        raise UserError(f"{path}: no weights there") from None
    except (SafetensorError, OSError) as error:
        raise unreadable_weights(path, error) from error


def unreadable_weights(path: Path, error: Exception) -> UserError:
    """What a user is told about a file that the format's library does not read."""
    return UserError(f"{path}: not a readable safetensors file ({error}). Copy or train it again.")
