"""DeepSpeed as this package loads it: quick to import, quiet, and held to tensors when it reads a file."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from swamp_dist.distributed import World


def import_deepspeed(world: World) -> Any:
    """DeepSpeed, told not to compile anything and not to talk below warnings."""
    if world.device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    # DeepSpeed takes it for the number of its device: 0 for every rank where each sees one GPU alone.
    index = world.device.index if world.device.type == "cuda" else world.local_rank
    os.environ["LOCAL_RANK"] = str(index or 0)
    with left_out("mlflow"):  # DeepSpeed's tuner of settings would load it: seconds of each rank's start
        import deepspeed
    import deepspeed.ops
    from deepspeed.runtime import compiler

    # Every optimiser is compared with Muon, whose module hands functions to torch's compiler as it is
    # imported: seconds of each rank's start. They stay plain, as where torch has no compiler; none is used.
    compile_functions, compiler.compile = compiler.compile, lambda: compiler.dummy_decorator
    try:
        import deepspeed.runtime.zero.muon.original_muon  # noqa: F401
    finally:
        compiler.compile = compile_functions

    # A C++ extension for inference under the deepspeed launcher; on a CPU its first use compiles for
    # a minute, and a killed compile leaves a lock that hangs every later start without a word.
    compatible = getattr(deepspeed.ops, "__compatible_ops__", None)
    if compatible is not None:
        compatible["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed


@contextlib.contextmanager
def left_out(library: str) -> Iterator[None]:
    """Inside, importing an optional library fails as where it is not installed; one that is loaded stays so.

    None in `sys.modules` is Python's own way to say so.
    """
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[library]


def listed(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimiser, taken by DeepSpeed without a warning where it takes the one it derives from without."""
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

    kind = type(optimizer)
    if kind.__base__ in ZERO_SUPPORTED_OPTIMIZERS and kind not in ZERO_SUPPORTED_OPTIMIZERS:
        ZERO_SUPPORTED_OPTIMIZERS.append(kind)
    return optimizer


@contextlib.contextmanager
def tensors_only() -> Iterator[None]:
    """torch.load refuses code inside, although DeepSpeed asks for weights_only=False.

    Three classes of DeepSpeed itself are plain values and let through.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def holds_code(folder: Path, error: pickle.UnpicklingError) -> str:
    """What a user is told about a checkpoint that `tensors_only` refused."""
    return f"{folder}: not loaded: a file of the checkpoint holds more than tensors{beside_tensors(error)}."


def beside_tensors(error: pickle.UnpicklingError) -> str:
    """What a file holds beside tensors, in brackets. Torch's own words also say how to let it through."""
    found = re.search(r"nsupported (?:global: )?(?:GLOBAL|class) (\S+)(?: (\S+) whose)?", str(error))
    return "" if found is None else f" ({'.'.join(filter(None, found.groups()))})"
