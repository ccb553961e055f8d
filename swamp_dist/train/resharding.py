"""What DeepSpeed saved of model and optimiser, parameter by parameter, whatever layout wrote it.

ZeRO deals flat pieces of the parameters to its ranks. Here the pieces of a checkpoint are put together
again, one parameter at a time and straight from the memory-mapped files: nothing is converted and
nothing written, so a load that is cut short leaves the checkpoint as it was. `partition_views` describes
a rank's pieces for the files and for a running engine alike, because both are the same structure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from swamp_dist.errors import UserError

SURPRISES = (
    AssertionError, AttributeError, EOFError, IndexError, KeyError, RuntimeError, TypeError, ValueError
)  # fmt: skip
"""What readers raise about a file that is laid out in another way than they expect."""


@dataclass(frozen=True)
class ParameterState:
    """A parameter and its moments, float32: whole and shaped, or a rank's flat piece of them."""

    value: Tensor
    moments: Mapping[str, Tensor]
    """By their name in the optimiser's state: two of Adam, one of SGD."""

    @staticmethod
    def of(value: Tensor, state: Mapping[str, Tensor]) -> ParameterState:
        """A parameter and what an optimiser holds of it, the count of steps left out."""
        return ParameterState(value, {name: x for name, x in state.items() if name != "step"})

    def each(self, change: Callable[[Tensor], Tensor]) -> ParameterState:
        """`change` of all of them."""
        return ParameterState(change(self.value), {name: change(x) for name, x in self.moments.items()})

    def fill(self, whole: ParameterState, start: int) -> None:
        """Overwrite this flat piece by elements `start` and on of the whole; zeros beyond its end
        (padding)."""
        moments = [(piece, whole.moments[name]) for name, piece in self.moments.items()]
        pairs = [(self.value, whole.value), *moments]
        with torch.no_grad():
            for piece, source in pairs:
                part = source.flatten()[start : start + piece.numel()]
                piece[: part.numel()].copy_(part)
                piece[part.numel() :].zero_()


Pieces = dict[str, ParameterState]
"""The flat pieces one rank holds, by parameter name."""
Shapes = Mapping[str, torch.Size]
"""Whole parameters' shapes by name, in the order of the model."""


def partition_views(stage: int, optimizer: Mapping[str, Any], shapes: Shapes, world_size: int) -> Pieces:
    """One rank's pieces, as views into a ZeRO optimiser's state dict (stages 1 to 3).

    Stages 1 and 2 cut the concatenation of all parameters anywhere and say where; stage 3 cuts each
    parameter into `world_size` pieces of ceil(numel / world_size), the last one padded.

    Raises:
        ValueError: the pieces do not add up to what the optimiser holds.
    """
    if stage == 3:
        flats = _flat_states(optimizer["fp32_flat_groups"], optimizer["optimizer_state_dict"]["state"])
        return _equal_cuts(flats, shapes, world_size)
    flats = _flat_states(
        optimizer["single_partition_of_fp32_groups"], optimizer["base_optimizer_state"]["state"]
    )
    cuts = optimizer["param_slice_mappings"]
    return {
        name: _cut(flat, cut.start, cut.numel)
        for flat, places in zip(flats, cuts, strict=True)
        for name, cut in places.items()
    }


def _flat_states(
    values: Sequence[Tensor], moments: Mapping[int, Mapping[str, Tensor]]
) -> list[ParameterState]:
    return [ParameterState.of(value.detach(), moments[i]) for i, value in enumerate(values)]


def _cut(flat: ParameterState, start: int, numel: int) -> ParameterState:
    return flat.each(lambda x: x.narrow(0, start, numel))


def _equal_cuts(flats: list[ParameterState], shapes: Shapes, world_size: int) -> Pieces:
    pieces, group, start = {}, 0, 0
    for name, shape in shapes.items():
        numel = math.ceil(shape.numel() / world_size)
        if start == flats[group].value.numel():
            group, start = group + 1, 0
        pieces[name] = _cut(flats[group], start, numel)
        start += numel
    if (group, start) != (len(flats) - 1, flats[-1].value.numel()):
        raise ValueError(f"{start} elements of group {group} are named, {flats[-1].value.numel()} are there")
    return pieces


