"""Run folders made by hand, line by line, and a scheduler that answers what a test wrote down."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.processes import ProcessMark, born, own_mark

DEAD = ProcessMark(socket.gethostname(), 2**22 - 1, "boot:1")
ELSEWHERE = ProcessMark("another-host", 1, "boot:1")
METRIC = {"validates": "validation", "metric": "pair/mean/r_at_1"}


def nobody_tells(_job: str) -> None:
    """For a lock: no scheduler knows whether a job lives."""
    return


def write(folder: Path, *events: tuple[str, float, dict[str, object]]) -> RunDir:
    """A run folder with these events: name, time, details."""
    run_dir = RunDir(folder)
    run_dir.create()
    run_dir.stage_yaml.write_text("name: x\n")
    with run_dir.events_jsonl.open("a") as file:
        for name, time, details in events:
            file.write(json.dumps({"time": time, "event": name, **details}) + "\n")
    return run_dir


def rows(run_dir: RunDir, written: float, *values: dict[str, object]) -> None:
    """Rows of metrics.jsonl, the last written at this moment."""
    with run_dir.metrics_jsonl.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in values)
    os.utime(run_dir.metrics_jsonl, (written, written))


def started(
    mark: ProcessMark | None = None, at: float = 0.0, **details: object
) -> tuple[str, float, dict[str, object]]:
    """A `started` event of this process, or of another."""
    named = (mark or own_mark()).as_dict()
    return "started", at, {**named, "world_size": 2, "ranks": [named], "logs": {}, **details}


def owned_by(run_dir: RunDir, mark: ProcessMark) -> None:
    """Let a process hold the folder, as its owner file says."""
    run_dir.owner_json.write_text(json.dumps({**mark.as_dict(), "job": "", "since": "today"}))


@contextmanager
def sleeper(**variables: str) -> Iterator[tuple[subprocess.Popen[bytes], ProcessMark]]:
    """A process that does nothing, and its mark; `variables` join its environment."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = subprocess.Popen(command, env=os.environ | variables)
    try:
        since = born(process.pid)
        assert since is not None
        yield process, ProcessMark(socket.gethostname(), process.pid, since)
    finally:
        process.kill()
        process.wait()


def fake_command(folder: Path, name: str, script: str) -> None:
    """An executable that notes how it was called in NAME.calls and then runs a shell script."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/{name}.calls\n{script}\n')
    path.chmod(0o755)


def calls(folder: Path, name: str) -> list[str]:
    """How an executable was called, a line a call."""
    path = folder / f"{name}.calls"
    return path.read_text().splitlines() if path.is_file() else []
