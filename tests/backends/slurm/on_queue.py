"""SLURM's commands over the queue of `queue_server`: `python -m tests.backends.slurm.on_queue COMMAND ...`.

Unlike `played.Slurm`, whose jobs a test moves by hand, this one runs the batch scripts.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.backends.queue_server import Entry, Queue

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "srun")
WORDS = {"waiting": "PENDING", "running": "RUNNING"}


def put_on_path(folder: Path, queue: Path) -> str:
    """Make the commands in a folder; the PATH on which they come first."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        head = f'#!/bin/sh\nexport QUEUE="{queue}"\n'
        (folder / name).write_text(
            f'{head}exec {sys.executable} -m tests.backends.slurm.on_queue {name} "$@"\n'
        )
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


def sbatch(queue: Queue, words: Sequence[str]) -> int:
    script = Path(words[-1]).resolve()
    text = script.read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(.*)$", text, re.MULTILINE))
    kept = queue.folder / f"script-{len(list(queue.folder.glob('*.job')))}"
    log = options["output"].replace("%j", "${QUEUE_JOB}")
    own = "SLURM_JOB_ID=$QUEUE_JOB SLURM_RESTART_COUNT=$QUEUE_STARTS SLURM_JOB_NODELIST=n1"
    kept.write_text(f"exec >> {log} 2>&1\nexport {own}\n{text}")
    after = options.get("dependency", "").split(":")[1:]
    say(f"Submitted batch job {queue.add(['bash', str(kept)], options['comment'], after)}")
    return 0


def squeue(queue: Queue, words: Sequence[str]) -> int:
    jobs, own = queue.read(), any(w.startswith("--user=") for w in words)
    wanted = next((w.partition("=")[2].split(",") for w in words if w.startswith("--jobs=")), list(jobs))
    for job in wanted:
        if job in jobs and jobs[job].phase in WORDS:
            say(
                f"{job}|{jobs[job].owner}"
                if own
                else f"{job}|{WORDS[jobs[job].phase]}|0:10|None|{jobs[job].owner}"
            )
    return 0


def scontrol(queue: Queue, words: Sequence[str]) -> int:
    if words[0] == "update":
        return 0
    job = words[-1]
    entry = queue.read().get(job)
    if entry is None:
        sys.stderr.write("slurm_load_jobs error: Invalid job id specified\n")
        return 1
    if words[0] == "requeue":
        queue.ask(job, "requeue")
        return 0
    say(
        f"JobId={job} JobState={_word(entry)} Reason=None "
        f"ExitCode={max(0, entry.code or 0)}:0 RunTime=00:00:10 Comment={entry.owner}"
    )
    return 0


def _word(entry: Entry) -> str:
    if entry.phase in WORDS:
        return WORDS[entry.phase]
    return "CANCELLED" if entry.cancelled else "FAILED" if entry.code else "COMPLETED"


def scancel(queue: Queue, words: Sequence[str]) -> int:
    job = words[-1]
    if any(w == "--signal=USR2" for w in words):
        os.kill(int((queue.folder / f"{job}.srun").read_text()), signal.SIGUSR2)
    else:
        queue.ask(job, "kill" if "--signal=KILL" in words else "cancel")
    return 0


def srun(queue: Queue, words: Sequence[str]) -> int:
    """Two tasks of one node; after the first that fails the other has `--wait` seconds."""
    job = os.environ["QUEUE_JOB"]
    (queue.folder / f"{job}.srun").write_text(str(os.getpid()))
    wait = next((float(w.partition("=")[2]) for w in words if w.startswith("--wait=")), 1.0)
    command = words[words.index(sys.executable) :]
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n1", "SLURM_JOB_ID": job}
    tasks = []
    for rank in range(2):
        own = step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        tasks.append(subprocess.Popen(command, env={**os.environ, **own}))
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda received, _: [task.send_signal(received) for task in tasks] and None)
    deadline = float("inf")
    while any(task.poll() is None for task in tasks):
        failed = [rank for rank, task in enumerate(tasks) if task.poll()]
        if deadline == float("inf") and failed:
            deadline = time.monotonic() + wait
            sys.stderr.write(f"srun: error: n1: task {failed[0]}: Killed\n")
        if time.monotonic() > deadline:
            for task in tasks:
                task.kill()
        time.sleep(0.05)
    codes = [task.wait() for task in tasks]
    return max(128 - code if code < 0 else code for code in codes)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main() -> int:
    queue, (name, *words) = Queue(Path(os.environ["QUEUE"])), sys.argv[1:]
    return {"sbatch": sbatch, "squeue": squeue, "scontrol": scontrol, "scancel": scancel, "srun": srun}[name](
        queue, words
    )


if __name__ == "__main__":
    sys.exit(main())
