"""What SLURM knows about a job, from squeue and scontrol alone: accounting (sacct) is often not there."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Literal

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm.advice import never_starts
from swamp_dist.backends.slurm.commands import ask, command_environment, command_path, last_line
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.records import JobState

logger = logging.getLogger(__name__)
_WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNNING = {
    "RUNNING", "CONFIGURING", "COMPLETING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED", "RESIZING",
}  # fmt: skip
_PAUSES = (1.0, 2.0, 5.0, 10.0, 20.0, *(30.0,) * 80)
"""Seconds between tries of a requeue: 40 minutes, in which a controller comes back or another takes over."""
_NEVER_ACCEPTED = re.compile("invalid job id|permission denied|disabled|not requeu", re.IGNORECASE)
"""In what scontrol says where another try is of no use."""
_KILLED_WITHIN = 120.0
"""Seconds in which SLURM ends the batch script of a job that was requeued."""
_ID = re.compile(r"[0-9]+(_[0-9]+)?(\+[0-9]+)?")


def jobs(job_ids: Sequence[str], cluster: str | None = None) -> dict[str, JobState]:
    """Jobs by their ids; ids that the scheduler does not know, or no longer, are left out.

    Args:
        cluster: one of several (`-M`); None = the one that the commands here speak to. So everywhere here.

    Raises:
        SchedulerError: no scheduler command on this machine, or no answer.
    """
    wanted = [job_id for job_id in dict.fromkeys(job_ids) if _ID.fullmatch(job_id)]
    if not wanted:
        return {}
    found = _from_squeue(wanted, cluster) if command_path("squeue") else {}
    if not command_path("scontrol"):
        if not command_path("squeue"):
            raise SchedulerError("neither squeue nor scontrol is on this machine's PATH")
        return found
    # squeue leaves out jobs that have ended; scontrol keeps them for a while, with their reason
    for job_id in wanted:
        job = None if job_id in found else _from_scontrol(job_id, cluster)
        if job is not None:
            found[job_id] = job
    return found


def find(comment: str, cluster: str | None = None) -> list[str]:
    """Ids of this user's jobs that wait or run and carry this comment.

    Raises:
        SchedulerError: no scheduler command on this machine, or no answer.
    """
    listed = ask("squeue", *on(cluster), f"--user={os.getuid()}", "--noheader", "--format=%i|%k")
    if listed.returncode != 0:
        raise SchedulerError(f"squeue: {last_line(listed.stderr)}")
    rows = [line.partition("|") for line in listed.stdout.splitlines()]
    return [job_id for job_id, _, said in rows if said.strip() == comment]


def settings() -> dict[str, str]:
    """The scheduler's configuration by name, for example KillWait -> `30 sec`.

    Raises:
        SchedulerError: no scontrol on this machine, or no answer.
    """
    done = ask("scontrol", "show", "config")
    if done.returncode != 0:
        raise SchedulerError(f"scontrol show config: {last_line(done.stderr)}")
    pairs = (line.partition("=") for line in done.stdout.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def cancel(job_id: str, now: bool, cluster: str | None = None) -> None:
    """Take a job out of the queue or end it, for good.

    Requeueing is switched off first: a run that saves on SIGTERM would put itself in the queue again.

    Args:
        now: SIGKILL at once; else SIGTERM, and SIGKILL after the cluster's KillWait.

    Raises:
        SchedulerError: it is not here, does not answer or refuses.
    """
    if not _ID.fullmatch(job_id):
        raise SchedulerError(f"{job_id!r} is no job id")
    held = ask("scontrol", *on(cluster), "update", f"JobId={job_id}", "Requeue=0")
    if held.returncode != 0 and not _waits(job_id, cluster):
        raise SchedulerError(f"scontrol update JobId={job_id} Requeue=0: {last_line(held.stderr)}")
    done = ask("scancel", *on(cluster), *(("--signal=KILL", "--full") if now else ()), job_id)
    if done.returncode != 0:
        raise SchedulerError(f"scancel {job_id}: {last_line(done.stderr)}")


def _waits(job_id: str, cluster: str | None) -> bool:
    """Whether a job is in the queue: of one that can never start SLURM refuses every update, and it has no
    ranks that could put it there again."""
    known = jobs([job_id], cluster).get(job_id)
    return known is not None and known.phase == "waiting"


def requeue(job_id: str, waits: Callable[[str], None] = lambda _: None) -> str:
    """Ask SLURM to start this process's job again, and wait to be ended by it; why not, or "" where it does.

    Args:
        waits: told once, in one line, that the controller does not take it yet.
    """
    said, command = "", command_path("scontrol")
    if command is None:
        return "scontrol is neither on PATH nor beside srun on this node: a line of `setup` may bring it"
    for number, pause in enumerate(_PAUSES):
        try:
            words, own = [command, "requeue", job_id], command_environment()
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=own)
            said, accepted = last_line(done.stderr), done.returncode == 0
        except (OSError, subprocess.TimeoutExpired) as error:
            said, accepted = str(error), False
        if accepted:
            time.sleep(_KILLED_WITHIN)
            return ""
        logger.warning(f"scontrol requeue {job_id}: {said}")
        if _NEVER_ACCEPTED.search(said):
            break
        if number == 0:
            waits(f"{said}; asked again for {sum(_PAUSES) / 60:.0f} minutes")
        time.sleep(pause)
    return f"`scontrol requeue {job_id}` was refused: {said}"


def refuse_without_slurm() -> None:
    """Ask whether jobs can be submitted from this machine.

    Raises:
        UserError: it has no SLURM commands.
    """
    if shutil.which("srun") is None:
        raise UserError(
            "this machine has no SLURM commands (srun is not on PATH).\n"
            "Fix: the same command on a login node of the cluster, where `sinfo` answers (some need `module "
            "load slurm`), or without a cluster, on this machine: swamp run JOB. --dry-run shows the script "
            "anywhere."
        )


def on(cluster: str | None) -> tuple[str, ...]:
    """The option that speaks to one of several clusters."""
    return () if cluster is None else ("-M", cluster)


def _from_squeue(wanted: Sequence[str], cluster: str | None) -> dict[str, JobState]:
    listed = ask(
        "squeue", *on(cluster), "--noheader", f"--jobs={','.join(wanted)}", "--format=%i|%T|%M|%r|%k"
    )
    if listed.returncode != 0:
        if "nvalid job id" in listed.stderr:  # what it says when it knows none of them
            return {}
        raise SchedulerError(f"squeue: {last_line(listed.stderr)}")
    rows = [line.split("|", 4) for line in listed.stdout.splitlines() if line.count("|") >= 3]
    return {row[0]: _state(row[0], row[1], row[3], row[2], None, *map(_comment, row[4:])) for row in rows}


def _comment(text: str) -> str:
    """A job's comment; empty where it has none."""
    return "" if text.strip() in ("(null)", "N/A") else text.strip()