@dataclass(frozen=True)
class SavedEngine:
    """Model and optimiser of a commit, its files open; parameters are put together as they are asked for."""

    folder: Path
    stage: int
    shapes: Shapes
    """Of what the optimiser steps."""
    ranks: tuple[Pieces, ...]
    module: Mapping[str, Tensor]
    """Weights as the model's own state dict has them, frozen ones left out; empty tensors at stage 3."""
    frozen: Mapping[str, Tensor]
    """Weights that no optimiser steps, whole."""
    buffers: Mapping[str, Tensor]
    """What the model holds beside its weights, whole at every stage."""
    step: Tensor
    """Adam's step, 0-d; 0 of SGD, which counts none."""
    global_steps: int
    global_samples: int
    written_by: str

    def parameter(self, name: str) -> ParameterState:
        """The whole of one parameter with its moments, in its shape.

        Raises:
            ValueError: the ranks' pieces do not make up the parameter.
        """
        shape, padded = self.shapes[name], self.stage == 3
        pieces = [rank[name] for rank in self.ranks if name in rank]
        moments = {
            moment: _whole(name, [p.moments[moment] for p in pieces], shape, padded)
            for moment in pieces[0].moments
        }
        return ParameterState(_whole(name, [p.value for p in pieces], shape, padded), moments)

    def check(self, expected: Shapes, buffers: Shapes) -> None:
        """Everything that can be wrong with the commit, before anything is changed; reads all weights.

        Raises:
            UserError: other parameters than `expected` or other `buffers`, or pieces that do not give the
                saved weights.
        """
        with _understood(self.folder, self.written_by):
            found = {name: value.shape for name, value in self.buffers.items()}
            if found != dict(buffers):
                odd = {str(item) for item in found.items() ^ buffers.items()}
                raise ValueError(f"the buffers are not those of this model: {sorted(odd)[:4]}")
            shapes = {**self.shapes, **{name: value.shape for name, value in self.frozen.items()}}
            names = {*self.module, *self.frozen}
            if shapes != dict(expected) or names != set(expected):
                odd = {str(item) for item in set(expected.items()) ^ set(shapes.items())}
                odd |= names ^ set(expected)
                raise ValueError(f"the parameters are not those of this model: {sorted(odd)[:4]}")
            for name in self.shapes:
                value = self.parameter(name).value
                if self.stage < 3 and not torch.equal(value, self.module[name]):
                    raise ValueError(f"the pieces of {name} do not give the weights saved beside them")


def _whole(name: str, parts: list[Tensor], shape: torch.Size, padded: bool) -> Tensor:
    """The ranks' flat pieces of a tensor as one; `padded`: all are equally long, with zeros at the end.

    Raises:
        ValueError: they do not make it up.
    """
    spare = sum(part.numel() for part in parts) - shape.numel()
    if not 0 <= spare < (len(parts) if padded else 1):
        raise ValueError(f"the pieces of {name} differ by {spare} from its {shape.numel()} elements")
    joined = parts[0] if len(parts) == 1 else torch.cat(parts)
    return joined[: shape.numel()].view(shape)


def open_saved(folder: Path, stage: int, world_size: int, frozen: Collection[str] = ()) -> SavedEngine:
    """Open what DeepSpeed saved under `folder` at a ZeRO stage on `world_size` ranks.

    The caller allows DeepSpeed's own plain classes; anything else that is not a tensor is refused.

    Args:
        frozen: names of parameters that no optimiser steps; not every stage's files tell them.

    Raises:
        UserError: a file is missing or laid out in a way that is not known.
        pickle.UnpicklingError: a file holds code.
    """
    model = read_model(folder, stage)
    written_by = str(model.get("ds_version"))
    with _understood(folder, written_by):
        names = set(model["buffer_names"])
        module = {n: value for n, value in model["module"].items() if n not in names and n not in frozen}
        buffers = {name: model["module"][name] for name in names}
        if stage == 0:
            shapes = {name: value.shape for name, value in module.items()}
            ranks, step = _unsharded(module, model["optimizer"]["state"])
        else:
            shapes = {name: shape for group in model["param_shapes"] for name, shape in group.items()}
            files = [f"zero_pp_rank_{r}_mp_rank_00_optim" for r in range(world_size)]
            states = [_read(folder, file)["optimizer_state_dict"] for file in files]
            ranks = tuple(partition_views(stage, state, shapes, world_size) for state in states)
            key = "optimizer_state_dict" if stage == 3 else "base_optimizer_state"
            step = _one_step([moments for state in states for moments in state[key]["state"].values()])
        fixed = _frozen(folder, model, frozen, world_size if stage == 3 else 0)
        counts = int(model["global_steps"]), int(model["global_samples"])
    return SavedEngine(folder, stage, shapes, ranks, module, fixed, buffers, step, *counts, written_by)


