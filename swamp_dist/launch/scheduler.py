"""What SLURM knows about a job, from squeue and scontrol alone: accounting (sacct) is often not there."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

_SECONDS = 5.0
_WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
_RUNNING = {"RUNNING", "CONFIGURING", "COMPLETING", "SIGNALING", "STAGE_OUT", "SUSPENDED", "STOPPED", "RESIZING"}  # fmt: skip
_ID = re.compile(r"[0-9]+(_[0-9]+)?(\+[0-9]+)?")


class SchedulerError(Exception):
    """The scheduler is not here or gives no answer; says why in one line."""


@dataclass(frozen=True)
class Job:
    """A job as the scheduler tells it."""

    job_id: str
    state: str
    """SLURM's word, for example PENDING."""
    reason: str = ""
    """Why it waits or ended, SLURM's word; empty where it gives none."""
    seconds: float | None = None
    """Since it started last; None where it has not, or that is not told."""
    code: int | None = None
    """Exit code of its batch script; None while it is in the queue or where that is not told."""

    @property
    def waiting(self) -> bool:
        """In the queue, for the first time or again."""
        return self.state in _WAITING

    @property
    def running(self) -> bool:
        """Holds an allocation."""
        return self.state in _RUNNING


def jobs(job_ids: Sequence[str]) -> dict[str, Job]:
    """Jobs by their ids; ids that the scheduler does not know, or no longer, are left out.

    Raises:
        SchedulerError: no scheduler command on this machine, or no answer.
    """
    wanted = [job_id for job_id in dict.fromkeys(job_ids) if _ID.fullmatch(job_id)]
    if not wanted:
        return {}
    found = _from_squeue(wanted) if shutil.which("squeue") else {}
    if not shutil.which("scontrol"):
        if not shutil.which("squeue"):
            raise SchedulerError("neither squeue nor scontrol is on this machine's PATH")
        return found
    # squeue leaves out jobs that have ended; scontrol keeps them for a while, with their reason
    for job_id in wanted:
        job = None if job_id in found else _from_scontrol(job_id)
        if job is not None:
            found[job_id] = job
    return found


def find(comment: str) -> list[str]:
    """Ids of this user's jobs that wait or run and carry this comment.

    Raises:
        SchedulerError: no scheduler command on this machine, or no answer.
    """
    listed = _ask("squeue", "--me", "--noheader", "--format=%i|%k")
    if listed.returncode != 0:
        raise SchedulerError(f"squeue: {_last_line(listed.stderr)}")
    rows = [line.partition("|") for line in listed.stdout.splitlines()]
    return [job_id for job_id, _, said in rows if said.strip() == comment]


def settings() -> dict[str, str]:
    """The scheduler's configuration by name, for example KillWait -> `30 sec`.

    Raises:
        SchedulerError: no scontrol on this machine, or no answer.
    """
    done = _ask("scontrol", "show", "config")
    if done.returncode != 0:
        raise SchedulerError(f"scontrol show config: {_last_line(done.stderr)}")
    pairs = (line.partition("=") for line in done.stdout.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def cancel(job_id: str, now: bool) -> None:
    """Take a job out of the queue or end it, for good.

    Requeueing is switched off first: a run that saves on SIGTERM would put itself in the queue again.

    Args:
        now: SIGKILL at once; else SIGTERM, and SIGKILL after the cluster's KillWait.

    Raises:
        SchedulerError: it is not here, does not answer or refuses.
    """
    if not _ID.fullmatch(job_id):
        raise SchedulerError(f"{job_id!r} is no job id")
    held = _ask("scontrol", "update", f"JobId={job_id}", "Requeue=0")
    if held.returncode != 0:
        raise SchedulerError(f"scontrol update JobId={job_id} Requeue=0: {_last_line(held.stderr)}")
    done = _ask("scancel", *(("--signal=KILL", "--full") if now else ()), job_id)
    if done.returncode != 0:
        raise SchedulerError(f"scancel {job_id}: {_last_line(done.stderr)}")


def _from_squeue(wanted: Sequence[str]) -> dict[str, Job]:
    listed = _ask("squeue", "--noheader", f"--jobs={','.join(wanted)}", "--format=%i|%T|%M|%r")
    if listed.returncode != 0:
        if "nvalid job id" in listed.stderr:  # what it says when it knows none of them
            return {}
        raise SchedulerError(f"squeue: {_last_line(listed.stderr)}")
    rows = [line.split("|", 3) for line in listed.stdout.splitlines() if line.count("|") >= 3]
    return {row[0]: Job(row[0], row[1], _told(row[3]), clock_seconds(row[2])) for row in rows}


def _from_scontrol(job_id: str) -> Job | None:
    shown = _ask("scontrol", "--oneliner", "show", "job", job_id)
    if shown.returncode != 0:
        if "nvalid job id" in shown.stderr:
            return None
        raise SchedulerError(f"scontrol show job {job_id}: {_last_line(shown.stderr)}")
    values = dict(
        re.findall(r"(?:^|\s)(JobState|Reason|RunTime|ExitCode)=(\S*)", shown.stdout.splitlines()[0])
    )
    if "JobState" not in values:
        raise SchedulerError(f"scontrol show job {job_id}: no JobState in its answer")
    seconds = clock_seconds(values.get("RunTime", ""))
    code = values.get("ExitCode", "").partition(":")[0]
    return Job(
        job_id,
        values["JobState"],
        _told(values.get("Reason", "")),
        seconds,
        int(code) if code.isdecimal() else None,
    )


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


def _told(reason: str) -> str:
    return "" if reason.strip() in ("None", "(null)", "") else reason.strip()


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except FileNotFoundError:
        raise SchedulerError(f"{command[0]} is not on this machine's PATH") from None
    except subprocess.TimeoutExpired:
        raise SchedulerError(f"{command[0]} gave no answer within {_SECONDS:.0f} s") from None


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["no reason given"])[-1]
