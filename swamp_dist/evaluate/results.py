"""Evaluation results by name and as JSON. Imports no torch, so that tables print at once.

A metric is named `<pair|class>/<a_to_b|b_to_a|mean>/<figure>`, for example pair/a_to_b/r_at_1; figures
are r_at_1, r_at_5, r_at_10 and median_rank, for class relevance also map, p_at_K, map_at_K, map_at_K_hits and
hit_at_N.
`<pair|class>/both/rsum` is the sum of the three recalls of both directions.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swamp_dist.config import EvaluateSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate.metric_names import check_metric_name
from swamp_dist.file_names import RESULT_FILE
from swamp_dist.plain_files import parse_json, read_plain_file
from swamp_dist.records import Alarm, EvaluationResult, RetrievalMetrics, StageResult

FORMAT = 1
"""Version of result.json."""
_MOST_BYTES = 2**24
"""Of result.json."""
DIRECTIONS = ("a_to_b", "b_to_a")
"""From queries of a to items of b, and back: parts of the names of metrics."""
_RECALLS = ("r_at_1", "r_at_5", "r_at_10")
_RSUM = "both/rsum"
_ALWAYS = ("r_at_1", "r_at_5", "r_at_10", "median_rank")
_BY_CUTOFF = {
    "precision_at": "p_at_{}",
    "map_at": "map_at_{}",
    "map_at_hits": "map_at_{}_hits",
    "hit_at": "hit_at_{}",
}
"""Figures by cut-off or place: field of `RetrievalMetrics` -> name of a figure."""
_ADDED = ("map_at_hits", "hit_at")
"""Those that results of earlier versions lack."""
_FIGURE = re.compile(r"(r|p|map|hit)_at_(\d+)(_hits)?")
_HEADINGS = {"r": "R", "p": "P", "map": "mAP", "hit": "hit"}


# -- names -----------------------------------------------------------------------------------------


def metric_value(result: EvaluationResult, name: str) -> float:
    """The figure called `name`; `mean` in the middle is the mean of both directions.

    Raises:
        UserError: the result has no such figure; lists those it has.
    """
    return named_metrics(result.metrics, name)


def chance_value(result: EvaluationResult, name: str) -> float:
    """What a random ranking would reach in the metric called `name`; errors as `metric_value`."""
    return named_metrics(result.chance, name)


def named_metrics(metrics: Mapping[str, RetrievalMetrics], name: str) -> float:
    """The figure called `name` among metrics keyed `<pair|class>/<a_to_b|b_to_a>`."""
    check_metric_name(name, metric_names(metrics), "this evaluation")
    relevance, direction, figure = name.split("/")
    if direction == "both":
        return sum(named_figures(metrics[f"{relevance}/{d}"])[name] for d in DIRECTIONS for name in _RECALLS)
    directions = DIRECTIONS if direction == "mean" else (direction,)
    values = [named_figures(metrics[f"{relevance}/{d}"])[figure] for d in directions]
    return sum(values) / len(values)


def metric_names(metrics: Mapping[str, RetrievalMetrics]) -> list[str]:
    """Every name that `named_metrics` accepts for these metrics."""
    names = []
    for relevance in dict.fromkeys(key.split("/")[0] for key in metrics):
        found = {d: named_figures(metrics[key]) for d in DIRECTIONS if (key := f"{relevance}/{d}") in metrics}
        figures = [f for f in next(iter(found.values()), {}) if all(f in each for each in found.values())]
        directions = [*found, *(["mean"] if len(found) == len(DIRECTIONS) else [])]
        names += [f"{relevance}/{d}/{figure}" for d in directions for figure in figures]
        names += [f"{relevance}/{_RSUM}"] if len(found) == len(DIRECTIONS) else []
    return names


def promised_metrics(settings: EvaluateSettings) -> list[str]:
    """Names of the figures that an evaluation with these settings will have, before it has run."""
    names = []
    for relevance in settings.relevance:
        figures = [*_ALWAYS]
        if relevance == "class":
            figures.append("map")
            for field, name in _BY_CUTOFF.items():
                cutoffs = settings.hit_at if field == "hit_at" else settings.precision_at
                figures += [name.format(k) for k in cutoffs]
        names += [f"{relevance}/{d}/{figure}" for d in ("a_to_b", "b_to_a", "mean") for figure in figures]
        names.append(f"{relevance}/{_RSUM}")
    return names


def promised_cutoffs(settings: EvaluateSettings) -> list[str]:
    """Names of the figures by class that such an evaluation has for any cut-off K or place N, with K or N in
    place of the number."""
    figures = [name.format("N" if field == "hit_at" else "K") for field, name in _BY_CUTOFF.items()]
    directions = [*DIRECTIONS, "mean"] if "class" in settings.relevance else []
    return [f"class/{direction}/{figure}" for direction in directions for figure in figures]


def figure_heading(figure: str) -> str:
    """`r_at_1` -> `R@1`: a figure's name as the heading of a column; one that is none stays as it is."""
    if figure in (plain := {"median_rank": "MedR", "map": "mAP"}):
        return plain[figure]
    match = _FIGURE.fullmatch(figure)
    return figure if match is None else f"{_HEADINGS[match[1]]}@{match[2]}{'/hits' if match[3] else ''}"


