"""What a run says about itself while it runs, read without touching it.

A live run writes its lines while they are read, a killed one leaves half a line and a full disk a hole:
what is not a whole JSON object is left out, never an error.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.plain_files import open_plain_file, parse_json, read_plain_tail
from swamp_dist.runs.processes import ProcessMark, mark_from

_TAIL_BYTES = 2**17
_MOST_BYTES = 2**26
"""Of events.jsonl: some 300,000 events."""
_PACE_ROWS = 20
_LARGEST = 1e18
OPENINGS = ("starting", "started")
"""Events that open an attempt: of the process that starts the ranks, and of the ranks."""
ENDINGS = ("done", "preempted", "requeued", "failed")

Record = Mapping[str, object]


def reason_line(reason: object) -> str:
    """Why something ended, fix included, as one line: all of its lines but those of a log that it quotes."""
    lines = [line.strip() for line in str(reason or "").splitlines()]
    told = [line for line in lines if line and not line.startswith("| ")]
    return " ".join(line if line[-1] in ".:;,!?" or line is told[-1] else f"{line}." for line in told)


@dataclass(frozen=True)
class Attempt:
    """One start of a run, up to its end or the next start."""

    number: int
    """Counted from 1."""
    events: tuple[Record, ...]
    """From the opening event on."""

    @property
    def began(self) -> float:
        """Seconds since 1970."""
        return number(self.events[0], "time") or 0.0

    @property
    def ending(self) -> Record | None:
        """The event that ended it; None where it still runs, or ended without a word."""
        return next((e for e in reversed(self.events) if e["event"] in ENDINGS), None)

    @property
    def marks(self) -> list[ProcessMark]:
        """The processes it named: the one that started the ranks first, then the ranks."""
        named = [mark_from(e) for e in self.events if e["event"] in OPENINGS]
        ranks = [r for e in self.events for r in _list(e.get("ranks")) if isinstance(r, Mapping)]
        return list(dict.fromkeys(m for m in (*named, *map(mark_from, ranks)) if m))

    def last(self, event: str) -> Record | None:
        """Its newest event of this name."""
        return next((e for e in reversed(self.events) if e["event"] == event), None)


def attempts(events: Sequence[Record]) -> list[Attempt]:
    """The starts of a run, oldest first. `started` belongs to the `starting` before it, if there is one."""
    starts: list[list[Record]] = []
    for event in events:
        names = {e["event"] for e in starts[-1]} if starts else set()
        joins = event["event"] == "started" and "starting" in names and not names & {"started", *ENDINGS}
        if event["event"] in OPENINGS and not joins:
            starts.append([])
        if starts:
            starts[-1].append(event)
    return [Attempt(i, tuple(group)) for i, group in enumerate(starts, 1)]


def standing_alarms(events: Sequence[Record]) -> list[str]:
    """What the alarms say that were raised and not cleared, by the newest training of a run."""
    standing: dict[str, str] = {}
    for event in events:
        if event["event"] == "training":  # it goes on from a commit, whose alarms it names
            known = [alarm for alarm in _list(event.get("alarms")) if isinstance(alarm, Mapping)]
            standing = {str(alarm.get("name")): str(alarm.get("message")) for alarm in known}
        elif event["event"] == "alarm":
            standing[str(event.get("name"))] = str(event.get("message"))
        elif event["event"] == "alarm_cleared":
            standing.pop(str(event.get("name")), None)
    return list(standing.values())


def stopped_by_alarm(events: Sequence[Record]) -> str:
    """Why the newest start was stopped by its alarms, one line; empty where it was not. The same settings
    would stop another start too."""
    tries = attempts(events)
    ending = tries[-1].ending if tries else None
    return reason_line(ending.get("reason")) if ending is not None and ending.get("by_alarm") else ""


def read_events(path: Path) -> list[dict[str, object]]:
    """All whole events of events.jsonl, oldest first; [] where there is no file. Of a huge one the last."""
    try:
        content = read_plain_tail(path, _MOST_BYTES)
    except OSError:
        return []
    if len(content) == _MOST_BYTES:
        content = content.partition(b"\n")[2]
    return [record for record in _records(content) if isinstance(record.get("event"), str)]


def last_rows(metrics: Path) -> list[dict[str, object]]:
    """The whole rows in the last 128 KiB of metrics.jsonl, oldest first."""
    try:
        content = read_plain_tail(metrics, _TAIL_BYTES)
    except OSError:
        return []
    if len(content) == _TAIL_BYTES:
        content = content.partition(b"\n")[2]
    return [row for row in _records(content) if isinstance(row.get("step"), int)]


def each_row(metrics: Path) -> Iterator[dict[str, object]]:
    """The whole rows of metrics.jsonl, oldest first; none where there is no such file."""
    try:
        with open_plain_file(metrics) as file:
            for line in file:
                yield from (row for row in _records(line) if isinstance(row.get("step"), int))
    except OSError:
        return


def of_job(events: Sequence[Record], job: str) -> Sequence[Record]:
    """The events from the newest submission of a job on: SLURM uses its numbers again.

    A submission that was found and noted later (`found`) opens nothing: the job may have started before.
    All events where its submission was not noted.
    """
    opened = (
        i
        for i, e in enumerate(events)
        if e.get("event") == "submitted" and e.get("job") == job and not e.get("found")
    )
    return events[max(opened, default=0) :]


def starts_from(events: Sequence[Record], job: str, step: int) -> int:
    """How often `job` was started with `step` as its newest commit.

    Starts that only waited for the one before have tried nothing and do not count.
    """
    own = [e for e in of_job(events, job) if e.get("job") == job]
    waited = {e.get("restart") for e in own if e.get("event") == "waited"}
    launched = (e for e in own if e.get("event") == "launched" and e.get("step") == step)
    return sum("restart" not in e or e["restart"] not in waited for e in launched)


def later_start(events: Sequence[Record], job: str, restart: int) -> bool:
    """Whether `job` was started again after its start number `restart`, counted from 0."""
    launched = (e for e in of_job(events, job) if e.get("event") == "launched" and e.get("job") == job)
    return any((number(e, "restart") or 0) > restart for e in launched)


def job_id(events: Sequence[Record]) -> str:
    """The scheduler's id of the newest submission; empty where there is none."""
    # not of `started`: `swamp run` inside an interactive allocation is not that allocation
    ids = [str(e["job"]) for e in events if e["event"] == "submitted" and e.get("job")]
    return ids[-1] if ids else ""


