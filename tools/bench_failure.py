"""What a failure costs: from the kill of a rank to the end of the step that it was at, in a pipeline.

    OMP_NUM_THREADS=1 python tools/bench_failure.py [--ranks 2] [--failures 20] [--every 100]

One stage of `jobs/pretrain/synthetic.yaml` trains under `swamp pipeline`, which starts a failed
stage again. A rank drawn by chance is killed (SIGKILL) at a step drawn between two commits. Seconds of the
clock, in three parts: until the failure is noticed and the stage is started again, until its first step, and
until the step at the kill is done again. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
GIVE_UP = 600.0
PARTS = ("until it starts again", "until its first step", "until the lost step", "in all")

PIPELINE = """
name: failure
shards: [{{recipe: {root}/shards/synthetic.yaml, out: data/synthetic}}]
stages:
  train:
    job: {root}/jobs/pretrain/synthetic.yaml
    overrides:
      - train.epochs=100000
      - train.validate_on=null
      - train.select=last
      - train.log_every=1
      - train.checkpoint.every={every}
ranks: {ranks}
retries: 1000
"""


def records(file: Path, last: int = 1 << 20) -> list[dict[str, Any]]:
    """The lines in the last bytes of a JSON-lines file that is being written."""
    if not file.exists():
        return []
    with file.open("rb") as stream:
        start = max(0, file.stat().st_size - last)
        stream.seek(start)
        lines = stream.read().split(b"\n")
    return [json.loads(line) for line in lines[1 if start else 0 : -1]]


class Stage:
    """The stage under test, seen through its files."""

    def __init__(self, folder: Path) -> None:
        self._events, self._metrics = folder / "events.jsonl", folder / "metrics.jsonl"

    def last(self, name: str) -> dict[str, Any]:
        """The last event of that name."""
        return [e for e in records(self._events) if e["event"] == name][-1]

    def count(self, name: str) -> int:
        """Events of that name so far."""
        return sum(e["event"] == name for e in records(self._events))

    def step(self) -> int:
        """The last step that was logged."""
        steps = [m["step"] for m in records(self._metrics, 8192) if "loss/total" in m]
        return int(steps[-1]) if steps else 0

    def wait(self, reached: Any, pipeline: subprocess.Popen[bytes]) -> float:
        """The time when `reached()` became true."""
        end = time.time() + GIVE_UP
        while not reached():
            if pipeline.poll() is not None or time.time() > end:
                raise SystemExit(f"the stage did not go on: {self._events.parent}")
            time.sleep(0.02)
        return time.time()


def failures(
    stage: Stage, pipeline: subprocess.Popen[bytes], number: int, every: int
) -> Iterator[list[float]]:
    """Kill a rank `number` times; the three parts and their sum, in seconds."""
    draw = random.Random(0)
    for _ in range(number):
        at = stage.step() + draw.randint(every // 2, every + every // 2)
        stage.wait(lambda at=at: stage.step() >= at, pipeline)
        starts = stage.count("training")
        rank = draw.choice(stage.last("started")["ranks"])
        os.kill(rank["pid"], signal.SIGKILL)
        killed, lost = time.time(), stage.step()
        stage.wait(lambda starts=starts: stage.count("training") > starts, pipeline)
        again, first = stage.last("starting")["time"], stage.last("training")["time"]
        done = stage.wait(lambda lost=lost: stage.step() > lost, pipeline)
        yield [again - killed, first - again, done - first, done - killed]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--failures", type=int, default=20)
    parser.add_argument("--every", type=int, default=100, help="steps between commits")
    options = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, seconds of the clock")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "failure.yaml"
        file.write_text(PIPELINE.format(root=ROOT, ranks=options.ranks, every=options.every))
        command = [sys.executable, "-m", "swamp_dist", "pipeline", str(file), "--run-dir", "run"]
        with (Path(folder) / "console.log").open("wb") as console:
            pipeline = subprocess.Popen(command, cwd=folder, stdout=console, stderr=console)
        try:
            stage = Stage(Path(folder) / "run" / "train")
            stage.wait(lambda: stage.step() > 0, pipeline)
            found = list(failures(stage, pipeline, options.failures, options.every))
        finally:
            pipeline.send_signal(signal.SIGTERM)
            pipeline.wait(120)
        step = statistics.median(
            m["perf/step_seconds"] for m in records(Path(folder) / "run/train/metrics.jsonl")[1:]
        )
    print(f"{options.failures} kills of one of {options.ranks} ranks")
    print(f"a commit every {options.every} steps of {step * 1e3:.0f} ms")
    for name, values in zip(PARTS, zip(*found, strict=True), strict=True):
        print(f"{name:24} median {statistics.median(values):6.2f} s, worst {max(values):6.2f} s")


if __name__ == "__main__":
    main()
