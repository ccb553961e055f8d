"""How the engine holds its parameters: the optimiser's groups, their moments, and the copies of a rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from swamp_dist.model.dual_encoder import DualEncoder
from swamp_dist.train.resharding import ParameterState


def parameter_groups(model: DualEncoder) -> list[dict[str, Any]]:
    """What the optimiser steps, in the order of the model: logits last, in a group without weight decay."""
    logits = [] if model.logits is None else list(model.logits.parameters())
    own = {id(parameter) for parameter in logits}
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if id(p) not in own]}]
    return groups + ([{"params": logits, "weight_decay": 0.0}] if logits else [])


def copies_of(parameter: Tensor, stage: int, master_piece: Callable[[Tensor], Tensor] | None) -> list[Tensor]:
    """Where this rank holds a parameter or its piece of it: as the model computes with it, and as the float32
    master that ZeRO updates.

    Args:
        master_piece: this rank's piece of the master at ZeRO stage 3, as DeepSpeed hands it out.
    """
    held: Any = parameter
    if stage == 3 and master_piece is not None:
        return [held.data, held.ds_tensor.data, master_piece(parameter)]
    if stage > 0 and held._hp_mapping is not None:
        return [held.data, held._hp_mapping.hp_fragment]
    return [held.data]


def make_moments(optimizer: torch.optim.Optimizer, tensors: list[torch.nn.Parameter], step: Tensor) -> None:
    """Moments of zero after so many steps, as Adam's first step would make them."""
    for tensor in tensors:
        moments = {key: torch.zeros_like(tensor) for key in ("exp_avg", "exp_avg_sq")}
        optimizer.state[tensor] = {"step": step.clone(), **moments}


def flat_views(parameter: torch.nn.Parameter, moments: dict[str, Tensor]) -> ParameterState:
    """A whole parameter and its moments as flat views."""
    whole = ParameterState(parameter.detach(), moments["exp_avg"], moments["exp_avg_sq"])
    return whole.each(lambda x: x.view(-1))
