"""What the header of a weights file says of a stage: above all the size of its embedding.

No tensor is read and torch is not imported, so that a stage can be refused in a second.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from swamp_dist.config import ModelSettings, ParSettings, StageSettings
from swamp_dist.encoders import EncoderSettings
from swamp_dist.errors import UserError
from swamp_dist.file_names import STAGE_FILE, run_of, weights_file
from swamp_dist.loading import load_dumped
from swamp_dist.safetensors_header import read_header


def sorted_header(content: bytes) -> bytes:
    """The header of a safetensors file's bytes with its metadata in order; as long as it was.

    The library writes them in a random order, and equal weights would have different hashes. It has no call
    for this. A header is its length in 8 bytes, then JSON padded with blanks.
    """
    header, length = _header(content)
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > length:
        raise ValueError(f"the ordered header has {len(text)} bytes, there is room for {length}")
    return content[:8] + text.ljust(length)


def metadata_of(content: bytes) -> dict[str, str]:
    """The metadata in a safetensors file's bytes, which the format's library has read already."""
    found: dict[str, str] = _header(content)[0].get("__metadata__", {})
    return found


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """The header and its length in bytes, without the 8 bytes that tell it."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), length


def with_embedding_dim(settings: StageSettings) -> StageSettings:
    """The stage with `model.embedding_dim` filled in from its starting weights where it is null.

    Raises:
        UserError: the weights are absent, damaged, or of other encoders than `model` describes.
    """
    dim = stage_embedding_dim(settings)
    return settings.model_copy(update={"model": settings.model.model_copy(update={"embedding_dim": dim})})


def stage_embedding_dim(settings: StageSettings) -> int:
    """`model.embedding_dim`, or that of the starting weights where it is null.

    Raises:
        UserError: as `with_embedding_dim`.
    """
    if settings.model.embedding_dim is not None:
        return settings.model.embedding_dim
    key, source = next(starting_points(settings))
    dim = embedding_dim_of(source, settings.model)
    if dim is None:
        raise UserError(
            f"model.embedding_dim = null takes the size from {key} = {source}, but those are weights of "
            f"other encoders than model.a = {settings.model.a.kind} and model.b = {settings.model.b.kind}.\n"
            "Fix: set the kinds to those of the stage that wrote the weights, or name other weights."
        )
    return dim


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
        f"model.embedding_dim = {settings.model.embedding_dim}, but {key} = {source} holds a model with "
        f"{found}.\n"
        f"Fix: model.embedding_dim={found}, or null, which takes it from the weights; or other weights."
    )


def kinds_problem(settings: StageSettings, key: str, source: Path) -> str | None:
    """Which encoders the weights under `key` are of, where the stage.yaml beside them names other kinds than
    `model` and the names of the tensors fit none of its networks; else None. Kinds of equal names may fit."""
    beside = run_of(source) / STAGE_FILE
    try:
        trained = load_dumped(beside, StageSettings).model if beside.is_file() else None
        shapes = read_header(weights_file(source)).shapes
    except UserError:  # told elsewhere, or of another version
        return None
    wanted, differing = settings.model, []
    for side, own, other in zip("ab", (wanted.a, wanted.b), _both(trained), strict=True):
        if other is not None and other.kind != own.kind and own.output_dim(_of_side(shapes, side)) is None:
            differing.append(f"model.{side} = {own.kind} here and {other.kind} there")
    if not differing:
        return None
    return (
        f"{key} = {source} are weights of other encoders: {' and '.join(differing)} ({beside}).\n"
        "Fix: set the kinds to those of the stage that wrote the weights, or name other weights."
    )


def _both(model: ModelSettings | None) -> tuple[EncoderSettings | None, EncoderSettings | None]:
    return (None, None) if model is None else (model.a, model.b)


def _of_side(shapes: Mapping[str, tuple[int, ...]], side: str) -> dict[str, tuple[int, ...]]:
    """Tensors of one encoder by their names in its network."""
    prefix = f"{side}."
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}


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
        UserError: absent, not a safetensors file, or of a length that `model.sets` cannot make.
    """
    dim = _dim_of_shapes(read_header(weights_file(source)).shapes, model)
    if dim is not None and model.sets is not None:
        try:
            model.sets.width(dim)
        except ValueError as error:
            raise UserError(f"{source}: weights of another model: {error}") from None
    return dim


def _dim_of_shapes(shapes: Mapping[str, tuple[int, ...]], model: ModelSettings) -> int | None:
    if (dim := _dim_of_queries(shapes.get("sets.queries"), model)) is not None:
        return dim
    for side, encoder in (("a", model.a), ("b", model.b)):
        if (dim := encoder.output_dim(_of_side(shapes, side))) is not None:
            return dim
    return None


def _dim_of_queries(shape: tuple[int, ...] | None, model: ModelSettings) -> int | None:
    """D of weights with queries (H, p, d) over sets, which encoders tell of one element only."""
    if shape is None or not isinstance(model.sets, ParSettings):
        return None
    heads, queries, length = shape
    return heads * queries * length
