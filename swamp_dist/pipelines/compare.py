"""Finished and unfinished runs side by side: what was set otherwise, figures, curves. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.config import StageSettings, TableRow, TableSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate.choose import chosen_metrics
from swamp_dist.evaluate.results import metric_names, splits_text
from swamp_dist.evaluate.table import ResultTable, build_table
from swamp_dist.loading import describe, load_dumped, value_text
from swamp_dist.monitor.overview import common_folder
from swamp_dist.monitor.survey import run_entries
from swamp_dist.records import StageResult
from swamp_dist.runs.events import each_row, number
from swamp_dist.runs.folder import RunDir
from swamp_dist.settings import is_below, same_result_keys

_SEED = "seed"
_OF_A_RUN = (_SEED, "name")
"""Settings in which runs of one side may differ."""
_USUAL = ("r_at_1", "map")
_LOSS = "loss/total"


@dataclass(frozen=True)
class Side:
    """Runs that differ in nothing that matters but their seed."""

    label: str
    runs: tuple[Path, ...]
    differing: Mapping[str, str]
    """Settings in which the sides differ, as this one has them."""
    curves: Mapping[str, Sequence[tuple[int, float]]]
    """(step, value) of the first run by tag: the loss, and the figure that it validates by."""


@dataclass(frozen=True)
class RunComparison:
    """All that is shown."""

    sides: tuple[Side, ...]
    table: ResultTable | None
    """None where no run was evaluated."""
    notes: tuple[str, ...]


def compare_runs(folders: Sequence[Path], metrics: Sequence[str] = ()) -> RunComparison:
    """Runs in these folders, those of equal settings but for the seed as one side; where every folder is a
    run and all of them would be one side, each is a side of its own.

    Args:
        metrics: as `chosen_metrics` takes them; none chooses R@1 and mAP of both directions.

    Raises:
        UserError: fewer than two runs, or a metric that none of them has.
    """
    entries = [entry for folder in folders for _, _, inside in run_entries(folder) for entry in inside]
    found = list(dict.fromkeys(entry.run_dir.path for entry in entries))
    waiting = [run for run in found if run not in folders and not RunDir(run).stage_yaml.is_file()]
    runs = [run for run in found if run not in waiting]
    if len(runs) < 2:
        raise UserError(
            f"swamp compare: expected at least two runs, found {', '.join(map(str, runs)) or 'none begun'}.\n"
            "Fix: name several run folders, or a folder of runs."
        )
    values = {run: _values(run) for run in runs}
    sides: dict[str, list[Path]] = {}
    for run in runs:
        kept = json.dumps({k: v for k, v in values[run].items() if k not in _OF_A_RUN}, sort_keys=True)
        while any(values[other][_SEED] == values[run][_SEED] for other in sides.get(kept, ())):
            kept += "again"  # the same seed once more is a side of its own
        sides.setdefault(kept, []).append(run)
    groups = [tuple(group) for group in sides.values()]
    alone = len(groups) == 1 and set(runs) <= set(folders)  # named one by one to be told apart
    groups = [(run,) for run in runs] if alone else groups
    differing = _differing([values[group[0]] for group in groups])
    labels = _labels(groups)
    compared = tuple(
        Side(label, group, {key: values[group[0]].get(key, "-") for key in differing}, _curves(group[0]))
        for label, group in zip(labels, groups, strict=True)
    )
    # Single runs that differ in their seed alone are compared as if they had the same one.
    table, notes = _table(compared, {run: {_SEED: ""} for run in runs} if alone else values, metrics)
    if alone:
        seeds = ", ".join(f"{side.label}: {values[side.runs[0]][_SEED]}" for side in compared)
        notes = [*notes, f"settings are equal, seeds are not: {seeds}"]
    if waiting:
        notes = [*notes, f"left out, as they have not begun: {', '.join(map(str, waiting))}"]
    return RunComparison(compared, table, tuple(notes))


def _values(run: Path) -> dict[str, str]:
    """Settings that a result depends on, by dotted key."""
    path = RunDir(run).stage_yaml
    if not path.is_file():
        raise UserError(f"{run}: there is no {path.name} in it, so its settings are not known.")
    settings = load_dumped(path, StageSettings)
    same = set(same_result_keys(settings))
    cell = f"seed-{settings.seed}"  # a pipeline's folder of this seed, in paths of what the run starts from
    told = {s.key: s.value for s in describe(settings) if not is_below(s.key, same)}
    return {key: value_text(value).replace(cell, "seed-*") for key, value in told.items()}


def _differing(values: Sequence[Mapping[str, str]]) -> list[str]:
    keys = dict.fromkeys(key for each in values for key in each)
    return [k for k in keys if k not in _OF_A_RUN and len({each.get(k) for each in values}) > 1]


def _labels(groups: Sequence[tuple[Path, ...]]) -> list[str]:
    """Of each side the path of its runs from where they part, `*` for what differs among them."""
    paths = [_joined(group) for group in groups]
    shared = common_folder(paths)
    short = [path.removeprefix(shared) for path in paths]
    return short if len(set(short)) == len(short) else [str(group[0]) for group in groups]


def _joined(group: Sequence[Path]) -> str:
    parts = [path.parts for path in group]
    if len({len(each) for each in parts}) > 1:
        return str(group[0])
    return "/".join(names[0] if len(set(names)) == 1 else "*" for names in zip(*parts, strict=True))


def _table(
    sides: Sequence[Side], values: Mapping[Path, Mapping[str, str]], metrics: Sequence[str]
) -> tuple[ResultTable | None, list[str]]:
    """Figures of each side over its seeds, and its differences to the first side, seed by seed."""
    by_seed = {side.label: {values[run][_SEED]: _result(run) for run in side.runs} for side in sides}
    seeds = list(dict.fromkeys(seed for own in by_seed.values() for seed in own))
    results = {label: [own.get(seed) for seed in seeds] for label, own in by_seed.items()}
    missing = {label: sum(each is None for each in own.values()) for label, own in by_seed.items()}
    notes = [f"{at}: {n} of {len(by_seed[at])} runs are not evaluated" for at, n in missing.items() if n]
    found = dict.fromkeys(
        name
        for own in results.values()
        for each in own
        if each is not None
        for name in metric_names(each.evaluations[0].metrics)
    )
    if not found:
        return None, notes
    usual = tuple(n for n in found if n.split("/")[2] in _USUAL and n.split("/")[1] != "mean")
    chosen = chosen_metrics(metrics, tuple(found), "these runs") if metrics else usual
    rows = tuple(TableRow(label=side.label, stage=side.label) for side in sides)
    settings = TableSettings(metrics=chosen, rows=rows, baseline=sides[0].label)
    done = [each for own in results.values() for each in own if each is not None]
    splits = {splits_text(each.evaluations[0]) for each in done}
    if len(splits) > 1:
        notes.append(f"NOT COMPARABLE: they were evaluated on different splits: {', '.join(sorted(splits))}")
    if len(seeds) == 1:
        notes.append("one run each: a difference of two runs has no interval")
    return build_table(settings, results), notes


def _result(run: Path) -> StageResult | None:
    result = RunDir(run).read_result()
    return result if result is not None and result.evaluations else None


def followed(settings: StageSettings) -> dict[str, tuple[str, ...]]:
    """The loss and what the run validates by, with the tags whose mean it is."""
    found: dict[str, tuple[str, ...]] = {_LOSS: (_LOSS,)}
    if settings.train is not None and settings.train.validate_on is not None:
        split, metric = settings.train.validate_on.split, settings.train.validate_on.metric
        relevance, direction, figure = metric.split("/")
        ways = ("a_to_b", "b_to_a") if direction == "mean" else (direction,)
        found[f"{split} {metric}"] = tuple(f"retrieval/{split}/{relevance}/{w}/{figure}" for w in ways)
    return found


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The loss and what the run validates by, from all rows of metrics.jsonl."""
    wanted = followed(load_dumped(RunDir(run).stage_yaml, StageSettings))
    curves: dict[str, list[tuple[int, float]]] = {name: [] for name in wanted}
    for row in each_row(RunDir(run).metrics_jsonl):
        for name, tags in wanted.items():
            values = [value for tag in tags if (value := number(row, tag)) is not None]
            if len(values) == len(tags):
                curves[name].append((int(number(row, "step") or 0), sum(values) / len(values)))
    return {name: curve for name, curve in curves.items() if curve}
