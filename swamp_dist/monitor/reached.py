"""What a finished run has reached, from its result and from what it said while it trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swamp_dist.monitor.status import BestMetric, best_of_training
from swamp_dist.runs.events import Attempt, attempts, last_rows, number
from swamp_dist.runs.folder import RunDir


@dataclass(frozen=True)
class Reached:
    """The outcome of a run in a few values."""

    steps: int | None
    """Updates done; None where it did not train."""
    seconds: float
    """Between the first and the last sign of each start, summed over all starts."""
    starts: int
    validation: BestMetric
    """Without a value where nothing was validated."""
    weights: Path | None
    """What it trained or evaluated; None for random weights."""
    selected: int | None
    """Step of the selected weights; None where it did not train."""


def reached(folder: RunDir) -> Reached:
    """What the run in a folder has reached.

    Raises:
        UserError: its result.json is there and cannot be read.
    """
    events = folder.read_events()
    tries = [each for each in attempts(events) if each.last("started") is not None]
    result = folder.read_result()
    trained = result is not None and result.selected_step is not None
    return Reached(
        steps=result.steps if result is not None and trained else None,
        seconds=sum(map(_seconds, tries)),
        starts=len(tries),
        validation=best_of_training(events, last_rows(folder.metrics_jsonl)) if trained else BestMetric(),
        weights=None if result is None else result.weights,
        selected=None if result is None else result.selected_step,
    )


def _seconds(attempt: Attempt) -> float:
    return max(0.0, (number(attempt.events[-1], "time") or attempt.began) - attempt.began)
