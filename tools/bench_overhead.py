"""What a training step takes beside its products: a step of Table 13's size, and one of E = 512 in parts.

    OMP_NUM_THREADS=1 python tools/bench_overhead.py

A step of Table 13 (128 pairs of 2 x 50 units, E = 5) is compared with the same step in plain torch: the same
encoders, formula and optimiser, no engine, no queue. Programs take turns; nothing is asserted.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from bench_step import LOG_EVERY, print_machine, take_turns, training_step
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile, record_function

from swamp_dist.config import EngineSettings, MlpSettings, ModelSettings, ObjectiveSettings, OptimizerSettings
from swamp_dist.distributed import World, join, leave
from swamp_dist.model.dual_encoder import build_dual_encoder
from swamp_dist.objective.objective import build_objective
from swamp_dist.records import BatchPlan, PairBatch
from swamp_dist.train.engine import Engine
from swamp_dist.train.step import train_step

PAIRS, WIDTH, DIM, MARGIN, RATE = 128, 10, 5, 0.1, 1e-3
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::mv", "aten::addmv_", "aten::addmv")
TABLE13 = {
    "prototypes": 1000,
    "normalize_prototypes": False,
    "temperature": 0.01,
    "eta": 20,
    "queue": {"size": 1280, "counts_batch": False, "start_when_filled": 0},
    "sinkhorn": {"iterations": 3, "warm_start": False},
}


def plain_step(a: Tensor, b: Tensor) -> Callable[[], object]:
    """A step of the hardest hinge (eq. 1), mean over the batch, in plain torch."""

    def encoder() -> nn.Module:
        return nn.Sequential(
            nn.Linear(WIDTH, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, DIM)
        )

    of_a, of_b = encoder(), encoder()
    optimizer = torch.optim.Adam([*of_a.parameters(), *of_b.parameters()], lr=RATE)
    others = ~torch.eye(PAIRS, dtype=torch.bool)

    def step() -> float:
        x, y = functional.normalize(of_a(a), dim=1), functional.normalize(of_b(b), dim=1)
        scores = x @ y.t()
        own, rest = scores.diagonal(), scores.masked_fill(~others, -torch.inf)
        loss = sum((MARGIN - own + rest.amax(dim=dim)).clamp_min(0).mean() for dim in (0, 1))
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())

    return step


def our_step(world: World, a: Tensor, b: Tensor, weight: float, *, fused: bool) -> Callable[[], object]:
    """The same by the package, with the SwAMP term where it has a weight."""
    swamp: dict[str, Any] = {**TABLE13, "weight": weight}
    contrastive = {"form": "hardest", "margin": MARGIN, "reduction": "mean"}
    settings = ObjectiveSettings.model_validate({"contrastive": contrastive, "swamp": swamp})
    encoder = MlpSettings(hidden=(50, 50))
    model = ModelSettings(embedding_dim=DIM, a=encoder, b=encoder)
    prototypes = settings.swamp.prototypes if weight > 0 else None
    dual = build_dual_encoder(model, (WIDTH,), (WIDTH,), prototypes, normalize_prototypes=False, seed=0)
    engine = Engine(dual, OptimizerSettings(lr=RATE, fused=fused), EngineSettings(), PAIRS, world)
    objective = build_objective(settings, BatchPlan(PAIRS, 1, PAIRS, 1), DIM, world.device)
    ids, steps = torch.arange(PAIRS), iter(range(10**9))

    def step() -> object:
        number = next(steps)
        return train_step(
            engine,
            objective,
            PairBatch(number, ids, ids, a, b),
            learning_rate=RATE,
            seed=0,
            stop_requested=False,
            keys_of=lambda ids: [],
            world=world,
            is_logged=(number + 1) % LOG_EVERY == 0,
        )

    return step


def repeated(step: Callable[[], object], times: int = 20) -> Callable[[], object]:
    """So many steps as one program: one of them is shorter than a clock's tick on a busy machine."""
    return lambda: [step() for _ in range(times)]


def bench_table13(world: World, repetitions: int) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, PAIRS, WIDTH, generator=generator)
    programs = {
        "plain torch, contrastive": plain_step(a, b),
        "ours, contrastive": our_step(world, a, b, 0.0, fused=False),
        "ours, contrastive, fused Adam": our_step(world, a, b, 0.0, fused=True),
        "ours with SwAMP": our_step(world, a, b, 0.01, fused=False),
        "ours with SwAMP, fused Adam": our_step(world, a, b, 0.01, fused=True),
    }
    found = take_turns({name: repeated(step) for name, step in programs.items()}, repetitions)
    print("\nA step of Table 13's size (goal of contrastive: at most 1.5 times plain torch)")
    for name, seconds in found.items():
        ratio = seconds / found["plain torch, contrastive"]
        print(f"  {name:30s} {1e3 * seconds / 20:8.3f} ms   {ratio:5.2f} x plain torch")


def bench_parts(world: World, repetitions: int) -> None:
    """Shares of steps of contrastive + SwAMP at E = 512, 256 pairs, as the profiler tells them."""
    step = training_step(world, 512, 0.25, 4, 64, parts=record_function)
    step()
    with profile(activities=[ProfilerActivity.CPU]) as told:
        for _ in range(repetitions):
            step()
    events = told.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    products = sum(event.self_cpu_time_total for event in events if event.key in PRODUCTS)
    print(f"\nA step at E = 512, 256 pairs, K = 500, queue 2,048: {whole / repetitions / 1e3:.1f} ms")
    print(f"  matrix products                {products / whole:6.1%}")
    update = sum(event.cpu_time_total for event in events if event.key == "engine.step")
    print(f"  neither these nor the update   {1 - (products + update) / whole:6.1%}   (goal: at most 10%)")
    for name in ("embed", "objective", "engine.backward", "engine.step"):
        spent = sum(event.cpu_time_total for event in events if event.key == name)
        own = sum(event.self_cpu_time_total for event in events if event.key == name)
        print(f"  {name:30s} {spent / whole:6.1%}, outside torch's operations {own / whole:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=9)
    chosen = parser.parse_args()
    world = join()
    print_machine(world)
    bench_table13(world, chosen.repetitions)
    bench_parts(world, chosen.repetitions)
    leave()


if __name__ == "__main__":
    main()
