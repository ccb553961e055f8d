"""What a run has reached so far: figures of its result, or of the validation in its training."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from swamp_dist.evaluate.results import better, metric_names, named_metrics
from swamp_dist.launch.journal import Record, number
from swamp_dist.records import StageResult

_SHOWN = "pair/mean/r_at_1"


@dataclass(frozen=True)
class Outcome:
    """One metric of a run; recalls are percentages."""

    metric: str = ""
    """Split and name, for example `validation pair/mean/r_at_1`; empty where nothing was evaluated yet."""
    last: float | None = None
    best: float | None = None
    best_step: int | None = None
    """Step of the best value, or of the weights that a finished run selected."""


def of_result(result: StageResult) -> Outcome:
    """The mean R@1 of a finished run's last evaluation that has one."""
    for evaluation in reversed(result.evaluations):
        if _SHOWN in metric_names(evaluation.metrics):
            value = named_metrics(evaluation.metrics, _SHOWN)
            return Outcome(f"{evaluation.split} {_SHOWN}", value, None, result.selected_step)
    return Outcome(best_step=result.selected_step)


def of_training(events: Sequence[Record], rows: Sequence[Record]) -> Outcome:
    """The last value and, the best value of the metric it validates by, from the newest commit and the rows."""
    training = next((e for e in reversed(events) if e["event"] == "training"), {})
    metric, split = training.get("metric"), training.get("validates")
    if not isinstance(metric, str) or metric.count("/") != 2:
        return Outcome()
    commit = next((e for e in reversed(events) if e["event"] == "committed"), {})
    last, best, at = None, number(commit, "best_value"), number(commit, "best_step")
    for row in rows:
        value = _figure(row, str(split), metric)
        last = last if value is None else value
        if value is not None and (best is None or better(metric, value, best)):
            best, at = value, number(row, "step")
    if best is None:
        return Outcome()
    return Outcome(f"{split} {metric}", last, best, None if at is None else int(at))


def _figure(row: Record, split: str, metric: str) -> float | None:
    """The metric in a row of metrics.jsonl; `mean` is taken over both directions, which the row has."""
    relevance, direction, name = metric.split("/")
    directions = ("a_to_b", "b_to_a") if direction == "mean" else (direction,)
    values = [number(row, f"retrieval/{split}/{relevance}/{d}/{name}") for d in directions]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None
