"""Fills a running engine from a commit of another world size or ZeRO stage."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swamp_dist.distributed import World, gather_objects, on_main
from swamp_dist.errors import UserError
from swamp_dist.train.deepspeed_library import holds_code, tensors_only
from swamp_dist.train.engine_parameters import flat_views, make_moments
from swamp_dist.train.resharding import Pieces, SavedEngine, open_saved, partition_views


@dataclass(frozen=True)
class HeldEngine:
    """DeepSpeed's engine as this rank holds it."""

    deepspeed: Any
    """The library."""
    engine: Any
    stage: int
    """ZeRO stage."""
    world: World

    def set_weight(self, parameter: torch.nn.Parameter, value: Tensor) -> None:
        """The weight that the model computes with; ZeRO's float32 master copy is set beside it."""
        if self.stage < 3:
            parameter.data.copy_(value)
            return
        with self.deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if self.world.is_main:
                parameter.data.copy_(value)


def load_resharded(held: HeldEngine, folder: Path, stage: int, world_size: int) -> None:
    """Restore model and optimiser from `folder`, written by `world_size` ranks at ZeRO `stage`.

    As `Engine.load_resharded`.
    """
    # 1. Read what was saved, and see on all ranks whether it fits.
    module = held.engine.module
    parameters = dict(module.named_parameters())
    frozen = {name for name, p in parameters.items() if not p.requires_grad}
    saved = _open_saved(held.world, folder, stage, world_size, frozen)
    shapes = {name: torch.Size(getattr(p, "ds_shape", p.shape)) for name, p in parameters.items()}
    buffers = {name: value for name, value in module.state_dict().items() if name not in parameters}
    on_main(held.world, lambda: saved.check(shapes, {name: value.shape for name, value in buffers.items()}))
    # 2. Fill trained parameters, each with its moments.
    trained = {name: p for name, p in parameters.items() if name not in frozen}
    pieces = _new_pieces(held, saved, trained)
    starts = _starts(held, pieces)
    for name, parameter in trained.items():
        whole = saved.parameter(name)
        held.set_weight(parameter, whole.value)
        if name in pieces:
            pieces[name].fill(whole, starts[name])
    # 3. Fill the rest.
    for name, value in saved.frozen.items():
        held.set_weight(parameters[name], value)
    for name, buffer in buffers.items():
        buffer.copy_(saved.buffers[name])
    held.engine.global_steps, held.engine.global_samples = saved.global_steps, saved.global_samples


def _open_saved(
    world: World, folder: Path, stage: int, world_size: int, frozen: Collection[str]
) -> SavedEngine:
    """The checkpoint's files, open on every rank, or the first rank's error on all."""
    saved, failure = None, None
    try:
        with tensors_only():
            saved = open_saved(folder / "engine", stage, world_size, frozen)
    except (UserError, OSError) as error:
        failure = str(error)
    except pickle.UnpicklingError as error:
        failure = holds_code(folder, error)
    failures = [found for found in gather_objects(failure, world) if found is not None]
    if saved is None or failures:
        raise UserError(failures[0])
    return saved


def _new_pieces(held: HeldEngine, saved: SavedEngine, parameters: dict[str, torch.nn.Parameter]) -> Pieces:
    """This rank's pieces of the running engine, its moments made as a first step would."""
    optimizer = held.engine.optimizer
    if held.stage == 0:
        make_moments(optimizer, list(parameters.values()), saved.step)
        return {name: flat_views(p, optimizer.state[p]) for name, p in parameters.items()}
    masters = "fp32_partitioned_groups_flat" if held.stage == 3 else "single_partition_of_fp32_groups"
    make_moments(optimizer.optimizer, getattr(optimizer, masters), saved.step)
    return partition_views(held.stage, optimizer.state_dict(), saved.shapes, held.world.size)


def _starts(held: HeldEngine, pieces: Pieces) -> dict[str, int]:
    """Where this rank's piece of each parameter begins: after those of the ranks before it."""
    sizes = {name: piece.value.numel() for name, piece in pieces.items()}
    earlier = gather_objects(sizes, held.world)[: held.world.rank] if held.stage > 0 else []
    return {name: sum(rank.get(name, 0) for rank in earlier) for name in sizes}
