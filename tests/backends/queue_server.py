"""Jobs in a folder, and the process that runs them: `python -m tests.backends.queue_server FOLDER`."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from swamp_dist.atomic_files import write_atomically
from swamp_dist.errors import ExitCode
from swamp_dist.records import JobState


@dataclass(frozen=True)
class Entry:
    """One job."""

    command: list[str]
    owner: str
    """The run folder that it works on."""
    after: list[str]
    folder: str
    environment: dict[str, str]
    phase: Literal["waiting", "running", "ended"] = "waiting"
    code: int | None = None
    starts: int = 0
    cancelled: bool = False
    requeued: bool = False

    def state(self, job: str) -> JobState:
        """As a backend tells it."""
        code = ExitCode.INTERRUPTED if self.cancelled else self.code
        return JobState(
            job,
            self.phase,
            code=code if self.phase == "ended" else None,
            word=self.phase.upper(),
            owner=self.owner,
        )


class Queue:
    """The jobs in a folder, a file each; what users ask is a file too: only the server changes jobs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, command: Sequence[str], owner: str, after: Sequence[str]) -> str:
        """Queue a command; its id. The environment is that of the process that asks."""
        job = str(41 + len(list(self.folder.glob("[0-9]*.job"))))
        entry = Entry(list(command), owner, list(after), os.getcwd(), dict(os.environ))
        self.write(job, entry)
        return job

    def read(self) -> dict[str, Entry]:
        """Every job by its id."""
        return {
            file.stem: Entry(**json.loads(file.read_text()))
            for file in sorted(self.folder.glob("[0-9]*.job"))
        }

    def write(self, job: str, entry: Entry) -> None:
        """Put a job into the list, or change it."""
        write_atomically(self.folder / f"{job}.job", json.dumps(asdict(entry)))

    def ask(self, job: str, what: str) -> None:
        """Leave a question for the server: a key of SIGNALS."""
        (self.folder / f"{job}.{what}").touch()

    def take(self, job: str, what: str) -> bool:
        """Whether a question was left; it is gone then."""
        file = self.folder / f"{job}.{what}"
        found = file.exists()
        file.unlink(missing_ok=True)
        return found


SIGNALS = {
    "cancel": signal.SIGTERM,
    "kill": signal.SIGKILL,
    "save": signal.SIGUSR2,
    "requeue": signal.SIGKILL,
}


def serve(queue: Queue) -> None:
    """Run jobs whose dependencies ended well, until `stop` appears in the folder.

    One that saved (code 75), or asked for it, starts again unless it was cancelled.
    """
    running: dict[str, subprocess.Popen[bytes]] = {}
    while not (queue.folder / "stop").exists():
        known = queue.read()
        for job, entry in known.items():
            process = running.get(job)
            after = _answer(queue, job, entry, process)
            if process is not None and (code := process.poll()) is not None:
                del running[job]
                again = (code == ExitCode.REQUEUE or after.requeued) and not after.cancelled
                after = replace(after, phase="waiting" if again else "ended", code=code, requeued=False)
            elif (
                process is None and after.phase == "waiting" and all(known[a].code == 0 for a in entry.after)
            ):
                running[job] = _start(queue, job, after)
                after = replace(after, phase="running", starts=after.starts + 1)
            if after != entry:
                queue.write(job, after)
        time.sleep(0.05)
    for process in running.values():
        _signal(process, signal.SIGKILL)


def _answer(queue: Queue, job: str, entry: Entry, process: subprocess.Popen[bytes] | None) -> Entry:
    """Do what users asked of a job; the job afterwards."""
    for what, number in SIGNALS.items():
        if not queue.take(job, what):
            continue
        if what in ("cancel", "kill"):
            entry = replace(entry, cancelled=True, phase=entry.phase if process else "ended")
        if what == "requeue":
            entry = replace(entry, requeued=True)
        if process is not None and what == "save":
            process.send_signal(number)
        elif process is not None and not (what == "requeue" and entry.cancelled):
            _signal(process, number)
    return entry


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _start(queue: Queue, job: str, entry: Entry) -> subprocess.Popen[bytes]:
    own = {"QUEUE": str(queue.folder), "QUEUE_JOB": job, "QUEUE_STARTS": str(entry.starts)}
    with (queue.folder / f"{job}.log").open("ab") as log:
        return subprocess.Popen(
            entry.command, cwd=entry.folder, env=entry.environment | own, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip


if __name__ == "__main__":
    serve(Queue(Path(sys.argv[1])))
