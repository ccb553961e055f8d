"""weights.safetensors: the selected model of a stage, float32, without code and without optimiser."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from swamp_dist.atomic_files import HashedFile, open_atomically
from swamp_dist.errors import UserError, system_error
from swamp_dist.file_names import STAGE_FILE, run_of, weights_file
from swamp_dist.model.dual_encoder import DualEncoder
from swamp_dist.safetensors_header import read_header, unreadable_weights
from swamp_dist.train.checkpoint_weights import extract_weights
from swamp_dist.train.named_weights import holds_weights, no_weights
from swamp_dist.train.weights_header import metadata_of, sorted_header
from swamp_dist.train.weights_record import RESTORE, check_sha256, recorded_sha256, say_unchecked

_PROTOTYPES = "prototypes.weight"
_LOGITS = "logits."
_HEADS = "heads."
_SHOWN = 4
"""Tensors that a message names."""
"""Of training alone: taken where the model has the same, else drawn anew or left out."""


@dataclass(frozen=True)
class Weights:
    """Tensors by parameter name, and what was recorded beside them (step, stage, seed)."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]
    sha256: str = ""
    """Of the bytes that they were read from; empty where they were not read from a file of this format."""


def save_weights(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write `path` so that it is either whole or absent.

    Returns:
        sha256 of the file.

    Raises:
        UserError: it cannot be written; an older file at `path` stays.
    """
    try:
        with open_atomically(path) as file:
            write_tensors(file, tensors, metadata)
    except OSError as error:
        raise UserError(
            f"{path}: the weights could not be written.\n{system_error(error)}\n"
            "Then run the same command again."
        ) from None
    return file.digest


def write_tensors(
    file: HashedFile, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Append a whole safetensors file. The library's own `save_file` makes files that only their owner may
    read, whatever the umask says, and leaves their bytes to be read again by those who hash them.

    Raises:
        OSError: it cannot be written.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    content = save(plain, None if metadata is None else dict(metadata))
    header = sorted_header(content)
    file.write(header)
    file.write(memoryview(content)[len(header) :])


def load_weights(source: Path, sha256: str | None = None) -> Weights:
    """Read a weights file, or the one inside a run folder, and compare its bytes with what was recorded.

    Args:
        sha256: of the bytes that it has to hold; None = what `weights_record` finds beside the file. Where
            nothing was recorded, a line says so.

    Raises:
        UserError: nothing there, not a safetensors file, or changed since it was written.
    """
    extract_weights(source)
    path = weights_file(source)
    if not holds_weights(source):
        raise UserError(f"{source}: {no_weights(source)}")
    expected = sha256 or recorded_sha256(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(system_error(error)) from None
    found = hashlib.sha256(content).hexdigest()
    check_sha256(path, found, expected, RESTORE)
    try:
        weights = Weights(load(content), metadata_of(content), found)
    except SafetensorError as error:
        read_header(path)  # tells the same of a damaged header as everybody else who reads one
        raise unreadable_weights(path, error) from error
    if expected is None:
        say_unchecked(path)
    return weights


def load_into(model: DualEncoder, weights: Weights, source: Path, prototypes: str) -> bool:
    """Load encoders strictly, prototypes as `prototypes` says (auto, fresh or require), and logits where the
    model learns them.

    Returns:
        Whether the model's prototypes came from `weights`.

    Raises:
        UserError: an encoder tensor is missing, extra or of another shape; or `require` is not met.
    """
    wanted = dict(model.state_dict())
    kept_prototypes = wanted.pop(_PROTOTYPES, None)
    given = dict(weights.tensors)
    given_prototypes = given.pop(_PROTOTYPES, None)
    own_logits = {name: wanted.pop(name) for name in list(wanted) if name.startswith(_LOGITS)}
    given_logits = {name: given.pop(name) for name in list(given) if name.startswith(_LOGITS)}
    own_heads = {name: wanted.pop(name) for name in list(wanted) if name.startswith(_HEADS)}
    given_heads = {name: given.pop(name) for name in list(given) if name.startswith(_HEADS)}
    problems = [f"{name}: missing" for name in wanted if name not in given]
    problems += [f"{name}: not in this model" for name in given if name not in wanted]
    problems += [
        f"{name}: shape {tuple(given[name].shape)}, this model has {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    if problems:
        raise UserError(_unfit(source, problems))
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
    learned = model.logits is not None and model.logits.learned
    taken = {name: x for name, x in given_logits.items() if learned and name in own_logits}
    given |= own_logits | taken | (given_heads if _shapes(given_heads) == _shapes(own_heads) else own_heads)
    model.load_state_dict(given, strict=True)
    return take


def _unfit(source: Path, problems: Sequence[str]) -> str:
    """What a user is told of weights that another model was trained to."""
    shown = "\n  ".join(problems[:_SHOWN])
    more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    stage = run_of(source) / STAGE_FILE
    where = f" (swamp show {stage})" if stage.is_file() else ""
    return (
        f"{source}: the weights do not fit this model:\n  {shown}{more}\n"
        f"Fix: use the model settings{where} and fields that they were trained with, or other weights."
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def logits_taken(model: DualEncoder, weights: Weights) -> str:
    """What `load_into` made of the logit scale and bias, one line; empty where neither side has them."""
    given = sorted(name.removeprefix(_LOGITS) for name in weights.tensors if name.startswith(_LOGITS))
    if model.logits is None:
        return f"logits ({', '.join(given)}) ignored: the contrastive form has none" if given else ""
    scale = f"logit scale {model.logits()[0].item():.4g}"
    if not model.logits.learned:
        return f"{scale}, fixed by the settings"
    fresh = sorted(name for name in model.logits.state_dict() if name not in given)
    return f"{scale}, " + (f"fresh: {', '.join(fresh)}" if fresh else "taken over")
