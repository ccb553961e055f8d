"""Stops runs: asks them to save, or kills them; and only what is proven to be that run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.backends.jobs import works_on
from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.registry import scheduler_of
from swamp_dist.errors import UserError
from swamp_dist.monitor.survey import is_run, run_entries
from swamp_dist.records import JobState
from swamp_dist.runs.events import attempts, job_id, number
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.graph import read_builds, read_graph
from swamp_dist.runs.processes import ProcessMark, life, mark_from, send

_DRIVER_SECONDS = 20.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Cancelled:
    """What became of one run that was to be stopped."""

    run_dir: Path
    said: str
    """One line: what was done, or why nothing was."""
    stopped: bool
    """False where something may still work on it that could not be reached."""


def cancel(folder: Path, now: bool, wait: float) -> list[Cancelled]:
    """Stop a run, or a pipeline with its stages, and say what was done.

    Args:
        folder: run folder of a stage or of a pipeline.
        now: SIGKILL at once; what was not committed is lost. Else SIGTERM: the run saves and ends.
        wait: seconds to wait for local processes to end.

    Raises:
        UserError: it is no such folder, or a stage of a pipeline that would start it again.
    """
    if read_graph(folder) is not None:
        return _cancel_pipeline(folder, now, wait)
    if not folder.is_dir() or not is_run(folder):
        raise UserError(
            f"{folder} is neither a run folder nor a pipeline's: nothing was stopped.\n"
            "Fix: name one folder that `swamp status` lists."
        )
    _refuse_inside_a_live_pipeline(folder)
    return [_cancel_run(RunDir(folder), now, wait)]


def _cancel_pipeline(folder: Path, now: bool, wait: float) -> list[Cancelled]:
    """Driver first, so that nothing is started again."""
    driver = mark_from(RunDir(folder).read_holder())
    done = []
    if driver is not None:
        done.append(_cancel_driver(folder, driver))
        if not done[0].stopped:
            return done
    stages = [entry.run_dir for _, _, inside in run_entries(folder) for entry in inside]
    live = [stage for stage in stages if not stage.done and (_targets(stage) or job_id(stage.read_events()))]
    done += [_cancel_build(folder, job, now) for job in read_builds(folder)]
    # the driver's end asks its stages to save by itself; asking twice does no harm
    done += [_cancel_run(stage, now, wait) for stage in live]
    return done or [Cancelled(folder, "nothing works on this pipeline", True)]


def _cancel_driver(folder: Path, driver: ProcessMark) -> Cancelled:
    if life(driver) == "dead":
        return Cancelled(folder, f"its driver (process {driver.pid}) had ended already", True)
    if not send(driver, signal.SIGTERM):
        return Cancelled(folder, _unreachable(driver, "the pipeline's driver"), False)
    if _wait([driver], _DRIVER_SECONDS):
        return Cancelled(folder, f"its driver (process {driver.pid}) was ended", True)
    send(driver, signal.SIGKILL)
    _wait([driver], _DRIVER_SECONDS)
    return Cancelled(folder, f"its driver (process {driver.pid}) did not end and was killed", True)


def _cancel_run(run_dir: RunDir, now: bool, wait: float) -> Cancelled:
    if run_dir.done:
        return Cancelled(run_dir.path, "is done already: nothing to stop", True)
    job = job_id(run_dir.read_events())
    cancelled = _cancel_job(run_dir, job, now) if job else None
    if cancelled is not None:
        return cancelled
    targets = _targets(run_dir)
    reachable = [mark for mark in targets if life(mark) in ("alive", "suspended")]
    if not reachable:
        others = [m for m in targets if life(m) in ("elsewhere", "unknown")]
        if others:
            return Cancelled(run_dir.path, _unreachable(others[0], "the run"), False)
        return Cancelled(run_dir.path, "nothing works on this run", True)
    run_dir.append_event("cancelled", now=now, by=os.getpid())
    # The process that started the ranks passes SIGTERM on to all of them; killed, it could not.
    chosen = [m for m in reachable if send(m, signal.SIGKILL)] if now else _ask_to_save(reachable)
    ended = _wait(reachable, wait)
    return Cancelled(run_dir.path, _describe_cancel(run_dir, chosen, now, ended, wait), True)


def _ask_to_save(reachable: Sequence[ProcessMark]) -> list[ProcessMark]:
    """SIGTERM to the first that takes it; a suspended one is woken so that it can save."""
    for mark in reachable:
        if send(mark, signal.SIGTERM):
            for each in reachable:
                if life(each) == "suspended":
                    send(each, signal.SIGCONT)
            return [mark]
    return []


def _describe_cancel(
    run_dir: RunDir, chosen: Sequence[ProcessMark], now: bool, ended: bool, wait: float
) -> str:
    who = ", ".join(str(mark.pid) for mark in chosen)
    if now:
        return f"killed (processes {who}); what was committed stays" if who else "ended by itself meanwhile"
    if ended:
        last = run_dir.read_events()[-1]
        step = number(last, "step") if last["event"] == "preempted" else None
        saved = "ended" if step is None else f"saved at step {step:.0f} and ended"
        return f"asked to stop (process {who}); it has {saved}"
    return (
        f"asked to stop (process {who}); still saving after {wait:.0f} s. Watch it with `swamp status`, or "
        "end it with --now"
    )


def _cancel_job(run_dir: RunDir, job: str, now: bool) -> Cancelled | None:
    """None where the job has ended: whatever works on the run now was started otherwise."""
    try:
        scheduler = scheduler_of(run_dir)
        known = scheduler.jobs([job]).get(job)
        if known is None or known.phase == "ended" or not works_on(run_dir, known):
            return None
        scheduler.cancel(job, now)
        run_dir.append_event("cancelled", now=now, job=job)  # not before: a refused job goes on
    except SchedulerError as error:
        return Cancelled(run_dir.path, f"job {job} could not be cancelled: {error}", False)
    how = (
        "killed"
        if now
        else "taken out of the queue"
        if known.phase == "waiting"
        else "asked to save and stop"
    )
    return Cancelled(run_dir.path, f"job {job} was {how} and is not requeued", True)


def _cancel_build(folder: Path, job: str, now: bool) -> Cancelled:
    try:
        scheduler = scheduler_of(RunDir(folder))
        known = scheduler.jobs([job]).get(job)
        if known is None or known.phase == "ended" or not _builds(known):
            return Cancelled(folder, f"its shard job {job} had ended already", True)
        scheduler.cancel(job, now)
    except SchedulerError as error:
        return Cancelled(folder, f"its shard job {job} could not be cancelled: {error}", False)
    return Cancelled(folder, f"its shard job {job} was cancelled", True)


def _builds(known: JobState) -> bool:
    """Whether a job is the one that was noted beside the shard set that it names."""
    if known.owner is None:
        return True
    noted = RunDir(Path(known.owner)).read_events() if known.owner else []
    return any(e["event"] == "submitted" and e.get("job") == known.id for e in noted)


def _targets(run_dir: RunDir) -> list[ProcessMark]:
    """Processes of the newest start that are not known to be dead: who started the ranks first."""
    tries = attempts(run_dir.read_events())
    holder = mark_from(run_dir.read_holder())
    named = [*(tries[-1].marks if tries else []), *([holder] if holder else [])]
    return [mark for mark in dict.fromkeys(named) if life(mark) != "dead"]


def _refuse_inside_a_live_pipeline(folder: Path) -> None:
    for above in _parents(folder):
        driver = mark_from(RunDir(above).read_holder())
        if read_graph(above) is not None and driver is not None and life(driver) != "dead":
            raise UserError(
                f"{folder} belongs to the pipeline in {above}, which is running and would start it again.\n"
                f"Nothing was stopped. Stop the whole pipeline: swamp cancel {above}"
            )


def _parents(folder: Path) -> Iterator[Path]:
    yield from list(folder.resolve().parents)[:3]


def _unreachable(mark: ProcessMark, what: str) -> str:
    if life(mark) == "elsewhere":
        return f"{what} is process {mark.pid} on host {mark.host}: run `swamp cancel` there"
    return (
        f"process {mark.pid} cannot be proven to be {what} (no record of when it started), so it was left "
        "alone. Stop it by hand if you know it is"
    )


def _wait(marks: Sequence[ProcessMark], seconds: float) -> bool:
    """True if all have ended within the time."""
    deadline = time.monotonic() + seconds
    while any(life(mark) != "dead" for mark in marks):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
