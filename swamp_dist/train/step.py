"""One training step: embed, objective, backward, update."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from swamp_dist.distributed import World, gather, gather_objects, mean_over_ranks, sum_over_ranks
from swamp_dist.objective.swamp import Objective
from swamp_dist.records import LossTerms, PairBatch, PairEmbeddings, UserError
from swamp_dist.train.engine import Engine
from swamp_dist.train.gradient_cache import encode

_TERMS = ("loss/total", "loss/contrastive", "loss/swamp")


@dataclass(frozen=True)
class StepOutcome:
    """What the loop needs to know of a step; `losses` are means over ranks."""

    losses: Mapping[str, float]
    stop_requested: bool
    """True on every rank as soon as a signal reached one."""
    terms: LossTerms
    seconds: float


class _OnHost:
    """A small tensor on its way to the host, so that reading it does not wait for the backward pass."""

    def __init__(self, values: Tensor) -> None:
        self._copied = torch.cuda.Event() if values.is_cuda else None  # type: ignore[no-untyped-call]
        self._values = values.to("cpu", non_blocking=True)
        if self._copied is not None:
            self._copied.record()

    def read(self) -> list[float]:
        if self._copied is not None:
            self._copied.synchronize()
        values: list[float] = self._values.tolist()
        return values


def train_step(
    engine: Engine,
    objective: Objective,
    batch: PairBatch,
    learning_rate: float,
    seed: int,
    stop_requested: bool,
    keys_of: Callable[[Tensor], list[str]],
    world: World,
) -> StepOutcome:
    """Update the model by one global batch.

    Raises:
        UserError: the loss of some rank is not finite; raised on all ranks before the update.
    """
    began = time.perf_counter()
    # Keyed, not carried: dropout of step s is the same after a resume or a validation.
    random_key = (seed * 1_000_003 + batch.step) * 65_537 + world.rank
    encoded = encode(engine, batch, random_key, lambda rows: objective.start_columns(rows, world))
    terms = objective(encoded.embeddings, batch.ids, batch.entries, batch.step, world, encoded.all_a)
    pending = _OnHost(_reduced_losses(terms, stop_requested, world))
    encoded.backward(terms.total)
    *losses, num_bad, stops = pending.read()
    if num_bad:
        raise UserError(_not_finite(batch, encoded.embeddings, keys_of, world))
    engine.step(learning_rate)
    present = (True, terms.contrastive is not None, terms.swamp is not None)
    return StepOutcome(
        losses={name: loss for name, loss, shown in zip(_TERMS, losses, present, strict=True) if shown},
        stop_requested=stops > 0,
        terms=terms,
        seconds=time.perf_counter() - began,
    )


def diagnostics(terms: LossTerms, world: World) -> dict[str, float]:
    """The objective's figures as means over ranks; one collective, called on logged steps only."""
    names = sorted(terms.diagnostics)
    if not names:
        return {}
    values = torch.stack([terms.diagnostics[name].detach().double() for name in names])
    return dict(zip(names, mean_over_ranks(values, world).tolist(), strict=True))


def _reduced_losses(terms: LossTerms, stop_requested: bool, world: World) -> Tensor:
    """[total, contrastive, swamp] as means over ranks, then counts of non-finite and of stopping ranks."""
    zero = terms.total.detach().new_zeros(())
    losses = [terms.total, terms.contrastive, terms.swamp]
    values = torch.stack([zero if loss is None else loss.detach() for loss in losses]) / world.size
    bad = (~torch.isfinite(values[0])).to(values.dtype)
    flags = torch.stack([bad, zero + float(stop_requested)])
    return sum_over_ranks(torch.cat([values, flags]), world)


def _not_finite(
    batch: PairBatch, embeddings: PairEmbeddings, keys_of: Callable[[Tensor], list[str]], world: World
) -> str:
    """Which samples are to blame: those whose embedding is not finite, else the whole batch of each rank."""
    finite = torch.isfinite(embeddings.a).all(1) & torch.isfinite(embeddings.b).all(1)
    all_bad = ~gather(finite.to(torch.uint8), world).bool()
    keys = [key for part in gather_objects(keys_of(batch.ids), world) for key in part]
    named = [key for key, bad in zip(keys, all_bad.tolist(), strict=True) if bad]
    if named:
        what = f"embeddings of {len(named)} of {len(keys)} samples are not finite: {', '.join(named[:8])}"
    else:
        what = f"all embeddings are finite, the batch begins with samples {', '.join(keys[:8])}"
    return (
        f"the loss of step {batch.step} is not finite; stopped on all ranks before the update.\n{what}.\n"
        "Check these entries (`swamp shards verify`), lower optimizer.lr, or set optimizer.clip_norm. "
        "The last commit is untouched; the same command continues from it."
    )