def _from_scontrol(job_id: str, cluster: str | None) -> JobState | None:
    shown = ask("scontrol", *on(cluster), "--oneliner", "show", "job", job_id)
    if shown.returncode != 0:
        if "nvalid job id" in shown.stderr:
            return None
        raise SchedulerError(f"scontrol show job {job_id}: {last_line(shown.stderr)}")
    line = next((x for x in shown.stdout.splitlines() if "JobState=" in x), "")
    values = dict(re.findall(r"(?:^|\s)(JobState|Reason|RunTime|ExitCode)=(\S*)", line))
    said = re.search(r"\sComment=(.*?)(?=\s+[A-Z][A-Za-z/_:-]*=|$)", line)
    if "JobState" not in values:
        raise SchedulerError(f"scontrol show job {job_id}: no JobState in its answer")
    code = values.get("ExitCode", "").partition(":")[0]
    number = int(code) if code.isdecimal() else None
    reason, clock = values.get("Reason", ""), values.get("RunTime", "")
    return _state(job_id, values["JobState"], reason, clock, number, _comment(said[1]) if said else "")


def _state(
    job_id: str, word: str, reason: str, clock: str, code: int | None, owner: str | None = None
) -> JobState:
    """A job in terms that all schedulers share; `word`, `reason` and `clock` as SLURM writes them."""
    said = "" if reason.strip() in ("None", "(null)", "") else reason.strip()
    phase: Literal["waiting", "running", "ended"] = (
        "waiting" if word in _WAITING else "running" if word in _RUNNING else "ended"
    )
    code = ExitCode.INTERRUPTED if word.startswith("CANCELLED") else code
    fix = never_starts(said) if phase == "waiting" else ""
    return JobState(job_id, phase, said, clock_seconds(clock), code, word, bool(fix), fix, owner)


def clock_seconds(text: str) -> float | None:
    """Seconds of a time as SLURM writes it ([D-]HH:MM:SS, MM:SS, M:SS); None for anything else."""
    days, _, clock = text.strip().rpartition("-")
    parts = clock.split(":")
    if not all(part.isdecimal() for part in (*parts, days or "0")) or len(parts) < 2:
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return float(seconds + 86400 * int(days or 0))
