"""What one run folder tells without its data and weights: settings, result, alarms, curves, cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swamp_dist.config import StageSettings
from swamp_dist.costs.table import WholeCost, known_inputs, whole_cost, with_known_vocabulary
from swamp_dist.errors import UserError
from swamp_dist.loading import load_dumped
from swamp_dist.monitor.reached import reached
from swamp_dist.plain_files import parse_json, read_plain_file
from swamp_dist.records import StageResult
from swamp_dist.report.curves import read_tags
from swamp_dist.runs.events import number
from swamp_dist.runs.folder import RunDir

_MOST_BYTES = 2**20
"""Of provenance.json."""
_ELSEWHERE = ("seconds",)
"""Facts of provenance that the table of costs has."""


@dataclass(frozen=True)
class RaisedAlarm:
    """An alarm of a run."""

    message: str
    raised: int
    cleared: int | None
    """None where it stands."""


@dataclass(frozen=True)
class RunCost:
    """What a run took; None is not known."""

    steps: int | None
    """Updates done; None of a stage that only evaluates."""
    pairs: int | None
    """Pairs trained on, of all ranks together."""
    seconds: float
    """Of all starts together, from the first to the last sign of each."""
    starts: int
    ranks: int | None
    step: WholeCost | None
    """A step on a rank, as `swamp show --cost` counts it; None of a stage that does not train."""


@dataclass(frozen=True)
class RunFacts:
    """A run as a report shows it."""

    key: str
    folder: RunDir
    settings: StageSettings
    result: StageResult | None
    tags: Mapping[str, Sequence[tuple[float, float]]]
    alarms: tuple[RaisedAlarm, ...]
    provenance: Mapping[str, str]
    """By dotted name, as text."""
    cost: RunCost


def read_run(key: str, folder: RunDir, may_read_data: bool) -> RunFacts:
    """A run, whether it has ended or not.

    Args:
        may_read_data: whether the shard set may be asked for the widths of inputs.

    Raises:
        UserError: no settings in the folder, or a file of it that cannot be read.
    """
    if not folder.stage_yaml.is_file():
        raise UserError(f"{folder.path}: there is no {folder.stage_yaml.name} in it")
    settings, result = load_dumped(folder.stage_yaml, StageSettings), folder.read_result()
    events = folder.read_events()
    tags = read_tags(folder.metrics_jsonl)
    return RunFacts(
        key, folder, settings, result, tags, _alarms(result, events), _provenance(folder, result),
        _cost(folder, settings, result, tags, may_read_data),
    )  # fmt: skip


def _alarms(result: StageResult | None, events: Sequence[Mapping[str, object]]) -> tuple[RaisedAlarm, ...]:
    """Those of the result; of a run that has not ended what its events say, the newest of each name."""
    if result is not None:
        return tuple(RaisedAlarm(each.message, each.raised, each.cleared) for each in result.alarms)
    found: dict[str, RaisedAlarm] = {}
    for event in events:
        if event.get("event") in ("alarm", "alarm_cleared"):
            raised, cleared = number(event, "raised"), number(event, "cleared")
            found[str(event.get("name"))] = RaisedAlarm(
                str(event.get("message")), int(raised or 0), None if cleared is None else int(cleared)
            )
    return tuple(found.values())


def _provenance(folder: RunDir, result: StageResult | None) -> dict[str, str]:
    facts: dict[str, Any] = {}
    try:
        submitted = parse_json(read_plain_file(folder.provenance_json, _MOST_BYTES))
    except (OSError, ValueError):  # not submitted, or not readable: then the result alone tells
        submitted = {}
    facts |= submitted if isinstance(submitted, dict) else {}
    if result is not None:
        facts |= {**result.provenance, "weights_sha256": result.weights_sha256}
        if result.selected_step is not None:
            facts["selected_step"] = result.selected_step
    return {name: text for name, text in _flat(facts, "") if name and name not in _ELSEWHERE}


def _flat(value: object, name: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        inner = [_flat(member, f"{name}.{key}" if name else str(key)) for key, member in value.items()]
        return [fact for facts in inner for fact in facts]
    return [(name, value if isinstance(value, str) else json.dumps(value, default=str))]


def _cost(
    folder: RunDir,
    settings: StageSettings,
    result: StageResult | None,
    tags: Mapping[str, Sequence[tuple[float, float]]],
    may_read_data: bool,
) -> RunCost:
    at, train = reached(folder), settings.train
    ranks = None if result is None else result.provenance.get("world_size")
    known = ranks if isinstance(ranks, int) and not isinstance(ranks, bool) and ranks > 0 else None
    if train is None:
        return RunCost(None, None, at.seconds, at.starts, known, None)
    logged = [points[-1][0] for tag, points in tags.items() if tag == "loss/total"]
    steps = at.steps if at.steps is not None else int(logged[0]) if logged else 0
    pairs = steps * settings.data.entries * settings.data.pairs_per_entry
    return RunCost(
        steps, pairs, at.seconds, at.starts, known, _step_cost(settings, known or 1, may_read_data)
    )


def _step_cost(settings: StageSettings, ranks: int, may_read_data: bool) -> WholeCost | None:
    """Without the shard set, encoders count only where their settings tell the width of their input."""
    dim, model = settings.model.embedding_dim, settings.model
    if dim is None:
        return None
    try:
        if may_read_data:
            settings = with_known_vocabulary(settings)
            return whole_cost(settings, dim, known_inputs(settings), ranks)
        a, b = model.a.configured_input(), model.b.configured_input()
        known = None if a is None or b is None or model.a.libraries() or model.b.libraries() else (a, b)
        return whole_cost(settings, dim, known, ranks)
    except (UserError, ValueError):  # settings of an earlier version, which cannot be counted today
        return None
