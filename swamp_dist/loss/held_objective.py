"""The objective of a loss with what it carries from step to step, and how a `state_dict` keeps it.

The size of the batch decides how many rows the queue holds, and only the first call tells it. A state that is
loaded before waits until then.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any, final

import torch
from torch import Tensor

from swamp_dist.config import ObjectiveSettings
from swamp_dist.distributed import World, alone, on_main
from swamp_dist.errors import UserError
from swamp_dist.objective.advice import objective_warnings
from swamp_dist.objective.checks import check_positives
from swamp_dist.objective.objective import Objective, build_objective
from swamp_dist.records import BatchPlan

logger = logging.getLogger(__name__)


@final
class HeldObjective:
    """An objective that is built at the first call, with its steps and its state."""

    def __init__(self, settings: ObjectiveSettings, embedding_dim: int, pairs_per_entry: int) -> None:
        self._settings = settings
        self._dim = embedding_dim
        self._pairs_per_entry = pairs_per_entry
        self._objective: Objective | None = None
        self._waiting: dict[str, Tensor] = {}
        """State for the objective that is not built yet."""
        self._loaded = "none"
        self.steps = 0
        """Steps done, over all starts."""

    def facts(self) -> dict[str, object]:
        """What has to be equal on all ranks: as all change alike, where they began and how far they are."""
        return {"steps done": self.steps, "state that was loaded": self._loaded}

    def misfit(self, local_pairs: int, world: World) -> str | None:
        """What differs from the batches before, and the fix; None where nothing does."""
        if self._objective is None:
            return None
        plan = self._objective.plan
        if (plan.local_pairs, plan.world_size) == (local_pairs, world.size):
            return None
        return (
            f"a batch of {local_pairs} pairs on each of {world.size} ranks, after batches of "
            f"{plan.local_pairs} on {plan.world_size}: the size of the batch is a part of the objective.\n"
            "Fix: drop_last=True in the DataLoader; loss.load_state_dict(loss.state_dict()) goes on with "
            "batches of another size"
        )

    def open(self, local_pairs: int, dtype: torch.dtype, world: World) -> Objective:
        """The objective for batches of `local_pairs` pairs on each rank.

        Raises:
            UserError: settings under which a term could never count, or a state of another objective; the
                same on all ranks.
        """
        if self._objective is None:
            self._objective, self._waiting = self._build(local_pairs, dtype, world), {}
        return self._objective

    def _build(self, local_pairs: int, dtype: torch.dtype, world: World) -> Objective:
        settings, pairs = self._settings, world.size * local_pairs
        plan = BatchPlan(pairs // self._pairs_per_entry, self._pairs_per_entry, world.size, world.size)
        check_positives(settings.contrastive, plan, ())
        dtype = torch.float64 if dtype == torch.float64 else torch.float32
        built = build_objective(settings, plan, self._dim, world.device, dtype, world.rank)
        if self._waiting:
            try:
                built.load_state(self._waiting)
            except ValueError as error:
                raise UserError(f"not the state of this SwampLoss: {error}") from error
        warnings = "\n".join(objective_warnings(settings, pairs, None, None))
        on_main(world, lambda: logger.warning("%s", warnings) if warnings else None)
        return built

    def saved(self) -> dict[str, Any]:
        """Steps and tensors of the objective on the CPU. No collective: the queue is whole on every rank."""
        objective = self._objective
        tensors = self._waiting if objective is None else objective.state(alone())
        return {"steps": torch.tensor(self.steps), "objective": dict(tensors)}

    def load(self, state: Any) -> None:
        """Go on from `saved()` of any number of ranks, at the next call, with batches of any size.

        Raises:
            UserError: it is none. Whether it belongs to this objective, the next call tells.
        """
        self.steps, self._waiting = _read(state)
        self._objective, self._loaded = None, _digest(self.steps, self._waiting)


def _read(state: Any) -> tuple[int, dict[str, Tensor]]:
    try:
        steps, tensors = int(state["steps"]), dict(state["objective"])
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(f"not the state of a SwampLoss: {type(error).__name__}: {error}") from error
    if steps < 0 or not all(isinstance(each, Tensor) for each in tensors.values()):
        raise UserError("not the state of a SwampLoss: expected steps of at least 0, and tensors")
    return steps, tensors


def _digest(steps: int, tensors: dict[str, Tensor]) -> str:
    """Tells a state from any other."""
    found = hashlib.blake2b(str(steps).encode(), digest_size=8)
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
