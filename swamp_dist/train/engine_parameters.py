"""How the engine holds its parameters: the optimiser's groups, their moments, and the copies of a rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from swamp_dist.model.dual_encoder import DualEncoder
from swamp_dist.train.resharding import ParameterState

FACTOR = "learning_rate_factor"
"""Key of an optimiser's group: its learning rate is this multiple of the schedule's."""


def parameter_groups(model: DualEncoder) -> list[dict[str, Any]]:
    """What the optimiser steps, in the order of the model: trained parameters alone, neighbours with one
    factor of the learning rate in one group; logits last, in a group without weight decay.

    Resharding knows the pieces of parameters by this order.
    """
    factor_a, factor_b = model.learning_rate_factors
    parts = [(model.a, factor_a), (model.b, factor_b), (model.sets, 1.0), (model.prototypes, 1.0)]
    groups: list[dict[str, Any]] = []
    for module, factor in parts:
        trained = _trained(module)
        if trained and groups and groups[-1][FACTOR] == factor:
            groups[-1]["params"] += trained
        elif trained:
            groups.append({"params": trained, FACTOR: factor})
    logits = _trained(model.logits)
    return groups + ([{"params": logits, FACTOR: 1.0, "weight_decay": 0.0}] if logits else [])


def _trained(module: torch.nn.Module | None) -> list[torch.nn.Parameter]:
    """Parameters that have a gradient; those of a frozen part have none."""
    return [] if module is None else [p for p in module.parameters() if p.requires_grad]


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


def cpu_weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of what a module's state dict holds, float32 and on the CPU."""
    return {
        name: value.detach().to("cpu", torch.float32, copy=True)
        for name, value in module.state_dict().items()
    }
