"""One start of a submitted job: what its batch script does before and after the ranks. Imports no torch.

`python -m swamp_dist.launch.attempt begin RUN_DIR` and `... end RUN_DIR CODE`. The batch script requeues
and not a rank: it outlives every rank, a killed rank 0 too, and no rank can be cut off in the middle of
its last words by a requeue that another one asked for. Where the node of the batch script is lost, SLURM
requeues the job by itself, and `begin` keeps count of that.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from swamp_dist.config import SlurmCluster
from swamp_dist.launch.journal import of_job
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.rundir import RunDir
from swamp_dist.loading import load
from swamp_dist.records import UserError
from swamp_dist.train.commit_folder import BrokenError, read_commit, step_folders

logger = logging.getLogger(__name__)
Event = Mapping[str, object]
_ENDED = re.compile(r"^srun: error: (\S+): tasks? ([\d,-]+): (.+)$", re.MULTILINE)
_PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, 0.0)
_KILLED_WITHIN = 120.0
"""Seconds in which SLURM ends the batch script of a job that was requeued."""


@dataclass(frozen=True)
class Verdict:
    """What follows from how the ranks ended."""

    code: ExitCode
    """REQUEUE: start the job again."""
    reason: str


def starts_from(events: Sequence[Event], job: str, step: int) -> int:
    """How often `job` was started with `step` as its newest commit."""
    own = of_job(events, job)
    return sum(e.get("event") == "launched" and e.get("job") == job and e.get("step") == step for e in own)


def verdict(
    events: Sequence[Event], job: str, step: int, code: int, done: bool, max_restarts: int, culprit: str
) -> Verdict:
    """What to do after srun ended with `code`. Pure.

    Args:
        events: all of the run folder.
        step: newest committed step.
        culprit: which rank ended first and how; "" where srun did not say.
    """
    if code == ExitCode.HELD:
        return Verdict(ExitCode.HELD, "the run folder is held by another run")
    if done:
        return Verdict(ExitCode.DONE, "done")
    if code == ExitCode.USER_MISTAKE:
        return Verdict(ExitCode.USER_MISTAKE, culprit or "refused its settings or data")
    latest = max(
        (i for i, e in enumerate(events) if e.get("event") == "launched" and e.get("job") == job), default=-1
    )
    saved = any(e.get("event") == "preempted" for e in events[latest + 1 :])
    reason = "asked to stop" if saved else culprit or f"srun ended with code {code}"
    starts = starts_from(events, job, step)
    if starts > max_restarts:
        return Verdict(ExitCode.FAILED, given_up(starts, step, max_restarts, reason))
    return Verdict(ExitCode.REQUEUE, reason)


def given_up(starts: int, step: int, max_restarts: int, reason: str) -> str:
    """Why a job is not started again."""
    return (
        f"started {starts} times from step {step} without committing another one (max_restarts = {max_restarts}), "
        f"the last time: {reason}"
    )


def committed_step(run_dir: RunDir) -> int:
    """Step of the newest commit that looks whole; 0 where there is none."""
    for step, folder in step_folders(run_dir.checkpoints):
        try:
            read_commit(folder, verify_hash=False)
        except BrokenError:
            continue
        return step
    return 0


def culprit(console: str) -> str:
    """Which rank ended the others, in srun's words: one that was killed before one that gave up."""
    ended = [(tasks, node, how) for node, tasks, how in _ENDED.findall(console)]
    killed = [e for e in ended if not e[2].startswith("Exited with exit code")]
    for tasks, node, how in killed or ended:
        several = "s" if {",", "-"} & set(tasks) else ""
        return f"rank{several} {tasks} on node {node}: {how[0].lower()}{how[1:]}"
    return ""


def begin(run_dir: RunDir, job: str, max_restarts: int) -> ExitCode:
    """Count this start; FAILED where it is one too many."""
    step, console = committed_step(run_dir), run_dir.slurm_log(job)
    starts = starts_from(run_dir.read_events(), job, step)
    if starts > max_restarts:
        reason = given_up(starts, step, max_restarts, "the job was ended from outside")
        run_dir.append_event("failed", job=job, reason=reason, code=int(ExitCode.FAILED))
        logger.error(f"{reason}; not started again")
        return ExitCode.FAILED
    run_dir.append_event(
        "launched",
        job=job,
        step=step,
        restart=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
        nodes=os.environ.get("SLURM_JOB_NODELIST", ""),
        console_bytes=console.stat().st_size if console.is_file() else 0,
    )
    return ExitCode.DONE


def end(run_dir: RunDir, job: str, code: int, max_restarts: int, requeue: Callable[[str], bool]) -> ExitCode:
    """Requeue the job or let it end; the exit code of the batch script."""
    events = run_dir.read_events()
    said = culprit(_console(run_dir, job, events))
    found = verdict(events, job, committed_step(run_dir), code, run_dir.done, max_restarts, said)
    if found.code == ExitCode.REQUEUE:
        step = committed_step(run_dir)
        run_dir.append_event("requeued", job=job, step=step, reason=found.reason)
        logger.warning(f"{found.reason}; job {job} is requeued and goes on from step {step}")
        if requeue(job):
            return ExitCode.REQUEUE
        reason = (
            f"{found.reason}; `scontrol requeue {job}` was refused: submit again to go on from step {step}"
        )
        found = Verdict(ExitCode.FAILED, reason)
    if found.code not in (
        ExitCode.DONE,
        ExitCode.HELD,
    ):  # a folder that another run holds is not ours to write in
        run_dir.append_event("failed", job=job, reason=found.reason, code=int(found.code))
    logger.log(logging.INFO if found.code == ExitCode.DONE else logging.ERROR, found.reason)
    return found.code


def _console(run_dir: RunDir, job: str, events: Sequence[Event]) -> str:
    """What the batch script's console has shown since this start."""
    launched = [e for e in events if e.get("job") == job and "console_bytes" in e]
    since = launched[-1].get("console_bytes", 0) if launched else 0
    file = run_dir.slurm_log(job)
    if not file.is_file() or not isinstance(since, int):
        return ""
    return file.read_bytes()[since:].decode(errors="replace")


def scontrol_requeue(job: str) -> bool:
    """Ask SLURM to start the job again, and wait to be ended by it; False if it refuses for good."""
    for pause in _PAUSES:
        try:
            asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=60)
            said, accepted = asked.stderr.strip(), asked.returncode == 0
        except (OSError, subprocess.TimeoutExpired) as error:
            said, accepted = str(error), False
        if accepted:
            time.sleep(_KILLED_WITHIN)
            return True
        logger.warning(f"scontrol requeue {job}: {said}")
        time.sleep(pause)
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """What the batch script calls."""
    parser = argparse.ArgumentParser(prog="python -m swamp_dist.launch.attempt")
    parser.add_argument("when", choices=("begin", "end"))
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("code", type=int, nargs="?", default=0)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    run_dir, job = RunDir(chosen.run_dir), os.environ["SLURM_JOB_ID"]
    try:
        limit = load(run_dir.cluster_yaml, SlurmCluster).max_restarts
    except UserError as error:
        logger.error(error)
        return ExitCode.USER_MISTAKE
    if chosen.when == "begin":
        return begin(run_dir, job, limit)
    return end(run_dir, job, chosen.code, limit, scontrol_requeue)


if __name__ == "__main__":
    sys.exit(main())
