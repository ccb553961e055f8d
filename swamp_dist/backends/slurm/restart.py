"""One start of a submitted job: what its batch script does before and after the ranks. Imports no torch.

`python -m swamp_dist.backends.slurm.restart begin RUN_DIR` and `... end RUN_DIR CODE`. The batch script
requeues and not a rank: it outlives every rank, a killed rank 0 too, and no rank can be cut off in the
middle of its last words by a requeue that another one asked for. Where the node of the batch script is
lost, SLURM requeues the job by itself, and `begin` keeps count of that.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from swamp_dist.backends.slurm.culprit import culprit, log_since, mistake
from swamp_dist.backends.slurm.queue import requeue
from swamp_dist.backends.starts import committed_step, given_up
from swamp_dist.config import SlurmCluster
from swamp_dist.environment import job_id, job_nodes, job_restarts
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.loading import load
from swamp_dist.printable import log_lines_to
from swamp_dist.runs.events import later_start, number, starts_from, stopped_by_alarm
from swamp_dist.runs.folder import RunDir

logger = logging.getLogger(__name__)
Event = Mapping[str, object]
StartAgain = Callable[[str, Callable[[str], None]], str]
"""(job, told that it has to wait) -> why the job is not started again; "" where it is."""
_ASKED = "asked to stop"
_EARLY = 90.0
"""Seconds that SLURM's signal may come before its time, and that ranks take to answer it."""
_SRUN_SAID = re.compile(r"^srun: (?:fatal|error): .+$|^.*\bsrun: command not found$", re.MULTILINE)
_PASSES = re.compile(
    "timed out|communicat|connect|contact|transport|not respond|already complet|zero bytes|busy|expired|"
    "node fail|launch failed|cancelled|terminated|temporar",
    re.IGNORECASE,
)
"""In what srun says of a trouble that another start may not meet again."""
_KILLED = range(129, 193)
"""Exit codes of a srun that a signal ended. What it does not understand it ends with 255."""


@dataclass(frozen=True)
class RestartDecision:
    """What follows from how the ranks ended."""

    code: ExitCode
    """REQUEUE: start the job again."""
    reason: str


def decide_restart(
    events: Sequence[Event], job: str, step: int, code: int, done: bool, max_restarts: int, culprit: str
) -> RestartDecision:
    """What to do after srun ended with `code`. Pure.

    Args:
        events: all of the run folder.
        step: newest committed step.
        culprit: which rank ended first and how; "" where srun did not say.
    """
    if code == ExitCode.HELD:
        return RestartDecision(ExitCode.HELD, "the run folder is held by another run")
    if done:
        return RestartDecision(ExitCode.DONE, "done")
    if code == ExitCode.USER_MISTAKE:
        return RestartDecision(ExitCode.USER_MISTAKE, culprit or "refused its settings or data")
    if alarmed := stopped_by_alarm(_of_start(events, job)):
        return RestartDecision(ExitCode.FAILED, alarmed)
    if waited(events, job):
        return RestartDecision(ExitCode.REQUEUE, "an earlier start of the job still works in the run folder")
    reason = _ASKED if _saved(events, job) else culprit or f"srun ended with code {code}"
    starts = starts_from(events, job, step)
    if starts > max_restarts:
        return RestartDecision(ExitCode.FAILED, given_up(starts, step, max_restarts, reason))
    return RestartDecision(ExitCode.REQUEUE, reason)


def _saved(events: Sequence[Event], job: str) -> bool:
    """Whether the newest start of a job was asked to stop, and has saved."""
    return any(e.get("event") == "preempted" for e in _of_start(events, job))


def _of_start(events: Sequence[Event], job: str) -> Sequence[Event]:
    """Events after the newest start of a job."""
    launched = [i for i, e in enumerate(events) if e.get("event") == "launched" and e.get("job") == job]
    return events[max(launched, default=-1) + 1 :]


def waited(events: Sequence[Event], job: str) -> bool:
    """Whether the newest start of a job has only waited for the one before."""
    own = [e for e in events if e.get("job") == job and e.get("event") in ("launched", "waited")]
    return bool(own) and own[-1]["event"] == "waited"


def refusal(console: str, code: int) -> str:
    """Why srun started no rank, in its own words, where another start would be refused as well; else "".

    Args:
        console: of this start, in which no rank has begun.
        code: how srun ended.
    """
    said = [line.strip() for line in _SRUN_SAID.findall(console)]
    if not said or code == ExitCode.DONE or code in _KILLED or any(map(_PASSES.search, said)):
        return ""
    return f"srun started no rank: {said[0]}"


def before_ranks(run_dir: RunDir, job: str, max_restarts: int, restart: int = 0) -> ExitCode:
    """Count this start, the job's number `restart` from 0; FAILED where it is one too many."""
    step, console = committed_step(run_dir), run_dir.job_log(job)
    starts = starts_from(run_dir.read_events(), job, step)
    if starts > max_restarts:
        reason = given_up(starts, step, max_restarts, "the job was ended from outside")
        run_dir.append_event("failed", job=job, reason=reason, code=int(ExitCode.FAILED))
        logger.error(f"{reason}; not started again")
        return ExitCode.FAILED
    run_dir.began(job).unlink(missing_ok=True)
    run_dir.append_event(
        "launched",
        job=job,
        step=step,
        restart=restart,
        nodes=job_nodes(),
        console_bytes=console.stat().st_size if console.is_file() else 0,
        logs=run_dir.log_sizes(),
    )
    return ExitCode.DONE


