"""Weights out of a checkpoint, for those who start from a run that is not done or from one of its steps.

They are put beside the checkpoint once, as a weights file like that of a finished run, with the sha256 of
the checkpoint's manifest: a checkpoint that was made anew gives its weights anew.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from swamp_dist.errors import UserError, system_error
from swamp_dist.file_names import checkpoint_of, checkpoint_weights_file, weights_file
from swamp_dist.safetensors_header import read_header
from swamp_dist.train.checkpoint_folder import MANIFEST, BrokenError, read_checkpoint
from swamp_dist.train.commit_meta import read_meta
from swamp_dist.train.weights_record import record_sha256

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
_MADE_FROM = "checkpoint_manifest_sha256"


def extract_weights(source: Path) -> None:
    """Put the weights of the checkpoint that `source` names where `weights_file` says, if they are not there.

    Does nothing where `source` names a weights file or a run that has one.

    Raises:
        UserError: the checkpoint is damaged, of another program, or its folder may not be written.
    """
    folder = checkpoint_of(source)
    if folder is None or not (folder / MANIFEST).is_file():
        return
    path, made_from = checkpoint_weights_file(folder), _manifest_sha256(folder)
    if path.is_file() and read_header(path).metadata.get(_MADE_FROM) == made_from:
        return
    from swamp_dist.train.weights import save_weights  # imports torch

    tensors, described = checkpoint_weights(folder)
    sha256 = save_weights(path, tensors, {**described, _MADE_FROM: made_from})
    try:
        record_sha256(path, sha256)
    except OSError as error:
        raise UserError(system_error(error)) from None


def checkpoint_told(source: Path) -> str:
    """What a log says of weights that come from a checkpoint; empty where they do not."""
    folder = checkpoint_of(source)
    if folder is None or weights_file(source) != checkpoint_weights_file(folder):
        return ""
    return f" (checkpoint {folder})"


def checkpoint_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Float32 weights of a checkpoint as its run would hand them on, and what their file's header says.

    Raises:
        UserError: it is damaged, or its files are not understood.
    """
    try:
        found = read_checkpoint(folder, verify_hash=True)
    except BrokenError as error:
        raise UserError(f"{folder}: not a whole checkpoint: {error}.\nFix: name another step.") from None
    import torch

    from swamp_dist.train.deepspeed_library import holds_code, tensors_only

    meta = read_meta(found)
    try:
        with tensors_only():
            tensors = _tensors(folder / "engine", meta.zero_stage, found.world_size)
    except pickle.UnpicklingError as error:
        raise UserError(holds_code(folder, error)) from None
    said = found.meta.get("weights")
    described = {str(k): str(v) for k, v in said.items()} if isinstance(said, Mapping) else {}
    whole = {name: value.detach().to(torch.float32, copy=True) for name, value in tensors.items()}
    return whole, described | {"step": str(found.step)}


def _tensors(engine: Path, stage: int, world_size: int) -> Mapping[str, Tensor]:
    from swamp_dist.train.resharding import open_saved, read_model

    model = read_model(engine, stage)
    if stage < 3:
        tensors: Mapping[str, Tensor] = model["module"]
        return tensors
    saved = open_saved(engine, stage, world_size, frozen=tuple(model.get("frozen_param_shapes") or ()))
    trained = {name: saved.parameter(name).value for name in saved.shapes}
    return {**trained, **saved.frozen, **saved.buffers}


def _manifest_sha256(folder: Path) -> str:
    try:
        return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(system_error(error)) from None
