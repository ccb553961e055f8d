"""One training step: embed, objective, backward, update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from swamp_dist.distributed import World, gather, gather_objects, mean_over_ranks, sum_over_ranks
from swamp_dist.errors import UserError
from swamp_dist.objective.signs import RATIO, WATCHED
from swamp_dist.objective.term import StepObjective
from swamp_dist.product_library import training_products
from swamp_dist.records import LossTerms, PairBatch, PairEmbeddings, PairSets, Reversals
from swamp_dist.train.engine import Engine
from swamp_dist.train.gradient_cache import encode
from swamp_dist.train.random_keys import step_random_key


@dataclass(frozen=True)
class StepResult:
    """What the loop needs to know of a step; `losses` and `watched` are means over ranks, alike on all."""

    losses: Mapping[str, float]
    watched: Mapping[str, float]
    """Those of `signs.WATCHED` that the step has."""
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
    objective: StepObjective,
    batch: PairBatch,
    *,
    learning_rate: float,
    seed: int,
    stop_requested: bool,
    keys_of: Callable[[Tensor], list[str]],
    world: World,
    reversals: Reversals | None = None,
    is_logged: bool = True,
) -> StepResult:
    """Update the model by one global batch. All ranks call it.

    Args:
        engine: the model and its optimiser.
        objective: the loss, with what it carries from step to step.
        batch: this rank's pairs of the global batch.
        learning_rate: of this update.
        seed: of the run; what dropout is drawn from, with the step and the rank.
        stop_requested: whether a signal reached this rank.
        keys_of: sample keys of (b,) entry ids, for the error message.
        world: all ranks.
        reversals: how the gradients of the model's heads are reversed; None where it has none.
        is_logged: whether `diagnostics` and the engine's `gradient_norm` are asked for after the step; what
            they alone show is not computed else. Alike on all ranks.

    Raises:
        UserError: the loss of some rank is not finite; raised on all ranks before the update.
    """
    began = time.perf_counter()
    with training_products(engine.product_library):
        # 1. Embed my pairs; the rows of A travel while B is computed.
        key = step_random_key(seed, batch.step, world.rank)
        encoded = encode(engine, batch, key, lambda rows: objective.start_columns(rows, world), reversals)
        # 2. The losses of my pairs, among those of all ranks.
        items = batch.ids if batch.items is None else batch.items
        sides = encoded.embeddings
        terms = objective(
            sides, items, batch.entries, batch.step, world, encoded.all_a, batch.labels, is_logged
        )
        # 3. Send their means to the host, while the backward pass runs.
        watched = _watched(terms, objective)
        reduced = _OnHost(_reduced(terms, list(watched.values()), stop_requested, world))
        encoded.backward(terms.total)
    terms = objective.measure(terms, world)
    # 4. Update, unless some rank's loss is not finite.
    *means, stops = reduced.read()
    if not math.isfinite(means[0]):  # a mean is finite only where all its numbers are
        raise UserError(_not_finite(batch, encoded.embeddings, keys_of, world))
    engine.step(learning_rate, measures_norm=is_logged)
    names = ["loss/total", *(f"loss/{name}" for name in terms.terms)]
    return StepResult(
        losses=dict(zip(names, means, strict=False)),
        watched=dict(zip(watched, means[len(names) :], strict=True)),
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


def _watched(terms: LossTerms, objective: StepObjective) -> dict[str, Tensor]:
    """The figures that alarms look at; the ratio of gradients as steps before this one have shown it."""
    ratio = objective.effective_ratio
    known = {**terms.diagnostics, **({} if ratio is None else {RATIO: ratio})}
    return {tag: known[tag] for tag in WATCHED if tag in known}


def _reduced(terms: LossTerms, watched: list[Tensor], stop_requested: bool, world: World) -> Tensor:
    """The total, every term and what is watched as means over ranks, then the share of stopping ranks: one
    collective."""
    total = terms.total.detach()
    rest = [value.detach().to(total) for value in (*terms.terms.values(), *watched)]
    stops = torch.full_like(total, float(stop_requested))
    return sum_over_ranks(torch.stack([total, *rest, stops]) / world.size, world)


def _not_finite(
    batch: PairBatch, given: PairEmbeddings | PairSets, keys_of: Callable[[Tensor], list[str]], world: World
) -> str:
    """Which samples are to blame: those whose embedding is not finite, else the whole batch of each rank."""
    finite = torch.isfinite(given.a).flatten(1).all(1) & torch.isfinite(given.b).flatten(1).all(1)
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
        "The last checkpoint is untouched; the same command continues from it."
    )
