"""Every run in some folders, grouped as they belong together, and how each stands."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swamp_dist.launch import scheduler
from swamp_dist.launch.graph import read_graph
from swamp_dist.launch.processes import Life
from swamp_dist.launch.rundir import RunDir
from swamp_dist.launch.status import STALLED_AFTER, Asked, RunStatus, job_id, look, owner_life
from swamp_dist.records import UserError

_DEPTH = 5


@dataclass(frozen=True)
class Group:
    """Runs that belong together: a pipeline, a tree of runs, or one run."""

    path: Path
    pipeline: bool
    driver: Life | None
    """Of the process that drives the pipeline; None where nobody does."""
    runs: tuple[RunStatus, ...]


@dataclass(frozen=True)
class Place:
    """A run folder: its name in its group, and the stages it waits for."""

    key: str
    run_dir: RunDir
    after: tuple[str, ...] = ()


def survey(paths: Sequence[Path], stalled_after: float = STALLED_AFTER) -> tuple[list[Group], str]:
    """Every run in run folders, pipeline folders or trees of them; and why the scheduler could not be asked.

    The second value is empty where it was asked, or where no unfinished run was submitted.

    Raises:
        UserError: a path does not exist or holds no run.
    """
    found = [group for root in dict.fromkeys(paths) for group in places(root)]
    asked = _ask([place for _, _, inside in found for place in inside])
    groups = []
    for path, pipeline, inside in found:
        runs = [
            look(
                p.run_dir,
                key=p.key,
                after=p.after,
                asked=asked.get(p.run_dir.path),
                stalled_after=stalled_after,
            )
            for p in inside
        ]
        driver = owner_life(path) if pipeline else None
        groups.append(Group(path, pipeline, driver, tuple(_blocked(runs))))
    errors = [each.error for each in asked.values() if each.error]
    return groups, errors[0] if errors else ""


def status_of(folder: Path) -> RunStatus:
    """How the run in one folder stands, the scheduler asked where it was submitted."""
    place = Place(str(folder), RunDir(folder))
    return look(place.run_dir, key=place.key, asked=_ask([place]).get(folder))


def is_run(folder: Path) -> bool:
    """Whether a folder is the run folder of a stage."""
    names = RunDir(folder)
    return any(p.is_file() for p in (names.stage_yaml, names.result_json, names.events_jsonl))


def places(root: Path) -> list[tuple[Path, bool, list[Place]]]:
    """Groups of run folders below `root`: folder, whether it is a pipeline's, its runs.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not root.is_dir():
        raise UserError(
            f"{root} does not exist or is no folder: expected a run folder, a pipeline's folder or a tree of "
            "runs.\nFix: correct the path, or start a run first: swamp run JOB"
        )
    if is_run(root):
        return [(root, False, [Place(str(root), RunDir(root))])]
    walked = list(_walk(root, 0))
    groups = [(folder, True, _stages(folder)) for folder, pipeline in walked if pipeline]
    loose = [
        Place(str(folder.relative_to(root)), RunDir(folder)) for folder, pipeline in walked if not pipeline
    ]
    if not walked:
        raise UserError(f"no run in {root}: expected folders with a stage.yaml.\nStart one: swamp run JOB")
    return [*groups, *([(root, False, loose)] if loose else [])]


def _ask(found: Sequence[Place]) -> dict[Path, Asked]:
    """What the scheduler says of every unfinished run that was submitted; one question for all of them."""
    ids = {p.run_dir.path: job_id(p.run_dir.read_events()) for p in found if not p.run_dir.done}
    ids = {path: each for path, each in ids.items() if each}
    if not ids:
        return {}
    try:
        known = scheduler.jobs(list(ids.values()))
    except scheduler.SchedulerError as error:
        return {path: Asked(error=str(error)) for path in ids}
    return {path: Asked(known.get(each)) for path, each in ids.items()}


def _walk(folder: Path, depth: int) -> Iterator[tuple[Path, bool]]:
    """Run folders and pipeline folders, the flag telling which; nothing inside them, no links."""
    if read_graph(folder) is not None:
        yield folder, True
    elif is_run(folder):
        yield folder, False
    elif depth < _DEPTH:
        try:
            with os.scandir(folder) as entries:
                inner = sorted(e.path for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:  # gone meanwhile, or not ours to read
            return
        for path in inner:
            yield from _walk(Path(path), depth + 1)


def _stages(folder: Path) -> list[Place]:
    return [Place(node.key, RunDir(folder / node.key), node.after) for node in read_graph(folder) or ()]


def _blocked(runs: Sequence[RunStatus]) -> Iterator[RunStatus]:
    """A waiting stage is blocked where one before it has ended without being done, or is blocked itself."""
    ended: dict[str, str] = {}
    for run in runs:
        blocker = next((key for key in run.after if key in ended), None)
        if run.state == "waiting" and blocker is not None:
            run = replace(run, state="blocked", reason=f"waits for {blocker}, which is {ended[blocker]}")
        if run.state in ("failed", "cancelled", "preempted", "blocked"):
            ended[run.key] = run.state
        yield run
