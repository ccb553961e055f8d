"""Weights & Biases, and trackio, which takes the same calls."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, final

from swamp_dist.train.loggers.logger import Logger, RunAbout

if TYPE_CHECKING:
    from torch import Tensor

_STEP = "step"
"""What curves are drawn over. The program's own count of calls may not go back, as a resume does."""


@final
class WandbLogger(Logger):
    """A run of a program in the manner of wandb.

    Where it sends its figures, and whether it does, is said by its own variables (WANDB_MODE=offline,
    WANDB_PROJECT). A run that goes on after a kill keeps its id; figures past the commit, which were sent
    already, then stand there twice.
    """

    def __init__(self, run: RunAbout, identity: str, program: Literal["wandb", "trackio"] = "wandb") -> None:
        """Begin, or go on with, the run of this identity."""
        module = import_module(program)
        self._histogram: Any = None
        if program == "trackio":  # knows a run by its name
            name = f"{run.folder.name}-{identity}"
            self._run: Any = module.init(project=run.name, name=name, resume="allow")
            return
        quiet = module.Settings(silent=True, console="off", disable_git=True, save_code=False)
        self._run = module.init(
            project=os.environ.get("WANDB_PROJECT", run.name), name=run.folder.name, id=identity,
            resume="allow", dir=str(run.folder), settings=quiet,
        )  # fmt: skip
        self._run.define_metric(_STEP)
        self._run.define_metric("*", step_metric=_STEP)
        self._histogram = module.Histogram

    def about(self, run: RunAbout) -> None:
        """Chosen settings and provenance as the run's config; the whole job as one text."""
        told = {**run.chosen, "provenance": dict(run.provenance), "job": run.settings}
        self._run.config.update(told, allow_val_change=True)

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """Those that are numbers."""
        numbers = {tag: value for tag, value in figures.items() if math.isfinite(value)}
        self._run.log({**numbers, _STEP: step})

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        """In wandb's own buckets; trackio has none."""
        if self._histogram is not None:
            self._run.log({tag: self._histogram(values.detach().float().cpu().numpy()), _STEP: step})

    def result(self, run: RunAbout, figures: Mapping[str, float], step: int) -> None:
        """Figures of the last step, which the program's table of runs shows."""
        self.figures(figures, step)

    def flush(self) -> None:
        """Nothing: a process of the program's own writes."""

    def close(self) -> None:
        """Wait until everything is written or sent."""
        self._run.finish()
