"""Iterations that Sinkhorn needs to the same marginal error, on a real training run: cold and warm, with and
without momentum.

    python tools/bench_warm_start.py data/table13/seed-0

Trains the synthetic experiment's model (contrastive plus SwAMP) at each epsilon and, every few steps, solves
the present queue to the same tolerance: cold, and from the potentials of the step before. Counts, not
times: they do not depend on the machine's load.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from swamp_dist.config import (
    DataSettings,
    EngineSettings,
    MlpSettings,
    ModelSettings,
    ObjectiveSettings,
    OptimizerSettings,
)
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import load_manifest
from swamp_dist.data.stream import open_stream
from swamp_dist.distributed import World, join, leave
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.solve.sinkhorn import solve
from swamp_dist.objective.targets import queue_scores
from swamp_dist.train.engine import Engine

LIMIT = 1000
WAYS = ("cold", "warm", "cold, momentum", "warm, momentum")


def objective_settings(epsilon: float) -> ObjectiveSettings:
    """Table 13's objective with another epsilon, solved well enough at every step to train on."""
    swamp = {
        "weight": 0.1, "prototypes": 500, "temperature": 4 * epsilon, "eta": 4.0,
        "queue": {"size": 1280, "counts_batch": False, "start_when_filled": 500},
        "sinkhorn": {"max_iterations": 20},
    }  # fmt: skip
    return ObjectiveSettings.model_validate({"contrastive": {"form": "hardest"}, "swamp": swamp})


def iterations_needed(
    folder: Path, epsilon: float, tolerance: float, steps: int, every: int, world: World
) -> dict[str, list[int]]:
    """Iteration counts of each way at every `every`-th step of a run of `steps` steps."""
    manifest = load_manifest(folder)
    plan = plan_batches(128, 1, 128, 1, len(manifest.split("train")))
    data = DataSettings(shards=folder, a="a", b="b", cache="memory")
    stream = open_stream(manifest, "train", data, plan, seed=0, rank=0)
    settings = objective_settings(epsilon)
    model = ModelSettings(embedding_dim=16, a=MlpSettings(), b=MlpSettings())
    shape = manifest.field("a").shape
    encoder = build_dual_encoder(
        model, shape, shape, settings.swamp.prototypes, normalize_prototypes=True, seed=0
    )
    engine = Engine(encoder, OptimizerSettings(lr=1e-3), EngineSettings(), plan.local_pairs, world)
    objective = build_objective(settings, plan, 16, world.device)
    counts: dict[str, list[int]] = {way: [] for way in WAYS}
    before = None
    for batch in stream.batches(0, steps):
        embeddings = engine.embed_pairs(batch.a, batch.b)
        terms = objective(embeddings, batch.ids, batch.entries, batch.step, world)
        queue, prototypes = objective.queue, embeddings.prototypes
        assert queue is not None
        assert prototypes is not None
        if batch.step % every in (0, 1) and len(queue) == queue.capacity:
            scores = queue_scores(queue, slice(len(queue)), prototypes.detach())
            stop: dict[str, Any] = {"tolerance": tolerance, "max_iterations": LIMIT, "check_every": 1}
            if before is not None and batch.step % every == 1:
                for way in WAYS:
                    log_v = before if "warm" in way else None
                    found = solve(
                        scores, len(queue), epsilon, log_v=log_v, momentum="momentum" in way, **stop
                    )
                    counts[way].append(found.iterations)
            before = solve(scores, len(queue), epsilon, **stop).log_v
        engine.backward(terms.total)
        engine.step(1e-3)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shards", type=Path, help="a built shard set with fields a and b")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=40)
    chosen = parser.parse_args()
    world = join()
    print(f"N = 1,408, K = 500, {chosen.steps} steps, solves every {chosen.every} (limit {LIMIT} iterations)")
    print("epsilon   tolerance   " + "".join(f"{way:<18}" for way in WAYS) + "(medians)")
    for epsilon, tolerance in ((0.05, 0.01), (0.005, 0.05), (0.005, 0.01), (0.0005, 0.2), (0.0005, 0.05)):
        counts = iterations_needed(chosen.shards, epsilon, tolerance, chosen.steps, chosen.every, world)
        medians = "".join(f"{statistics.median(found):<18g}" for found in counts.values())
        print(f"{epsilon:<9} {tolerance:<11} {medians}", flush=True)
    leave()


if __name__ == "__main__":
    main()
