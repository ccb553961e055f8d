"""What SwAMP costs: step time and loader, as ratios measured side by side in one run.

    python tools/bench_step.py                       # everything, sizes for a small CPU machine
    python tools/bench_step.py --embedding-dim 4096  # the paper's video size (wants a GPU)

Timings are medians over repetitions in which the compared programs take turns, so a change in the
machine's load hits all of them. Limits are printed beside the figures; nothing is asserted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from swamp_dist.config import (
    DataSettings,
    EngineSettings,
    GatedSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
)
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.stream import open_stream
from swamp_dist.data.writer import write_shards
from swamp_dist.distributed import World, join, leave
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.objective.objective import build_objective
from swamp_dist.product_library import training_products
from swamp_dist.records import BatchPlan, Sample
from swamp_dist.train.engine import Engine

Result = TypeVar("Result")
LOG_EVERY = 10
"""Steps, as a stage's default: what the log alone shows is computed on these."""


def take_turns(programs: dict[str, Callable[[], object]], repetitions: int) -> dict[str, float]:
    """Median seconds of each program, as `timed`; they run in turn, after one unmeasured round."""
    return median_of_turns(
        {name: partial(seconds_of, program) for name, program in programs.items()}, repetitions
    )


def median_of_turns(runs: dict[str, Callable[[], float]], repetitions: int) -> dict[str, float]:
    """Median of what each run tells; they take turns, and a first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repetition in range(repetitions + 1):
        for name, run in runs.items():
            spent = run()
            if repetition > 0:
                seconds[name].append(spent)
    return {name: statistics.median(values) for name, values in seconds.items()}


def seconds_of(program: Callable[[], object]) -> float:
    """Seconds of a program, as `timed`."""
    return timed(program)[0]


def timed(program: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds of a program, and what it gave.

    On one thread of a CPU these are seconds of the process: what others do on the machine is not counted,
    but for the caches that they share.
    """
    clock = time.process_time if _is_one_thread() else time.perf_counter
    _wait()
    began = clock()
    found = program()
    _wait()
    return clock() - began, found