def read_model(folder: Path, stage: int) -> dict[str, Any]:
    """The file of the model that rank 0 wrote at a ZeRO stage. Errors as `open_saved`."""
    return _read(folder, "zero_pp_rank_0_mp_rank_00_model" if stage == 3 else "mp_rank_00_model")


def _frozen(folder: Path, model: Mapping[str, Any], names: Collection[str], pieces: int) -> dict[str, Tensor]:
    """Frozen weights, whole: from the model's state dict, or put together from so many ranks' pieces."""
    if not pieces or not names:
        return {name: model["module"][name] for name in sorted(names)}
    files = [_read(folder, f"zero_pp_rank_{rank}_mp_rank_00_model") for rank in range(pieces)]
    shapes: Shapes = model["frozen_param_shapes"]
    return {
        name: _whole(name, [f["frozen_param_fragments"][name] for f in files], shapes[name], padded=True)
        for name in sorted(names)
    }


def _unsharded(
    module: Mapping[str, Tensor], moments: Mapping[int, Mapping[str, Tensor]]
) -> tuple[tuple[Pieces, ...], Tensor]:
    """Stage 0, where every rank has everything and one wrote it: moments by the parameter's number."""
    if len(moments) != len(module):
        raise ValueError(f"{len(module)} tensors in the model, {len(moments)} in the optimiser")
    whole = {
        name: ParameterState.of(value, moments[i]).each(torch.flatten)
        for i, (name, value) in enumerate(module.items())
    }
    return (whole,), _one_step(list(moments.values()))


def _one_step(moments: list[Mapping[str, Tensor]]) -> Tensor:
    steps = [state["step"] for state in moments if "step" in state]
    if not steps:
        return torch.zeros(())
    if len(set(map(float, steps))) != 1 or len(steps) != len(moments):
        raise ValueError(f"Adam counts several steps: {sorted(set(map(float, steps)))}")
    return steps[0]


def _read(folder: Path, name: str) -> dict[str, Any]:
    """A file of the engine by the middle of its name: DeepSpeed puts the precision before it."""
    found = sorted(folder.glob(f"*{name}_states.pt"))
    exact = [path for path in found if path.name.removeprefix("bf16_") == f"{name}_states.pt"]
    if len(exact) != 1:
        raise UserError(
            f"{folder}: expected one file {name}_states.pt, found {len(exact)}. Restore the checkpoint."
        )
    try:
        state: dict[str, Any] = torch.load(exact[0], map_location="cpu", mmap=True, weights_only=True)
    except SURPRISES as error:
        raise UserError(
            f"{exact[0]}: not a file that torch wrote ({error}). Restore the checkpoint."
        ) from error
    return state


@contextmanager
def _understood(folder: Path, written_by: str) -> Iterator[None]:
    """Any surprise in the layout is one clear error; a guess could train on mixed-up weights."""
    try:
        yield
    except SURPRISES as error:
        raise UserError(
            f"{folder}: cannot be dealt to another number of ranks or ZeRO stage.\n"
            f"  found: {type(error).__name__}: {error} (written by DeepSpeed {written_by})\n"
            "  fix: continue with the --ranks and engine.zero_stage that wrote it (its MANIFEST.json names "
            "them)"
        ) from error
