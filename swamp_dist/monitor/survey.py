"""Every run in some folders, grouped as they belong together, and how each stands."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swamp_dist.backends.jobs import works_on
from swamp_dist.backends.protocols import JobBackend, SchedulerError
from swamp_dist.backends.registry import scheduler_of
from swamp_dist.errors import UserError
from swamp_dist.monitor.status import STALLED_AFTER, RunStatus, SchedulerAnswer, holder_life, look, unreadable
from swamp_dist.runs.events import job_id
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.graph import read_graph
from swamp_dist.runs.processes import Life

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
class RunEntry:
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
    found = [group for root in dict.fromkeys(paths) for group in run_entries(root)]
    asked = _ask([entry for _, _, inside in found for entry in inside])
    groups = []
    for path, pipeline, inside in found:
        runs = [_look(entry, asked.get(entry.run_dir.path), stalled_after) for entry in inside]
        driver = holder_life(path) if pipeline else None
        groups.append(Group(path, pipeline, driver, tuple(_blocked(runs))))
    errors = [each.error for each in asked.values() if each.error]
    return groups, errors[0] if errors else ""


def _look(entry: RunEntry, asked: SchedulerAnswer | None, stalled_after: float) -> RunStatus:
    """How a run stands. Whatever its folder holds, the other runs are shown: what is met there becomes its
    status."""
    try:
        return look(entry.run_dir, key=entry.key, after=entry.after, asked=asked, stalled_after=stalled_after)
    except Exception as error:  # not ours to foresee: the folder may be anybody's
        return unreadable(entry.run_dir, entry.key, entry.after, error)


def status_of(folder: Path) -> RunStatus:
    """How the run in one folder stands, the scheduler asked where it was submitted."""
    entry = RunEntry(str(folder), RunDir(folder))
    return look(entry.run_dir, key=entry.key, asked=_ask([entry]).get(folder))


def is_run(folder: Path) -> bool:
    """Whether a folder is the run folder of a stage."""
    names = RunDir(folder)
    return any(p.is_file() for p in (names.stage_yaml, names.result_json, names.events_jsonl))


def run_entries(root: Path) -> list[tuple[Path, bool, list[RunEntry]]]:
    """Groups of run folders below `root`: folder, whether it is a pipeline's, its runs.

    Raises:
        UserError: there is no such folder, or no run in it.
    """
    if not root.is_dir():
        raise UserError(no_runs(root, "a run folder, a pipeline's folder or a tree of runs"))
    if is_run(root):
        return [(root, False, [RunEntry(str(root), RunDir(root))])]
    walked = list(_walk(root, 0))
    groups = [(folder, True, _stages(folder)) for folder, pipeline in walked if pipeline]
    loose = [
        RunEntry(str(folder.relative_to(root)), RunDir(folder)) for folder, pipeline in walked if not pipeline
    ]
    if not walked:
        raise UserError(f"no run in {root}: expected folders with a stage.yaml.\nStart one: swamp run JOB")
    return [*groups, *([(root, False, loose)] if loose else [])]


def no_runs(root: Path, expected: str) -> str:
    """What a user is told of a path that is no folder of runs.

    Args:
        expected: what should have been named there.
    """
    said = f"{root} {'is a file' if root.exists() else 'does not exist'}: expected {expected}.\nFix: "
    run, at, _ = root.name.rpartition("@")
    if at and is_run(root.with_name(run)):
        return f"{said}name the run, {root.with_name(run)}; or evaluate that step first: swamp eval {root}"
    if root.suffix in (".yaml", ".yml"):
        return f"{said}name the folder of its runs, such as runs/NAME"
    near = [] if root.exists() else difflib.get_close_matches(root.name, _folders_in(root.parent), n=1)
    if near:
        return f"{said}did you mean {root.with_name(near[0])}?"
    return f"{said}correct the path (what there is: swamp status), or start a run: swamp run JOB"


def _folders_in(folder: Path) -> list[str]:
    try:
        return [each.name for each in folder.iterdir() if each.is_dir()]
    except OSError:
        return []


def _ask(found: Sequence[RunEntry]) -> dict[Path, SchedulerAnswer]:
    """What the schedulers say of every unfinished run that was submitted; one question to each."""
    submitted: dict[str, tuple[JobBackend, dict[Path, str]]] = {}
    for entry in found:
        try:
            job = "" if entry.run_dir.done else job_id(entry.run_dir.read_events())
            backend = scheduler_of(entry.run_dir) if job else None
        except OSError:  # an unreadable folder, which `look` tells
            continue
        if backend is not None:
            submitted.setdefault(backend.title, (backend, {}))[1][entry.run_dir.path] = job
    answers: dict[Path, SchedulerAnswer] = {}
    for backend, ids in submitted.values():
        answers |= _ask_one(backend, ids)
    return answers


def _ask_one(backend: JobBackend, ids: Mapping[Path, str]) -> dict[Path, SchedulerAnswer]:
    try:
        known = backend.jobs(list(ids.values()))
    except SchedulerError as error:
        return {path: SchedulerAnswer(error=str(error), scheduler=backend.title) for path in ids}
    return {
        path: SchedulerAnswer(
            known[each] if works_on(RunDir(path), known.get(each)) else None, scheduler=backend.title
        )
        for path, each in ids.items()
    }


def _walk(folder: Path, depth: int) -> Iterator[tuple[Path, bool]]:
    """Run folders and pipeline folders, the flag telling which; nothing inside them, no links."""
    if read_graph(folder) is not None:
        yield folder, True
    elif _may_be_run(folder):
        yield folder, False
    elif depth < _DEPTH:
        try:
            with os.scandir(folder) as entries:
                inner = sorted(e.path for e in entries if e.is_dir(follow_symlinks=False))
        except OSError:  # gone meanwhile, or not ours to read
            return
        for path in inner:
            yield from _walk(Path(path), depth + 1)


def _may_be_run(folder: Path) -> bool:
    try:
        return is_run(folder)
    except OSError:  # it may not be looked into: shown as such
        return True


def _stages(folder: Path) -> list[RunEntry]:
    return [RunEntry(node.key, RunDir(folder / node.key), node.after) for node in read_graph(folder) or ()]


def _blocked(runs: Sequence[RunStatus]) -> Iterator[RunStatus]:
    """A waiting stage is blocked where one before it has ended without being done, or is blocked itself.

    So is one whose job the scheduler took out of the queue for that reason.
    """
    ended: dict[str, str] = {}
    for run in runs:
        blocker = next((key for key in run.after if key in ended), None)
        never_began = run.state == "failed" and bool(run.job_id) and run.world_size is None
        if blocker is not None and (run.state == "waiting" or never_began):
            run = replace(run, state="blocked", reason=f"waits for {blocker}, which is {ended[blocker]}")
        if run.state in ("failed", "cancelled", "preempted", "blocked", "stuck"):
            ended[run.key] = run.state
        yield run
