"""`SwampLoss`: the objective of a stage as a module for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from swamp_dist.config import ObjectiveSettings, StageSettings
from swamp_dist.distributed import World, joined
from swamp_dist.errors import UserError
from swamp_dist.loading import describe, load
from swamp_dist.loss.agreement import Agreement, number_of
from swamp_dist.loss.batch import PairRows
from swamp_dist.loss.gradients import average_gradient, notice_backward
from swamp_dist.loss.held_objective import HeldObjective
from swamp_dist.loss.output import LossAndFigures, figures_of, mean_figures
from swamp_dist.loss.settings import read_settings
from swamp_dist.loss.start import (
    copy_values,
    draw_prototypes,
    find_centres,
    fresh_parameters,
    is_on_meta,
    make_logits,
    take_from_main,
)
from swamp_dist.model.logits import LARGEST_LOG_SCALE, at_least_float32
from swamp_dist.objective.objective import Objective
from swamp_dist.records import PairEmbeddings


class SwampLoss(nn.Module):
    """The whole objective of a stage in any training loop.

        loss = SwampLoss(512, contrastive={"form": "infonce"}, swamp={"prototypes": 100, "weight": 0.1})
        optimizer = torch.optim.Adam([*model.parameters(), *loss.parameters()])
        out = loss(model.a(texts), model.b(videos), items)
        out.loss.backward()

    Every rank of the default process group calls it once per step, with equally many pairs; without a group
    there is one rank. All pairs of all ranks are one batch. The result is exact, for any number of ranks that
    of one process with the whole batch, where the wrapper of the model averages gradients over ranks: DDP,
    FSDP2 (`fully_shard`) and DeepSpeed do. The module averages the gradients of its own parameters
    (prototypes, learned logits) itself, in every backward pass, so it may stand beside the wrapped model;
    inside of it, `reduce_gradients=False` saves that all-reduce.

    Embeddings may have any length: they are made float32 (float64 stays) and unit length here, outside
    autocast. Each call in training mode is one step of the objective, whose batch goes into the queue. So
    gradients accumulated over k batches, with or without `no_sync`, are those of the sum of k losses, each
    with its own negatives. In evaluation mode the module refuses to be called.

    The queue is replicated on every rank. It travels in the `state_dict` as `_extra_state`, with the
    potentials of a warm start, the measured ratio of gradients and the number of steps, without a
    collective, and goes on on any number of ranks. Every rank has to load it.
    """

    def __init__(
        self,
        embedding_dim: int,
        objective: ObjectiveSettings | Mapping[str, Any] | None = None,
        *,
        seed: int = 0,
        pairs_per_entry: int = 1,
        reduce_gradients: bool = True,
        **terms: Any,
    ) -> None:
        """Make the loss; nothing is sent before the first call.

        Args:
            embedding_dim: D.
            objective: settings, or the `objective` section of a job as nested dictionaries.
            seed: of the first prototypes, as of a stage. Torch's random state does not count.
            pairs_per_entry: pairs of one entry in a batch, which `contrastive.in_entry_share` asks for. They
                stand one after the other, or `entries` names them in each call.
            reduce_gradients: average the gradients of prototypes and logits over ranks here.
            terms: sections of the objective (`contrastive`, `swamp`) over those of `objective`.

        Raises:
            UserError: settings that are wrong, or of a sharded queue.
        """
        super().__init__()
        self.settings = read_settings(objective, terms)
        self.embedding_dim, self.pairs_per_entry = embedding_dim, pairs_per_entry
        if embedding_dim < 1 or pairs_per_entry < 1:
            found = f"found {embedding_dim} and {pairs_per_entry}"
            raise UserError(f"embedding_dim and pairs_per_entry: expected at least 1, {found}")
        self.reduce_gradients = reduce_gradients
        self.seed = seed
        self.prototypes = draw_prototypes(self.settings, embedding_dim, seed)
        self.logits = make_logits(self.settings.contrastive)
        self._lacks_values = is_on_meta(self)
        self._lacks_centres = self.prototypes is not None and self.settings.swamp.prototypes_start == "kmeans"
        self._is_set_up = False
        self._held = HeldObjective(self.settings, embedding_dim, pairs_per_entry)
        self._agreement = Agreement()
        self._settings_mark = number_of(self.settings.model_dump_json())

    @classmethod
    def from_job(
        cls,
        job: Path | str,
        overrides: Sequence[str] = (),
        *,
        embedding_dim: int | None = None,
        reduce_gradients: bool = True,
    ) -> SwampLoss:
        """The loss of a job file: its objective, seed, embedding size and pairs per entry.

        Args:
            job: job file.
            overrides: `key=value` texts, as for `swamp run`.
            embedding_dim: D, where the file leaves it to the weights that the stage starts from.
            reduce_gradients: as above.

        Raises:
            UserError: as `swamp run`.
        """
        settings = load(Path(job), StageSettings, overrides)
        dim = embedding_dim or settings.model.embedding_dim
        if dim is None:
            raise UserError(f"{job}: model.embedding_dim is null: give embedding_dim")
        return cls(
            dim,
            settings.objective,
            seed=settings.seed,
            pairs_per_entry=settings.data.pairs_per_entry,
            reduce_gradients=reduce_gradients,
        )

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        items: Tensor | None = None,
        labels: Tensor | None = None,
        entries: Tensor | None = None,
    ) -> LossAndFigures:
        """The loss of this rank's pairs, as one step of the objective. All ranks call it together.

        Args:
            a, b: (b, D) embeddings; row i of both is a pair.
            items: (b,) integer ids of what was drawn; `swamp.queue.unique_items` needs them.
            labels: (b,) classes, at least 0; `contrastive.positives: class` needs them.
            entries: (b,) integers, the same for pairs of one entry (captions of one image);
                `contrastive.positives: entry` needs them.

        Raises:
            UserError: on all ranks together: a batch that does not fit, ranks that differ (settings, batch
                size, state, what is given), or evaluation mode.
        """
        rows, world = PairRows(a, b, items, labels, entries), joined(a.device)
        # 1. Before anything is sent: do all ranks mean the same?
        facts = {**self._facts(), **self._held.facts(), **rows.facts()}
        self._agreement.check(facts, self._fault(rows, world), self._settings_by_key, world)
        # 2. The first call: prototypes and logits of rank 0, and a queue for batches of this size.
        self._take_from_main(world)
        objective = self._held.open(len(a), a.dtype, world)
        self.keep_bounds()
        # 3. The step.
        with torch.autocast(a.device.type, enabled=False):
            embeddings = self._embeddings(rows, objective, world)
            ids, places = rows.queue_ids(), rows.entry_ids(self.pairs_per_entry, world)
            terms = objective(embeddings, ids, places, self.steps, world, labels=rows.class_ids())
        self._held.steps += 1
        return LossAndFigures(terms.total, figures_of(terms, objective))

    def mean_figures(self, figures: Mapping[str, Tensor]) -> dict[str, float]:
        """Means over ranks, for a log. All ranks call it, with figures of the same step; one all-reduce."""
        return mean_figures(figures)

    @property
    def steps(self) -> int:
        """Steps done, over all starts."""
        return self._held.steps

    def parameter_groups(self, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Own parameters for an optimiser, as a stage groups them: logits take no weight decay."""
        prototypes = [] if self.prototypes is None else list(self.prototypes.parameters())
        logits = [] if self.logits is None else list(self.logits.parameters())
        groups = [(prototypes, weight_decay), (logits, 0.0)]
        return [{"params": params, "weight_decay": decay} for params, decay in groups if params]

    def reset_parameters(self) -> None:
        """Start prototypes and logits anew from the seed; the state stays.

        After `to_empty` on a module that was built on the meta device: then call it, on all ranks where
        parameters are sharded (FSDP2).
        """
        copy_values(fresh_parameters(self.settings, self.embedding_dim, self.seed), self)
        self._lacks_values = False

    def start_prototypes(self, rows: Tensor) -> None:
        """Start the prototypes as spherical k-means centres of embeddings, before they are sharded; what
        `swamp.prototypes_start: kmeans` asks for. All ranks call it, with equally many rows.

        Args:
            rows: (n, D) embeddings of both modalities. Rank 0 clusters those of all ranks.

        Raises:
            UserError: on all ranks: fewer rows than prototypes, or rows that are not finite.
        """
        if self.prototypes is None:
            raise UserError("swamp.weight = 0: there are no prototypes to start")
        rounds = self.settings.swamp.kmeans.iterations
        centres = find_centres(rows.detach(), len(self.prototypes.weight), self.seed, rounds)
        self.prototypes.weight.data.copy_(centres)
        self._lacks_centres = False

    def keep_bounds(self) -> None:
        """Put a learned logit scale back to at most 100, as a stage does after every update.

        The next call does it by itself; where the parameters are sharded (FSDP2), call this after
        `optimizer.step()`.
        """
        if self.logits is not None and self.logits.learned:
            self.logits.log_scale.data.clamp_(max=LARGEST_LOG_SCALE)

    def get_extra_state(self) -> dict[str, Any]:
        """Queue, potentials, ratio of gradients and steps: tensors on the CPU, the same on every rank. No
        collective."""
        return self._held.saved()

    def set_extra_state(self, state: Any) -> None:
        """Go on from a state. Call it on all ranks (`load_state_dict` does).

        Raises:
            UserError: it is none.
        """
        self._held.load(state)
        self._lacks_values = self._lacks_centres = False

    def extra_repr(self) -> str:
        """What `print` shows."""
        contrastive, swamp = self.settings.contrastive, self.settings.swamp
        return (
            f"embedding_dim={self.embedding_dim}, contrastive={contrastive.weight:g} * {contrastive.form}, "
            f"swamp={swamp.weight:g}, queue={swamp.queue.size}"
        )

    def _facts(self) -> dict[str, object]:
        return {
            "settings": self._settings_mark,
            "seed": self.seed,
            "embedding_dim": self.embedding_dim,
            "pairs_per_entry": self.pairs_per_entry,
            "reduce_gradients": self.reduce_gradients,
            "first call": not self._is_set_up,
        }

    def _settings_by_key(self) -> dict[str, object]:
        """In place of `settings` above."""
        return {"settings": ""} | {setting.key: setting.value for setting in describe(self.settings)}

    def _fault(self, rows: PairRows, world: World) -> str | None:
        """What is wrong with the module or with this rank's rows."""
        if not self.training:
            return (
                "SwampLoss was called in evaluation mode: each call pushes its batch into the queue and "
                "counts as a step.\nFix: call train() on it first, or leave it out of an evaluation"
            )
        if self._lacks_values:
            return (
                "SwampLoss was built on the meta device, and its parameters have no values yet.\n"
                "Fix: call to_empty(device=...) and then reset_parameters(), or load a state_dict"
            )
        if self._lacks_centres:
            return (
                "swamp.prototypes_start = kmeans: the prototypes have no centres yet.\n"
                "Fix: call start_prototypes(embeddings), or set prototypes_start: random"
            )
        wrong = rows.fault(self.settings, self.embedding_dim, self.pairs_per_entry)
        return wrong or self._held.misfit(len(rows.a), world)

    def _take_from_main(self, world: World) -> None:
        if not self._is_set_up:
            take_from_main(self, world)
            self._is_set_up = True

    def _embeddings(self, rows: PairRows, objective: Objective, world: World) -> PairEmbeddings:
        """What the model of a stage would give: unit rows, prototypes and logits."""
        a, b = (functional.normalize(at_least_float32(side), dim=1) for side in (rows.a, rows.b))
        if objective.swamp is not None:
            # The ratio of gradients is measured as soon as both gradients are there.
            a, b = notice_backward(partial(objective.swamp.ratio.measure, world), a, b)
        prototypes = None if self.prototypes is None else self.prototypes()
        scale, bias = (None, None) if self.logits is None else self.logits()
        own = (None if each is None else each.to(a.dtype) for each in (prototypes, scale, bias))
        if self.reduce_gradients:
            own = (None if each is None else average_gradient(each, world) for each in own)
        return PairEmbeddings(a, b, *own)
