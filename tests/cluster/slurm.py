"""Submits the tiny stage to the SLURM of tools/slurm/start.sh and watches what becomes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.end_to_end.command import ROOT, sha256, swamp

LONG = ("train.epochs=60", "train.checkpoint.every=40", "train.validate_on.every=20", "train.log_every=10")
STEPS = 480
"""Long enough to be caught in the middle."""
CLUSTER = """\
backend: slurm
launcher: {launcher}
nodes: 2
cpus_per_task: 1
memory_gb: 1
time_limit: {minutes}
signal_seconds: {signal}
max_restarts: {restarts}
"""
_OVER = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}
PATIENCE = 400.0
"""Seconds for anything to happen: a busy machine takes long to import torch."""


def slurm(*command: str) -> str:
    """What a SLURM command prints; asked again where a busy controller does not answer."""
    deadline = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return done.stdout.strip()
        assert "Socket timed out" in done.stderr, f"{command}: {done.stderr}"
        assert command[0] != "sbatch", f"{command}: the job may have been submitted\n{done.stderr}"
        assert time.monotonic() < deadline, f"{command}: no answer in {PATIENCE:.0f} s"


@dataclass(frozen=True)
class Job:
    """A submitted stage."""

    number: str
    run_dir: Path

    def state(self) -> str:
        """SLURM's word for its state."""
        return slurm("squeue", "--noheader", "--states=all", f"--jobs={self.number}", "--format=%T").split()[
            0
        ]

    def console(self) -> str:
        """What its batch script and first rank said."""
        path = self.run_dir / "logs" / "slurm" / f"{self.number}_0_log.out"
        return path.read_text(errors="replace") if path.is_file() else ""

    def events(self, kind: str | None = None) -> list[dict[str, object]]:
        """Events of the run folder, of one kind or all."""
        path = self.run_dir / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.is_file() else []
        found = [json.loads(line) for line in lines]
        return [e for e in found if kind in (None, e["event"])]

    def step(self) -> int:
        """Newest committed step, 0 before there is one."""
        folders = (self.run_dir / "checkpoints").glob("step-*")
        return max((int(folder.name[5:]) for folder in folders), default=0)

    def until(self, happened: Callable[[], bool], what: str) -> None:
        """Wait until `happened`; the job must not be over before."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            state = self.state()
            assert state not in _OVER or happened(), f"{state} before {what}:\n{self.story()}"
            assert time.monotonic() < deadline, f"no {what}:\n{self.story()}"
            time.sleep(0.1)

    def over(self) -> str:
        """Wait for the end of the job, over all its starts; its last state."""
        deadline = time.monotonic() + PATIENCE
        while (state := self.state()) not in _OVER:
            assert time.monotonic() < deadline, f"still {state}:\n{self.story()}"
            time.sleep(0.2)
        return state

    def exit_code(self) -> int:
        """Exit code of the batch script."""
        shown = slurm("scontrol", "show", "job", self.number)
        return int(shown.split("ExitCode=")[1].split(":")[0])

    def seconds(self) -> int:
        """How long its present start has run."""
        shown = slurm("scontrol", "show", "job", self.number).split("RunTime=")[1].split()[0]
        hours, minutes, seconds = map(int, shown.split("-")[-1].split(":"))
        return 3600 * hours + 60 * minutes + seconds

    def restarts(self) -> int:
        """How often SLURM started it again."""
        return int(slurm("scontrol", "show", "job", self.number).split("Restarts=")[1].split()[0])

    def story(self) -> str:
        """For the message of a failure."""
        events = "\n".join(map(str, self.events()))
        return f"{slurm('scontrol', 'show', 'job', self.number)}\n{events}\n{self.console()[-4000:]}"

    def weights(self) -> str:
        """sha256 of the weights."""
        return sha256(self.run_dir / "weights.safetensors")

    def rank_pids(self) -> list[int]:
        """Process numbers of the ranks that run now, in rank order."""
        found: dict[int, int] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command = (folder / "cmdline").read_bytes().split(b"\0")
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            mine = f"SLURM_JOB_ID={self.number}".encode() in variables
            if mine and b"swamp_dist.backends.rank" in command and b"srun" not in command[0]:
                rank = next((v[13:] for v in variables if v.startswith(b"SLURM_PROCID=")), None)
                if rank is not None and str(self.run_dir).encode() in command:
                    number = int(folder.name)
                    found[int(rank)] = min(number, found.get(int(rank), number))  # not its loader processes
        return [found[rank] for rank in sorted(found)]


def submit(
    job_file: Path,
    run_dir: Path,
    *overrides: str,
    minutes: int = 30,
    signal: int = 60,
    restarts: int = 3,
    launcher: str = "srun",
) -> Job:
    """Submit a job file for two nodes."""
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    cluster = run_dir.parent / f"{run_dir.name}-cluster.yaml"
    cluster.write_text(CLUSTER.format(minutes=minutes, signal=signal, restarts=restarts, launcher=launcher))
    done = swamp("submit", job_file, *overrides, "--cluster", cluster, "--run-dir", run_dir)
    assert done.code == 0, done.said
    return Job(done.said.split("job:")[1].split()[0], run_dir)


def slurm_is_up() -> bool:
    """Whether a SLURM answers on this host."""
    if shutil.which("scontrol") is None:
        return False
    asked = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=60)
    return " is UP" in asked.stdout


def start_slurm() -> None:
    """Two nodes for two ranks each, so that two jobs can run at once; brings back what is down."""
    done = subprocess.run(
        [str(ROOT / "tools/slurm/start.sh"), "2", "2"],
        capture_output=True,
        text=True,
        timeout=300,
        env=dict(os.environ),
    )
    assert done.returncode == 0, done.stdout + done.stderr