def after_ranks(
    run_dir: RunDir, job: str, code: int, cluster: SlurmCluster, start_again: StartAgain, restart: int = 0
) -> ExitCode:
    """Requeue the job or let it end; the exit code of the batch script.

    Args:
        code: of srun.
        start_again: `queue.requeue`.
        restart: the start that has ended, counted from 0.
    """
    events = run_dir.read_events()
    if not run_dir.done and later_start(events, job, restart):
        # the scheduler lost sight of this start and made another: a requeue would end that one
        logger.warning(f"job {job} was started again elsewhere and goes on there; this start ends")
        return ExitCode.HELD
    console = _console(run_dir, job, events)
    said, code = _ending(run_dir, job, code, events, console)
    found = decide_restart(
        events, job, committed_step(run_dir), code, run_dir.done, cluster.max_restarts, said
    )
    if found.reason == _ASKED and _near_limit(events, job, cluster):
        found = RestartDecision(found.code, f"time limit near ({cluster.time_limit} minutes)")
    refused = "" if said or run_dir.began(job).exists() else refusal(console, code)
    if refused and found.code == ExitCode.REQUEUE:
        found = RestartDecision(ExitCode.FAILED, refused)
    if found.code == ExitCode.REQUEUE:
        step = committed_step(run_dir)
        if not waited(events, job):  # then the events are of the start that still works
            run_dir.append_event("requeued", job=job, step=step, reason=found.reason)
        logger.warning(f"{found.reason}; job {job} is requeued and goes on from step {step}")
        refused = start_again(job, partial(_note_wait, run_dir, job))
        if not refused:
            return ExitCode.REQUEUE
        reason = f"{found.reason}; {refused}: submit again to go on from step {step}"
        found = RestartDecision(ExitCode.FAILED, reason)
    if found.code not in (
        ExitCode.DONE,
        ExitCode.HELD,
    ):  # a folder that another run holds is not ours to write in
        run_dir.append_event("failed", job=job, reason=found.reason, code=int(found.code))
    logger.log(logging.INFO if found.code == ExitCode.DONE else logging.ERROR, found.reason)
    return found.code


def _ending(run_dir: RunDir, job: str, code: int, events: Sequence[Event], console: str) -> tuple[str, int]:
    """Which rank ended the others and how, and the code that counts.

    A mistake that one rank has told counts, also where srun ends with a larger code of ranks that it killed.
    """
    sizes = _launched(events, job).get("logs")
    log_of = partial(log_since, run_dir, job, sizes if isinstance(sizes, Mapping) else {})
    told = mistake(console, log_of)
    if told and code != ExitCode.HELD and not _saved(events, job):  # what is saved is worth another start
        return told, ExitCode.USER_MISTAKE
    return culprit(console, log_of), code


def _note_wait(run_dir: RunDir, job: str, why: str) -> None:
    run_dir.append_event("waits", job=job, reason=f"SLURM does not take the requeue of job {job} yet: {why}")


def _near_limit(events: Sequence[Event], job: str, cluster: SlurmCluster) -> bool:
    """Whether the ranks saved when the time limit's signal was due."""
    began = [number(e, "time") for e in events if e.get("event") == "launched" and e.get("job") == job]
    saved = [number(e, "time") for e in events if e.get("event") == "preempted"]
    if not began or not saved or began[-1] is None or saved[-1] is None:
        return False
    return saved[-1] - began[-1] >= cluster.time_limit * 60 - cluster.signal_seconds - _EARLY


def _launched(events: Sequence[Event], job: str) -> Event:
    """What was noted at this start; {} where nothing was."""
    return next((e for e in reversed(events) if e.get("job") == job and "console_bytes" in e), {})


def _console(run_dir: RunDir, job: str, events: Sequence[Event]) -> str:
    """What the batch script's console has shown since this start."""
    since, file = _launched(events, job).get("console_bytes", 0), run_dir.job_log(job)
    if not file.is_file() or not isinstance(since, int):
        return ""
    return file.read_bytes()[since:].decode(errors="replace")


def main(arguments: Sequence[str] | None = None) -> int:
    """What the batch script calls."""
    parser = argparse.ArgumentParser(prog="python -m swamp_dist.backends.slurm.restart")
    parser.add_argument("when", choices=("begin", "end"))
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("code", type=int, nargs="?", default=0)
    chosen = parser.parse_args(arguments)
    log_lines_to(None, logging.INFO, "%(asctime)s %(message)s", "%H:%M:%S")
    run_dir, job = RunDir(chosen.run_dir), job_id()
    try:
        cluster = load(run_dir.cluster_yaml, SlurmCluster)
    except UserError as error:
        code = int(ExitCode.USER_MISTAKE)
        run_dir.append_event("failed", job=job, reason=str(error), code=code)
        logger.error(error)
        return ExitCode.USER_MISTAKE
    if chosen.when == "begin":
        return before_ranks(run_dir, job, cluster.max_restarts, job_restarts())
    return after_ranks(run_dir, job, chosen.code, cluster, requeue, job_restarts())


if __name__ == "__main__":
    sys.exit(main())
