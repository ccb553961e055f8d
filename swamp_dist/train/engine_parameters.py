"""How the engine holds its parameters: the optimiser's groups, their moments, and the copies of a rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from swamp_dist.config import OptimizerSettings
from swamp_dist.distributed import World
from swamp_dist.errors import UserError
from swamp_dist.model.dual_encoder import DualEncoder
from swamp_dist.train.plain_optimizers import plain
from swamp_dist.train.resharding import ParameterState

FACTOR = "learning_rate_factor"
"""Key of an optimiser's group: its learning rate is this multiple of the schedule's."""


def make_optimizer(settings: OptimizerSettings, model: DualEncoder) -> torch.optim.Optimizer:
    """The optimiser of a model's parameters, before DeepSpeed holds them.

    The foreach and fused forms round differently from one torch build to the next, so a CPU takes the plain
    loop unless `fused` is asked for. A GPU takes torch's own default for Adam, which is foreach.
    """
    groups, decay = parameter_groups(model), settings.weight_decay
    if settings.kind == "sgd":
        momentum, nesterov = settings.momentum, settings.nesterov
        return plain(torch.optim.SGD)(
            groups, lr=settings.lr, momentum=momentum, nesterov=nesterov, weight_decay=decay, foreach=False
        )
    adam = plain(torch.optim.AdamW if decay > 0 else torch.optim.Adam)
    fused = settings.fused or None  # torch's own default else
    return adam(
        groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, weight_decay=decay, fused=fused
    )


def parameter_groups(model: DualEncoder) -> list[dict[str, Any]]:
    """What the optimiser steps, in the order of the model: trained parameters alone, neighbours with one
    factor of the learning rate in one group; logits last, in a group without weight decay.

    Resharding knows the pieces of parameters by this order.
    """
    factor_a, factor_b = model.learning_rate_factors
    parts = [(model.a, factor_a), (model.b, factor_b), (model.sets, 1.0), (model.prototypes, 1.0)]
    parts.append((model.heads, 1.0))
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
    """Moments of zero after so many steps, as the optimiser's first step would make them; SGD counts none."""
    of_sgd = isinstance(optimizer, torch.optim.SGD)
    for tensor in tensors:
        names = ("momentum_buffer",) if of_sgd else ("exp_avg", "exp_avg_sq")
        moments = {key: torch.zeros_like(tensor) for key in names}
        optimizer.state[tensor] = moments if of_sgd else {"step": step.clone(), **moments}


def fill_gradients(trained: Iterable[torch.nn.Parameter]) -> None:
    """Zeros where a trained parameter has no gradient, as an average over ranks gives it: an optimiser takes
    no gradient for no step, and its moments would stand still."""
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def flat_views(parameter: torch.nn.Parameter, moments: dict[str, Tensor]) -> ParameterState:
    """A whole parameter and its moments as flat views."""
    whole = ParameterState.of(parameter.detach(), moments)
    return whole.each(lambda x: x.view(-1))


def cpu_weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """Copies of what a module's state dict holds, float32 and on the CPU."""
    return {
        name: value.detach().to("cpu", torch.float32, copy=True)
        for name, value in module.state_dict().items()
    }


def check_micro_batch(micro_batch: int | None, local_pairs: int, world: World) -> None:
    """Raise UserError where `micro_batch` does not divide the `local_pairs` of a rank."""
    if micro_batch is None or local_pairs % micro_batch == 0:
        return
    divisors = [n for n in range(1, local_pairs + 1) if local_pairs % n == 0]
    raise UserError(
        f"engine.micro_batch = {micro_batch}: expected a divisor of the {local_pairs} pairs of a rank "
        f"({local_pairs * world.size} pairs per step on {world.size} ranks), found a remainder of "
        f"{local_pairs % micro_batch}.\n"
        f"Set it to one of {', '.join(map(str, divisors))}; null encodes all pairs of a rank at once."
    )
