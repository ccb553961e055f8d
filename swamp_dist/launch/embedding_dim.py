"""The embedding size of a stage that starts from weights: taken from them, or compared with theirs.

Reads the header of the weights file only, without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swamp_dist.config import EncoderSettings, GatedSettings, ModelSettings, StageSettings, WordsSettings
from swamp_dist.records import UserError

_LARGEST_HEADER = 100_000_000  # bytes; what the format allows


def with_embedding_dim(settings: StageSettings) -> StageSettings:
    """The stage with `model.embedding_dim` filled in from its starting weights where it is null.

    Raises:
        UserError: the weights are absent, damaged, or of other encoders than `model` describes.
    """
    if settings.model.embedding_dim is not None:
        return settings
    key, source = next(starting_points(settings))
    dim = embedding_dim_of(source, settings.model)
    if dim is None:
        raise UserError(
            f"model.embedding_dim = null takes the size from {key} = {source}, but those are weights of other "
            f"encoders than model.a = {settings.model.a.kind} and model.b = {settings.model.b.kind}.\n"
            "Fix: set the kinds to those of the stage that wrote the weights, or name other weights."
        )
    return settings.model_copy(update={"model": settings.model.model_copy(update={"embedding_dim": dim})})


def embedding_dim_problem(settings: StageSettings, key: str, source: Path) -> str | None:
    """What is wrong between `model.embedding_dim` and the weights under `key`, with the fix; or None."""
    try:
        settings = with_embedding_dim(settings)
        found = embedding_dim_of(source, settings.model)
    except UserError as error:
        return str(error)
    if found is None or found == settings.model.embedding_dim:
        return None
    return (
        f"model.embedding_dim = {settings.model.embedding_dim}, but {key} = {source} holds a model with {found}.\n"
        f"Fix: model.embedding_dim={found}, or null, which takes it from the weights; or other weights."
    )


def starting_points(settings: StageSettings) -> Iterator[tuple[str, Path]]:
    """Key and path of the weights that a stage reads before it begins."""
    if settings.weights is not None:
        yield "weights", settings.weights
    if settings.train is not None and settings.train.init_from is not None:
        yield "train.init_from", settings.train.init_from


def embedding_dim_of(source: Path, model: ModelSettings) -> int | None:
    """Length of the embeddings of a weights file (or of the one in a run folder); None if it holds neither
    of the encoders that `model` describes.

    Raises:
        UserError: absent, or not a safetensors file.
    """
    header = _header(source / "weights.safetensors" if source.is_dir() else source)
    for prefix, encoder in (("a.", model.a), ("b.", model.b)):
        name = _last_bias(encoder, prefix, header)
        if name in header:
            return int(header[name]["shape"][0])
    return None


def _last_bias(encoder: EncoderSettings, prefix: str, header: Mapping[str, Any]) -> str:
    """Name of the bias that an encoder adds last: as long as the embedding."""
    if isinstance(encoder, GatedSettings):
        return f"{prefix}gate.bias"
    if isinstance(encoder, WordsSettings):
        return f"{prefix}unit.gate.bias"
    start, end = f"{prefix}layers.", ".bias"
    numbers = [name.removeprefix(start).removesuffix(end) for name in header if name.startswith(start)]
    return f"{start}{max((int(number) for number in numbers if number.isdigit()), default=0)}{end}"


def _header(path: Path) -> Mapping[str, Any]:
    """Names of a safetensors file with dtype and shape: a length of 8 bytes, then JSON."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            found = json.loads(file.read(length)) if length <= _LARGEST_HEADER else None
    except FileNotFoundError:
        raise UserError(f"{path}: no weights there") from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: not a readable safetensors file. Copy or train it again.")
    return found
