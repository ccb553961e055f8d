"""SLURM's commands as small programs: jobs are files that a test writes, and every call is noted."""

from __future__ import annotations

import os
from pathlib import Path

from swamp_dist.runs.folder import RunDir
from tests.runs.written_runs import calls, fake_command

SBATCH = """\
n=$(($(ls "$D/.." | grep -c '^script-') + 41))
script=$(cat "$(echo "$@" | awk '{print $NF}')")
comment=$(printf '%s' "$script" | sed -n 's/^#SBATCH --comment=//p' | tr -d "'")
printf '%s\\n' "$script" > "$D/../script-$n"
echo "$SEEN_BY_JOBS" > "$D/../seen-$n"
echo "PENDING|0:00|${REASON:-Resources}|$comment|0" > "$D/$n"
echo "${ANSWER:-$n}" | sed "s/JOB/$n/"
"""
SQUEUE = """\
me= ; wanted= ; all= ; next=
for a in "$@"; do
  [ "$next" ] && wanted=$a && next=
  case "$a" in
    --user=*) me=1;;
    --jobs) next=1;; --states=all) all=1;; --jobs=*) wanted=$(echo "${a#--jobs=}" | tr , ' ');;
  esac
done
[ "$me" ] && wanted=$(ls "$D")
for j in $wanted; do
  [ -f "$D/$j" ] || continue
  IFS='|' read -r state seconds reason comment code < "$D/$j"
  [ "$all" ] && echo "$state" && continue
  case "$state" in PENDING|RUNNING) ;; *) continue;; esac
  if [ "$me" ]; then echo "$j|$comment"; else echo "$j|$state|$seconds|$reason|$comment"; fi
done
"""
SCONTROL = """\
[ "$1" = update ] && exit 0
[ -f "$D/$4" ] || { echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1; }
IFS='|' read -r state seconds reason comment code < "$D/$4"
echo "JobId=$4 JobState=$state Reason=$reason ExitCode=$code:0 RunTime=00:00:10 Comment=$comment"
"""
SCANCEL = """\
IFS='|' read -r state rest < "$D/$1"
echo "CANCELLED|$rest" > "$D/$1"
"""


class Slurm:
    """The scheduler of a test."""

    def __init__(self, folder: Path) -> None:
        self.commands, self.jobs = folder / "bin", folder / "jobs"
        self.jobs.mkdir(parents=True)
        head = f'D="{self.jobs}"\n'
        for name, script in (
            ("sbatch", SBATCH), ("squeue", SQUEUE), ("scontrol", SCONTROL), ("scancel", SCANCEL),
            ("srun", "exit 1"), ("sinfo", "exit 1"),
        ):  # fmt: skip
            fake_command(self.commands, name, head + script)
        self.path = f"{self.commands}{os.pathsep}{os.environ['PATH']}"

    def set(self, job: str, state: str, reason: str = "None", code: int = 0) -> None:
        """Let a job be in this state."""
        comment = (self.jobs / job).read_text().split("|")[3]
        (self.jobs / job).write_text(f"{state}|0:10|{reason}|{comment}|{code}\n")

    def forget(self, job: str) -> None:
        """Let the scheduler not know a job any more."""
        (self.jobs / job).unlink()

    def script(self, job: str) -> str:
        """The batch script of a job."""
        return (self.jobs.parent / f"script-{job}").read_text()

    def seen(self, job: str) -> str:
        """The variable SEEN_BY_JOBS as the job's environment had it."""
        return (self.jobs.parent / f"seen-{job}").read_text().strip()

    def dependency(self, job: str) -> str:
        """What a job waits for."""
        lines = self.script(job).splitlines()
        return next((x.removeprefix("#SBATCH --dependency=") for x in lines if "--dependency=" in x), "")

    @property
    def submissions(self) -> int:
        """How many jobs were submitted."""
        return len(calls(self.commands, "sbatch"))


def job(folder: Path) -> str:
    """The job that was submitted last for a run folder."""
    return str([e for e in RunDir(folder).read_events() if e["event"] == "submitted"][-1]["job"])
