"""What a tiny stage costs by part, in seconds of its processes, beside a bare import of its libraries.

    python tools/bench_start.py --repetitions 3

It is started as a process and as a fork of a server (`backends/fork_server.py`), by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from swamp_dist.backends.forked_stages import fork_server
from swamp_dist.config import ShardSettings, StageSettings
from swamp_dist.loading import from_values
from swamp_dist.pipelines.task import run_in_child
from swamp_dist.prepare.build import build_shards
from swamp_dist.runs.folder import RunDir

STAGES = 4
LIMIT = "import torch, deepspeed"
PARTS = """
import json, os, sys, time
marks, began = {}, 0.0
def mark(name):
    global began
    marks[name], began = time.process_time() - began, time.process_time()
mark("interpreter")
import torch
mark("torch")
import swamp_dist.stage.rank as rank, swamp_dist.stage.run as run
mark("the package")
from swamp_dist.distributed import alone
from swamp_dist.train.deepspeed_library import import_deepspeed
import_deepspeed(alone())
mark("deepspeed")
def after(module, name, part):
    inner = getattr(module, name)
    def timed(*given, **named):
        mark("between")
        found = inner(*given, **named)
        mark(part)
        return found
    setattr(module, name, timed)
between = 0.0
after(rank, "join", "meeting")
after(run, "build_stream", "data")
after(run, "build_engine", "engine")
after(run, "open_metrics", "loggers")
after(run, "train", "training")
from pathlib import Path
code = rank.run_rank(Path(sys.argv[1]), Path(sys.argv[2]), [], lambda *_: False)
marks["the rest"] = time.process_time() - sum(v for k, v in marks.items() if k not in ("between", "the rest"))
del marks["between"]
print(json.dumps(marks), file=open(sys.argv[3], "w"))
os._exit(code)
"""


def stage_in(folder: Path, shards: Path) -> RunDir:
    """A run folder with a tiny stage of 8 steps."""
    run, mlp = RunDir(folder), {"kind": "mlp", "hidden": [16]}
    values = {
        "name": "tiny",
        "data": {"shards": str(shards), "a": "a", "b": "b", "entries": 8, "workers": 0},
        "model": {"embedding_dim": 8, "a": mlp, "b": mlp},
        "objective": {"swamp": {"prototypes": 4, "queue": {"size": 16}}},
        "train": {"epochs": 1},
        "evaluate": [{"split": "test"}],
    }
    run.create()
    run.write_stage(from_values(values, StageSettings, "stage"))
    return run


def seconds_of(run: Callable[[], object]) -> float:
    """Processor seconds of all child processes that end inside `run`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def stages_take(folder: Path, shards: Path, count: int, is_forked: bool) -> float:
    """Seconds of `count` stages one after the other, the server included."""

    def run_all(server: str | None = None) -> None:
        for number in range(count):
            stage = stage_in(folder / str(number), shards)
            if run_in_child(stage.stage_yaml, stage.path, 1, server):
                raise SystemExit(stage.console_log.read_text())

    def run_forks() -> None:
        with fork_server({}) as server:
            run_all(server)

    return seconds_of(run_forks if is_forked else run_all)


def main() -> None:
    """Print the parts, then stages of both ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=3)
    repetitions = parser.parse_args().repetitions
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as scratch:
        root, parts, ways = Path(scratch), list[dict[str, float]](), dict[str, list[float]]()
        splits = {"train": {"classes": [0, 4], "total": 64}, "test": {"classes": [4, 6], "total": 16}}
        recipe = {"name": "tiny", "source": {"kind": "synthetic", "splits": splits}}
        build_shards(from_values(recipe, ShardSettings, "recipe"), root / "shards")
        for turn in range(repetitions):
            limit = seconds_of(lambda: subprocess.run([sys.executable, "-c", LIMIT], check=True))
            ways.setdefault("bare import of torch and deepspeed", []).append(limit)
            stage = stage_in(root / f"parts-{turn}", root / "shards")
            command = [
                sys.executable,
                "-c",
                PARTS,
                str(stage.stage_yaml),
                str(stage.path),
                str(root / "parts"),
            ]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            parts.append(json.loads((root / "parts").read_text()))
            for is_forked in (False, True):
                name = f"a stage of {STAGES}, {'forked, server included' if is_forked else 'started'}"
                folder = root / f"{turn}-{is_forked}"
                taken = stages_take(folder, root / "shards", STAGES, is_forked) / STAGES
                ways.setdefault(name, []).append(taken)
    print(f"seconds of processes, medians of {repetitions}, load {os.getloadavg()[0]:.0f}")
    for name in parts[0]:
        print(f"  {name:40s} {statistics.median(each[name] for each in parts):6.2f}")
    for name, seconds in ways.items():
        print(f"{name:42s} {statistics.median(seconds):6.2f} ({min(seconds):.2f} to {max(seconds):.2f})")


if __name__ == "__main__":
    main()