def seconds_per_step(attempt: Attempt | None, rows: Sequence[Record], written: float | None) -> float | None:
    """Seconds a step takes.

    Of an attempt that has trained: the time from its first step to the last row (`written`: when that was,
    seconds since 1970) over the steps since it took up, so that validation and saving count and neither
    earlier attempts nor the pause between them do. Else the median of what the last rows measured.
    """
    training = attempt.last("training") if attempt else None
    first = number(training, "step") if training else None
    if training and first is not None and written is not None and rows:
        steps = (number(rows[-1], "step") or 0.0) - first
        elapsed = written - (number(training, "time") or written)
        if steps > 0 and elapsed > 0:
            return elapsed / steps
    measured = [row_seconds(row) for row in rows]
    known = [seconds for seconds in measured if seconds is not None][-_PACE_ROWS:]
    return statistics.median(known) if known else None


def row_seconds(row: Record) -> float | None:
    """Seconds of the step of a row of metrics.jsonl, waiting for data included; None where it has none."""
    step, data = number(row, "perf/step_seconds"), number(row, "perf/data_seconds")
    return None if step is None else step + (data or 0.0)


def number(record: Record, name: str) -> float | None:
    """A figure of a record; None where it is missing, no number, or larger than any step or time is."""
    value = record.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        figure = float(value)
    except OverflowError:  # JSON writes integers of any length
        return None
    return figure if abs(figure) < _LARGEST else None  # neither undefined nor infinite


def _records(content: bytes) -> Iterator[dict[str, object]]:
    for line in content.split(b"\n")[:-1]:  # what follows the last line end is still being written
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()