def cutoffs_of(name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`precision_at` and `hit_at` of an evaluation that has the metric called `name`; both empty for most."""
    match = _FIGURE.fullmatch(name.rpartition("/")[2])
    if match is None or match[1] == "r" or not int(match[2]):
        return (), ()
    return ((), (int(match[2]),)) if match[1] == "hit" else ((int(match[2]),), ())


def better(name: str, new: float, old: float) -> bool:
    """Whether `new` improves on `old` in the metric called `name`: lower for median ranks, else higher."""
    return new < old if name.endswith("/median_rank") else new > old


def named_figures(metrics: RetrievalMetrics) -> dict[str, float]:
    """Every figure of one direction by its name, those that were computed."""
    figures: dict[str, float] = {name: getattr(metrics, name) for name in _ALWAYS}
    if metrics.map is not None:
        figures["map"] = metrics.map
    for field, name in _BY_CUTOFF.items():
        figures |= {name.format(k): value for k, value in getattr(metrics, field).items()}
    return figures


def splits_text(result: EvaluationResult) -> str:
    """What was evaluated, for people: split, gallery split, and what scores were normalised by."""
    splits = result.split if result.gallery is None else f"{result.split} with gallery {result.gallery}"
    return f"{splits} ({result.normalised})" if result.normalised else splits


# -- JSON ------------------------------------------------------------------------------------------


def to_json(result: EvaluationResult) -> dict[str, Any]:
    """The evaluation as JSON values; `from_json` is its inverse."""
    rest = {key: text for key in ("gallery", "note", "normalised") if (text := getattr(result, key))}
    return {
        "split": result.split,
        **rest,  # others stay as they were
        "metrics": {key: _metrics_to_json(m) for key, m in result.metrics.items()},
        "chance": {key: _metrics_to_json(m) for key, m in result.chance.items()},
    }


def from_json(values: Mapping[str, Any]) -> EvaluationResult:
    """The evaluation that `to_json` wrote. Raises KeyError, TypeError or ValueError where it did not."""
    if not all(isinstance(values.get(key, ""), str) for key in ("gallery", "normalised", "note", "split")):
        raise TypeError("the name of a split or a note is no text")
    metrics, by_chance = (
        {key: _metrics_from_json(m) for key, m in values[part].items()} for part in ("metrics", "chance")
    )
    rest = {key: values[key] for key in ("gallery", "note", "normalised") if key in values}
    return EvaluationResult(values["split"], metrics, by_chance, **rest)


def result_to_json(result: StageResult) -> dict[str, Any]:
    """result.json of a stage. Weights that it trained are named relative to its run folder, so it can move;
    those that it was given as they were, relative to the working folder."""
    weights = result.weights
    if weights is not None and result.steps and weights.is_relative_to(result.run_dir):
        weights = weights.relative_to(result.run_dir)
    return {
        "format": FORMAT,
        "name": result.name,
        "weights": None if weights is None else str(weights),
        "weights_sha256": result.weights_sha256,
        "selected_step": result.selected_step,
        "steps": result.steps,
        "evaluations": [to_json(e) for e in result.evaluations],
        "provenance": dict(result.provenance),
        "alarms": [dict(vars(alarm)) for alarm in result.alarms],
    }


def result_from_json(values: Mapping[str, Any], run_dir: Path) -> StageResult:
    """The stage result that `result_to_json` wrote, found in `run_dir`.

    Raises:
        UserError: written by another version, or not a result of this program.
    """
    where = run_dir / RESULT_FILE
    if values.get("format") != FORMAT:
        raise UserError(
            f"{where}: expected a result of format {FORMAT}, found format {values.get('format')!r}.\n"
            "Run the stage again in an empty folder with this version, or read the file with the version "
            "that wrote it."
        )
    try:
        weights = values["weights"]
        return StageResult(
            name=values["name"],
            run_dir=run_dir,
            weights=None if weights is None else run_dir / weights if values["steps"] else Path(weights),
            selected_step=values["selected_step"],
            steps=values["steps"],
            evaluations=tuple(from_json(e) for e in values["evaluations"]),
            provenance=values["provenance"],
            weights_sha256=values.get("weights_sha256"),
            alarms=tuple(alarm_from_json(alarm) for alarm in values.get("alarms", ())),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where}: not a complete stage result ({error!r}). Run the stage again.") from error


def alarm_from_json(values: Mapping[str, Any]) -> Alarm:
    """The alarm whose fields were written. Raises KeyError, TypeError or ValueError where they were not."""
    alarm = Alarm(**values)
    texts, steps = (alarm.name, alarm.message), (alarm.since, alarm.raised, alarm.times, alarm.cleared or 0)
    if not all(isinstance(text, str) for text in texts) or not all(type(step) is int for step in steps):
        raise ValueError(f"not an alarm: {values!r}")
    return alarm


def result_text(result: StageResult) -> str:
    """What result.json holds, with a hash of itself: a figure that changed on the disk is none that was
    measured."""
    values = result_to_json(result)
    return json.dumps(values | {"sha256": _digest(values)}, indent=2) + "\n"


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def read_result(run_dir: Path) -> StageResult:
    """The result of the stage in `run_dir`.

    Raises:
        UserError: no result.json (the stage is not done), or one that cannot be read or was changed.
    """
    where = run_dir / RESULT_FILE
    try:
        values = parse_json(read_plain_file(where, _MOST_BYTES).decode("utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{where} does not exist: the stage is not done, or the folder is not a run."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"{where} cannot be read: {error}. Run the stage again.") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected an object, found {type(values).__name__}. Run the stage again.")
    if values.pop("sha256", None) not in (None, _digest(values)):
        raise UserError(
            f"{where} was changed after it was written: its figures are not those that were measured.\n"
            "Restore the file, or remove it: the stage's own command makes it anew from the checkpoints."
        )
    return result_from_json(values, run_dir)


def _metrics_to_json(metrics: RetrievalMetrics) -> dict[str, Any]:
    values = dict(vars(metrics))
    if metrics.folds == 1:  # results without folds stay as they were
        del values["folds"]
    for name in _BY_CUTOFF:
        values[name] = {str(k): value for k, value in values[name].items()}
        if name in _ADDED and not values[name]:
            del values[name]
    return values


def _metrics_from_json(values: Mapping[str, Any]) -> RetrievalMetrics:
    given = {name: values.get(name, {}) if name in _ADDED else values[name] for name in _BY_CUTOFF}
    by_cutoff = {name: {int(k): v for k, v in each.items()} for name, each in given.items()}
    metrics = RetrievalMetrics(**{**values, **by_cutoff})
    figures = named_figures(metrics).values()
    if not all(isinstance(f, int | float) and not isinstance(f, bool) and math.isfinite(f) for f in figures):
        raise ValueError("a figure is no number")
    return metrics
