"""Runs the `swamp` command as a user does, on a job that trains in a second, and looks at what it left."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "swamp_dist"]
JOB = """\
name: tiny
data: {{shards: {shards}, a: a, b: b, entries: 24, workers: 0}}
model:
  embedding_dim: 64
  a: {{kind: mlp, hidden: [256], dropout: 0.1}}
  b: {{kind: mlp, hidden: [256]}}
objective: {{swamp: {{prototypes: 10, queue: {{size: 48}}}}}}
train:
  epochs: 2
  optimizer: {{lr: 1.0e-3}}
  validate_on: {{split: validation}}
  checkpoint: {{every: 4}}
  log_every: 1
evaluate: [{{split: test}}]
"""
"""Of 200 entries: 8 steps per epoch, 16 in all; step-12 and step-16 stay."""
SCREEN = 25
needs_terminal = pytest.mark.skipif(shutil.which("script") is None, reason="no `script` to make a terminal")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    said: str
    """Everything on the console."""


def environment() -> dict[str, str]:
    """One thread a rank, and no world left over from whoever runs the tests."""
    own = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return own | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "COLUMNS": "100"}


def swamp(*arguments: object, limit: str | None = None, unprivileged: bool = False) -> Ended:
    """Run `swamp` to its end.

    Args:
        limit: a `ulimit` option that holds inside, for example `-f 64`.
        unprivileged: where the tests run as the superuser, take away the right to write anywhere.
    """
    command = [*COMMAND, *map(str, arguments)]
    if limit is not None:
        command = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *command]
    if unprivileged and os.geteuid() == 0:
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    return ran(command)


def ran(command: list[str], **variables: str) -> Ended:
    """Run a command to its end, with these variables set on top."""
    done = subprocess.run(
        command, cwd=ROOT, env=environment() | variables, capture_output=True, text=True, timeout=150
    )
    return Ended(done.returncode, done.stdout + done.stderr)


def on_a_terminal(*arguments: object, columns: int = 100, code: int = 0) -> str:
    """What the command prints on a terminal of this width, when it ends with `code`."""
    command = shlex.join([*COMMAND, *map(str, arguments)])
    done = subprocess.run(
        ["script", "-qec", f"stty cols {columns} rows 40; {command}", "/dev/null"],
        cwd=ROOT,
        env=environment() | {"TERM": "xterm-256color", "COLUMNS": str(columns)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=150,
    )
    assert done.returncode == code, done.stdout.decode()
    return done.stdout.decode()


def plain(text: str) -> str:
    """What a terminal showed, without its control codes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")


def refused(ended: Ended, *expected: str, code: int = 2) -> None:
    """The ending of a mistake: its code, every expected text, one screen, no trace."""
    assert ended.code == code, ended.said
    missing = [text for text in expected if text not in ended.said]
    assert not missing, f"{missing} not in:\n{ended.said}"
    assert "Traceback" not in ended.said, ended.said
    assert len(ended.said.splitlines()) <= SCREEN, ended.said


def write_job(folder: Path, shards: Path) -> Path:
    """The job file of the tiny stage over these shards."""
    path = folder / "job.yaml"
    path.write_text(JOB.format(shards=shards))
    return path


def committed(run_dir: Path) -> dict[str, str]:
    """sha256 of every file of every commit."""
    folder = run_dir / "checkpoints"
    return {
        str(path.relative_to(folder)): sha256(path) for path in folder.glob("step-*/**/*") if path.is_file()
    }


def sha256(path: Path) -> str:
    """sha256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def start(*arguments: object, console: Path) -> subprocess.Popen[bytes]:
    """Start the command in the background; what it says goes to `console`."""
    with console.open("ab") as out:
        command = [*COMMAND, *map(str, arguments)]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment(), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def ended(process: subprocess.Popen[bytes], console: Path, seconds: float = 60) -> Ended:
    """Wait for the end; whatever is still there after `seconds` is killed and fails the test."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        raise AssertionError(f"still running after {seconds} s:\n{console.read_text()}") from None
    return Ended(code, console.read_text())


def until(happened: Callable[[], bool], process: subprocess.Popen[bytes], console: Path) -> None:
    """Wait until `happened`; the process must not end before it does."""
    deadline = time.monotonic() + 90
    while not happened():
        assert process.poll() is None, f"ended with {process.returncode} too early:\n{console.read_text()}"
        assert time.monotonic() < deadline, f"did not happen:\n{console.read_text()}"
        time.sleep(0.01)


def rank_pids(process: subprocess.Popen[bytes]) -> list[int]:
    """Process numbers of the ranks that a command started, in rank order."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(int(child) for child in children)


def listening(process: subprocess.Popen[bytes]) -> set[str]:
    """Addresses at which a command and all that it started take connections."""
    found = psutil.Process(process.pid)
    sockets = [c for each in (found, *found.children(recursive=True)) for c in each.net_connections("inet")]
    return {c.laddr.ip for c in sockets if c.status == psutil.CONN_LISTEN}


def running(pid: int) -> bool:
    """Whether a process is there and not merely waiting to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def suspend(*pids: int) -> None:
    """SIGSTOP, and wait until it holds: a process that did not run meanwhile takes what comes after it too,
    the lower number first."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 90
    while any(psutil.Process(pid).status() != psutil.STATUS_STOPPED for pid in pids):
        assert time.monotonic() < deadline, f"not suspended: {pids}"
        time.sleep(0.01)


def flip(path: Path, offset: int) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
