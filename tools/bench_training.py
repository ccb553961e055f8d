"""A training of HowTo100M's network by the published loop and by ours: the same steps, loading included.

    OMP_NUM_THREADS=1 python tools/bench_training.py                                # E = 512, with loading
    OMP_NUM_THREADS=1 python tools/bench_training.py --dim 4096 --fixed --videos 2  # network, loss and Adam

Each has one process without loaders beside it, so that seconds of the process count everything, and of its
own (`own_process.py`); they read the same videos from a warm page cache and take turns. Loss, network, batch
and learning rate are those of the README of the published code, without SwAMP. Beside the ratio stands the
share of a program's operations that matrix products are, as torch's profiler tells it, and the ratio that
would be left if all the rest took no time. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from bench_clips import make_shards
from bench_overhead import PRODUCTS
from bench_step import print_machine
from own_process import Program, own_processes, take_turns_apart
from published_loop import HARD_RATE, MARGIN, RATE, Training
from torch.profiler import ProfilerActivity, profile
from whole_file_loader import make_raw, open_raw

from swamp_dist.config import (
    ClipSettings,
    DataSettings,
    EngineSettings,
    GatedSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
    WordsSettings,
)
from swamp_dist.data.inputs import input_specs
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.stream import open_stream
from swamp_dist.distributed import join, leave
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import PairBatch, ProductLibrary
from swamp_dist.train.engine import Engine
from swamp_dist.train.step import train_step

SHARDS = "shards"
Changes: TypeAlias = Mapping[str, Any]
NO_CHANGES: Changes = {}
GOALS = {512: 4.0, 4096: 1.4}
"""How many times faster ours should be, by E."""


class Size(NamedTuple):
    """Of the embeddings, a batch and what is measured at a time."""

    dim: int
    videos: int
    pairs: int
    steps: int
    is_fixed: bool
    """Whether the first batch is taken again and again, so that nothing is loaded."""


def published(folder: Path, size: Size) -> Program:
    """So many steps of the published loop; the last loss."""
    training = Training(open_raw(folder), size.dim, size.videos, size.pairs)
    batches = training.batches()
    if size.is_fixed:
        batches = itertools.repeat(next(batches))
    return lambda: [training.step(batch) for batch in itertools.islice(batches, size.steps)][-1]


def ours(
    folder: Path,
    size: Size,
    *,
    optimizer: Changes = NO_CHANGES,
    engine: Changes = NO_CHANGES,
    objective: Changes = NO_CHANGES,
    library: ProductLibrary | None = None,
) -> Program:
    """The same by the package.

    Args:
        optimizer, engine, objective: settings of a variant, beside those of the comparison.
        library: what multiplies float32 matrices; None: what a training takes on this CPU.
    """
    world, manifest = join(), load_manifest(folder / SHARDS)
    plan = plan_batches(size.videos, size.pairs, size.videos, 1, len(manifest.split("train")))
    data = DataSettings(
        shards=manifest.folder,
        clips=ClipSettings(),
        entries=size.videos,
        pairs_per_entry=size.pairs,
        workers=0,
    )
    contrastive = {"form": "all", "margin": MARGIN, "in_entry_share": HARD_RATE}
    terms = ObjectiveSettings.model_validate(
        {"contrastive": contrastive, "swamp": {"weight": 0}, **objective}
    )
    model = ModelSettings(embedding_dim=size.dim, a=WordsSettings(), b=GatedSettings(unit_parts=(2048, 2048)))
    dual = build_dual_encoder(model, *input_specs(manifest, data), None, normalize_prototypes=True, seed=1)
    updates = OptimizerSettings.model_validate({"lr": RATE, **optimizer})
    trained = Engine(dual, updates, EngineSettings.model_validate({**engine}), plan.pairs, world)
    trained.product_library = library or trained.product_library
    loss = build_objective(terms, plan, size.dim, world.device)
    batches = iter(open_stream(manifest, "train", data, plan, seed=1, rank=0).batches(0, 10**9))
    if size.is_fixed:
        batches = itertools.repeat(next(batches))

    def step(batch: PairBatch) -> float:
        done = train_step(
            trained,
            loss,
            batch,
            learning_rate=RATE,
            seed=1,
            stop_requested=False,
            keys_of=lambda ids: [],
            world=world,
        )
        return done.losses["loss/total"]

    return lambda: [step(batch) for batch in itertools.islice(batches, size.steps)][-1]


PROGRAMS: dict[str, Callable[[Path, Size], Program]] = {
    "published loop": published,
    "ours": ours,
    "ours, fused Adam": partial(ours, optimizer={"fused": True}),
    "ours, BLAS": partial(ours, library="blas"),
}
"""What is compared, by name: made in its own process, given the folder of the data."""


def product_share(program: Program) -> float:
    """Share of a program's operations that matrix products take."""
    with profile(activities=[ProfilerActivity.CPU]) as told:
        program()
    events = told.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    return sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS) / whole


def largest_parts(program: Program, count: int = 12) -> list[tuple[str, float]]:
    """Operations that take most time themselves, as shares of all."""
    with profile(activities=[ProfilerActivity.CPU]) as told:
        program()
    events = told.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    found = sorted(((event.key, event.self_cpu_time_total / whole) for event in events), key=lambda x: -x[1])
    return found[:count]


def bench(folder: Path, size: Size, chosen: argparse.Namespace) -> None:
    builds = {name: partial(build, folder, size) for name, build in PROGRAMS.items()}
    what = "a batch that stays: network, loss, Adam" if size.is_fixed else "loading included"
    with own_processes(builds) as programs:
        found = take_turns_apart(programs, chosen.repetitions)
        print(
            f"\nE = {size.dim}, {size.videos} videos x {size.pairs} = {size.videos * size.pairs} pairs, "
            f"{size.steps} steps, {what} (goal: {GOALS.get(size.dim, 1.0)} times as fast)"
        )
        first = found["published loop"]
        for name, seconds in found.items():
            products, ratio = programs[name].ask(product_share), first / seconds
            print(
                f"  {name:18s} {1e3 * seconds / size.steps:9.1f} ms a step   {ratio:5.2f} x   "
                f"products {products:6.1%}, alone {ratio / products:5.2f} x",
                flush=True,
            )
        if chosen.parts:
            for name, share in programs["ours"].ask(largest_parts):
                print(f"    {name:50s} {share:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=512, help="E (default: %(default)s)")
    parser.add_argument("--videos", type=int, default=8, help="of a batch (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=64, help="of a video (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=3, help="of a turn (default: %(default)s)")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=66_250)
    parser.add_argument("--fixed", action="store_true", help="load one batch and take it again and again")
    parser.add_argument("--parts", action="store_true", help="the largest operations of our step")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print_machine(join())
    leave()
    size = Size(chosen.dim, chosen.videos, chosen.pairs, chosen.steps, chosen.fixed)
    with tempfile.TemporaryDirectory() as given:
        folder = Path(given)
        make_shards(make_raw(folder, max(24, chosen.videos), chosen.vocabulary), folder / SHARDS)
        bench(folder, size, chosen)


if __name__ == "__main__":
    main()