def _is_one_thread() -> bool:
    return not torch.cuda.is_available() and torch.get_num_threads() == 1


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def print_machine(world: World) -> None:
    """What the figures below belong to."""
    device = (
        torch.cuda.get_device_name()
        if world.device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    clock = "seconds of the process" if _is_one_thread() else "seconds"
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    print(f"{device}, torch {torch.__version__}, {load}, Python {sys.version.split()[0]}, {clock}")


# -- the step --------------------------------------------------------------------------------------


def training_step(
    world: World,
    embedding_dim: int,
    swamp_weight: float,
    entries: int,
    each: int,
    measure_every: int | None = None,
    parts: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Callable[[], None]:
    """One update at the paper's video sizes on random pooled features (the word network is left out)."""
    swamp = {"weight": swamp_weight, "measure_every": measure_every, "queue": {"start_when_filled": 0}}
    settings = ObjectiveSettings.model_validate({"swamp": swamp | {"sinkhorn": {"iterations": 3}}})
    plan = BatchPlan(entries, each, entries, world.size)
    model = ModelSettings(embedding_dim=embedding_dim, a=GatedSettings(), b=GatedSettings())
    prototypes = settings.swamp.prototypes if swamp_weight > 0 else None
    encoder = build_dual_encoder(model, (300,), (4096,), prototypes, normalize_prototypes=True, seed=0)
    engine = Engine(encoder, OptimizerSettings(), EngineSettings(), plan.local_pairs, world)
    objective = build_objective(settings, plan, embedding_dim, world.device, rank=world.rank)
    a, b = (torch.randn(plan.local_pairs, n, device=world.device) for n in (300, 4096))
    ids = torch.arange(plan.local_pairs, device=world.device) + world.rank * plan.local_pairs
    steps = iter(range(10**9))

    def step() -> None:
        number = next(steps)
        is_logged = (number + 1) % LOG_EVERY == 0
        with training_products(engine.product_library):
            with parts("embed"):
                given = engine.embed_pairs(a, b)
            with parts("objective"):
                terms = objective(given, ids, ids // each, number, world, is_logged=is_logged)
            with parts("engine.backward"):
                engine.backward(terms.total)
        objective.measure(terms, world)
        with parts("engine.step"):
            engine.step(1e-4, measures_norm=is_logged)

    return step


def bench_step(world: World, embedding_dim: int, entries: int, each: int, repetitions: int) -> None:
    programs: dict[str, Callable[[], object]] = {
        "contrastive": training_step(world, embedding_dim, 0.0, entries, each),
        "contrastive + SwAMP": training_step(world, embedding_dim, 0.25, entries, each),
        "measuring each step": training_step(world, embedding_dim, 0.25, entries, each, measure_every=1),
    }
    found = take_turns(programs, repetitions)
    print(
        f"\nStep: {entries} videos x {each} clips = {entries * each} pairs, E = {embedding_dim}, K = 500, "
        "queue 2,048, T = 3"
    )
    for name, seconds in found.items():
        print(f"  {name:22s} {1e3 * seconds:9.1f} ms")
    print(
        f"  ratio {found['contrastive + SwAMP'] / found['contrastive']:.3f}   (goal at E = 4,096: at most "
        "1.10)"
    )
    measuring = found["measuring each step"] / found["contrastive + SwAMP"] - 1
    print(
        f"  a measurement of the ratio of gradients takes {measuring:.1%} of a step: {measuring / 10:.2%} at "
        "measure_every = 10 (goal: at most 2%)"
    )


# -- the loader ------------------------------------------------------------------------------------


def bench_loader(entries: int, repetitions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = _video_shards(Path(folder) / "video", entries)
        plan = plan_batches(256, 1, 256, 1, entries)
        size = sum(shard.bytes for shard in manifest.record.splits["train"].shards) / entries
        print(
            f"\nLoader: entries of text 300 + video 4,096, float16 ({size:.0f} bytes per entry), batches of "
            "256"
        )
        for name, reading, cache, workers in (
            ("seek", "seek", "none", 0),
            ("seek, 2 workers", "seek", "none", 2),
            ("stream (webdataset)", "stream", "none", 0),
            ("memory", "seek", "memory", 0),
        ):
            data = DataSettings.model_validate(
                {"shards": str(manifest.folder), "cache": cache, "reading": reading, "workers": workers}
            )
            stream = open_stream(manifest, "train", data, plan, seed=0, rank=0)
            steps = stream.steps_per_epoch * repetitions
            began = time.perf_counter()
            pairs = sum(len(batch.ids) for batch in stream.batches(0, steps))
            rate = pairs / (time.perf_counter() - began)
            stream.close()
            print(f"  {name:22s} {rate:10,.0f} pairs/s   {rate * size / 1e6:8.1f} MB/s")


def _video_shards(folder: Path, entries: int) -> Manifest:
    random = np.random.default_rng(0)

    def sample(number: int) -> Sample:
        fields = {
            name: random.standard_normal(n).astype(np.float16) for name, n in (("text", 300), ("video", 4096))
        }
        return Sample(f"{number:06d}", fields)

    return write_shards({"train": map(sample, range(entries))}, folder, "video", {}, shuffle_seed=None)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--embedding-dim", type=int, default=512, help="E; the paper's is 4096 (default: %(default)s)"
    )
    parser.add_argument("--entries", type=int, default=32, help="videos of a batch (default: %(default)s)")
    parser.add_argument(
        "--pairs-per-entry", type=int, default=64, help="clips of a video (default: %(default)s)"
    )
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", choices=["step", "loader"], action="append")
    chosen = parser.parse_args()
    only = chosen.only or ["step", "loader"]
    world = join()
    print_machine(world)
    if "step" in only:
        bench_step(world, chosen.embedding_dim, chosen.entries, chosen.pairs_per_entry, chosen.repetitions)
    if "loader" in only:
        bench_loader(4096, 3)
    leave()


if __name__ == "__main__":
    main()
