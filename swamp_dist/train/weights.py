"""weights.safetensors: the selected model of a stage, float32, without code and without optimiser."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from swamp_dist.model.dual_encoder import DualEncoder
from swamp_dist.records import UserError

_PROTOTYPES = "prototypes.weight"


@dataclass(frozen=True)
class Weights:
    """Tensors by parameter name, and what was recorded beside them (step, stage, seed)."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write `path` so that it is either whole or absent: temporary file, fsync, rename, fsync of the folder.

    Raises:
        UserError: it cannot be written; an older file at `path` stays.
    """
    temporary = path.with_name(f".tmp-{path.name}")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, dict(metadata))
    except SafetensorError as error:  # how the library reports a full disk
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(
            f"{path} could not be written ({error}).\nFree space or raise the quota or file size limit "
            "(ulimit -f); the same command continues from the last commit, which is untouched."
        ) from None
    _sort_metadata(temporary)
    for target in (temporary, path.parent):
        descriptor = os.open(target, os.O_RDONLY)
        try:
            if target == path.parent:
                os.replace(temporary, path)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a safetensors file in order: the library writes them in a random one, and equal
    weights would have different hashes. Header: its length in 8 bytes, then JSON padded with blanks.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise ValueError(f"{path}: the ordered header has {len(text)} bytes, there is room for {length}")
        file.seek(8)
        file.write(text.ljust(length))


def load_weights(source: Path) -> Weights:
    """Read a weights file, or the one inside a run folder.

    Raises:
        UserError: nothing there, or not a safetensors file.
    """
    path = source / "weights.safetensors" if source.is_dir() else source
    if not path.is_file():
        raise UserError(
            f"{path}: no weights there.\nExpected a finished run folder or a .safetensors file; "
            "run the stage that writes it first, or correct the path."
        )
    try:
        with safe_open(path, framework="pt") as file:
            return Weights({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a readable safetensors file ({error}). Copy or train it again."
        ) from error


def load_into(model: DualEncoder, weights: Weights, source: Path, prototypes: str) -> bool:
    """Load encoders strictly, and prototypes as `prototypes` says: auto, fresh or require.

    Returns:
        Whether the model's prototypes came from `weights`.

    Raises:
        UserError: an encoder tensor is missing, extra or of another shape; or `require` is not met.
    """
    wanted = dict(model.state_dict())
    kept_prototypes = wanted.pop(_PROTOTYPES, None)
    given = dict(weights.tensors)
    given_prototypes = given.pop(_PROTOTYPES, None)
    problems = [f"  {name}: missing" for name in wanted if name not in given]
    problems += [f"  {name}: not in this model" for name in given if name not in wanted]
    problems += [
        f"  {name}: shape {tuple(given[name].shape)}, this model has {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    if problems:
        shown = "\n".join(problems[:12])
        raise UserError(
            f"{source}: the weights do not fit this model:\n{shown}\n"
            "Use the model settings of the stage that wrote them (its stage.yaml) and shards whose fields have the\n"
            "same shapes, or other weights (train.init_from, weights)."
        )
    fits = (
        kept_prototypes is not None
        and given_prototypes is not None
        and kept_prototypes.shape == given_prototypes.shape
    )
    if prototypes == "require" and not fits:
        found = None if given_prototypes is None else tuple(given_prototypes.shape)
        expected = None if kept_prototypes is None else tuple(kept_prototypes.shape)
        raise UserError(
            f"{source}: init_prototypes = require, but they are {found} and this model has {expected}"
        )
    take = fits and prototypes != "fresh"
    if take:
        given[_PROTOTYPES] = weights.tensors[_PROTOTYPES]
    elif kept_prototypes is not None:
        given[_PROTOTYPES] = kept_prototypes
    model.load_state_dict(given, strict=True)
    return take
