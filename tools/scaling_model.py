"""Step time of the paper's video configuration on 8 to 1,024 GPUs, from counted operations and bytes. A
model.

    python tools/scaling_model.py

Operations, bytes and messages are those of `swamp show --cost`, which tests hold against counts. The rates
are not measured here: published figures of an H100 node and assumptions, each named below; change them and
see. A step is taken as encoders, then gathers, contrastive term and solve, then gradient reduction, none of
which overlaps another, so it is late rather than early. Host time, loading and stragglers are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from swamp_dist.config import DataSettings, EngineSettings, ModelSettings, ObjectiveSettings, StageSettings
from swamp_dist.costs.table import ModelCost, model_cost
from swamp_dist.objective.costs import solve_flops
from swamp_dist.objective.memory import FLOAT
from swamp_dist.objective.placement import expected_iterations
from swamp_dist.objective.step_cost import StepCost, step_cost
from swamp_dist.records import InputSpec

EMBEDDING_DIM, VIDEO_DIM, WORDS, WORD_DIM, PROTOTYPES, QUEUE = 4096, 4096, 20, 300, 500, 2048


@dataclass(frozen=True)
class Rates:
    """What a GPU and its network do a second."""

    encoders: float = 4e14
    """Operations in bf16: 40% of an H100's 989e12 (assumed)."""
    float32: float = 3e13
    """Operations of float32 products without TF32: half of an H100's 67e12 (assumed)."""
    memory: float = 2.8e12
    """Bytes of HBM3 read or written, of 3.35e12 (assumed)."""
    node: float = 4e11
    """Bytes of a ring inside a node of 8 (NVLink; assumed from 450e9 a direction)."""
    network: float = 3e11
    """Bytes of rings between nodes: 8 adapters of 400 Gbit/s per node, over all of which NCCL spreads its
    rings, at 75% of their 4e11 (assumed)."""

    def ring(self, world_size: int) -> float:
        """Bytes per second that a GPU sends when `world_size` of them form a ring."""
        return self.node if world_size <= 8 else self.network

    def latency(self, world_size: int) -> float:
        """Seconds of a small all-reduce: 12 us on 8 GPUs, 40 on 64, 90 on 1,024 (assumed, log-linear
        between)."""
        if world_size == 1:
            return 0.0
        return 1e-6 * (12 + max(0.0, math.log2(world_size / 8)) * (78 / 7))


def stage(entries: int, each: int, swamp_weight: float) -> StageSettings:
    """The paper's video stage with this batch; the solve has three iterations, as its synthetic
    experiment."""
    objective = {
        "swamp": {
            "weight": swamp_weight, "prototypes": PROTOTYPES,
            "queue": {"size": QUEUE}, "sinkhorn": {"iterations": 3},
        }
    }  # fmt: skip
    parts = {"kind": "gated", "unit_parts": [VIDEO_DIM // 2, VIDEO_DIM // 2]}
    model = {"embedding_dim": EMBEDDING_DIM, "a": {"kind": "words"}, "b": parts}
    data = {"shards": "none", "entries": entries, "pairs_per_entry": each, "lanes": entries}
    return StageSettings(
        name="model",
        data=DataSettings.model_validate(data),
        model=ModelSettings.model_validate(model),
        objective=ObjectiveSettings.model_validate(objective),
        engine=EngineSettings(precision="bf16"),
        evaluate=[{"split": "test"}],  # type: ignore[arg-type]
    )


def costs(settings: StageSettings, world_size: int) -> tuple[StepCost, ModelCost]:
    """What a rank of `world_size` does in a step."""
    data = settings.data
    pairs = data.entries * data.pairs_per_entry
    step = step_cost(settings.objective, pairs, data.pairs_per_entry, EMBEDDING_DIM, world_size)
    specs = InputSpec((WORDS,), WORD_DIM), InputSpec((VIDEO_DIM,))
    return step, model_cost(settings, specs, EMBEDDING_DIM, world_size)


def seconds(settings: StageSettings, world_size: int, rates: Rates) -> dict[str, float]:
    """Seconds of each part of a step."""
    step, model = costs(settings, world_size)
    found = {"encoders": model.flops["encoders"] / rates.encoders}
    held = sum(model.memory[part] for part in ("weights", "gradients", "optimiser"))
    found["update"] = 2 * held / rates.memory  # read and written once
    found["objective"] = sum(step.flops[part] for part in step.flops if part != "solve") / rates.float32
    found["solve"] = _solve_seconds(settings.objective, step, rates) if step.placement else 0.0
    ring = rates.ring(world_size)
    found["gather, reduce-scatter"] = sum(
        c.sent(world_size) / ring + rates.latency(world_size) / c.every for c in step.collectives
    )
    found["gradients"] = sum(model.sent.values()) / ring
    return found


def _solve_seconds(objective: ObjectiveSettings, step: StepCost, rates: Rates) -> float:
    """Product in float32; then the kernel is made and read once per iteration, of both modalities."""
    iterations = expected_iterations(objective)
    product, _ = solve_flops(step.rows, PROTOTYPES, EMBEDDING_DIM, iterations, False, step.blocks > 1)
    return product / rates.float32 + 2 * step.rows * PROTOTYPES * FLOAT * (iterations + 2) / rates.memory


def show(title: str, batches: dict[int, tuple[int, int]], rates: Rates) -> None:
    """One line for each world size and its (entries, pairs per entry)."""
    print(
        f"\n{title}\n  GPUs    batch   /GPU   step ms   pairs/s      efficiency   SwAMP / contrastive "
        "  parts in ms"
    )
    first: float | None = None
    for size, (entries, each) in batches.items():
        with_swamp, without = (seconds(stage(entries, each, w), size, rates) for w in (0.25, 0.0))
        total, pairs = sum(with_swamp.values()), entries * each
        rate = pairs / total
        first = rate / size if first is None else first
        parts = ", ".join(f"{name} {1e3 * value:.2f}" for name, value in with_swamp.items())
        print(
            f"  {size:<6,}{pairs:7,}{pairs // size:7,}{1e3 * total:10.2f}{rate:12,.0f}"
            f"{rate / size / first:12.0%}{total / sum(without.values()):16.3f}        {parts}"
        )


def counted_ratio(world_size: int) -> float:
    """Operations of contrastive + SwAMP over contrastive alone at 32 x 64 pairs, whatever they cost."""
    found = []
    for weight in (0.25, 0.0):
        step, model = costs(stage(32, 64, weight), world_size)
        found.append(sum(step.flops.values()) + model.flops["encoders"])
    return found[0] / found[1]


def main() -> None:
    rates = Rates()
    print(f"E = {EMBEDDING_DIM}, K = {PROTOTYPES}, queue {QUEUE}, T = 3, ZeRO stage 0. {rates}")
    sizes = [1, 8, 16, 32]
    show("The paper's batch, 32 videos x 64 clips", dict.fromkeys(sizes, (32, 64)), rates)
    many = [8, 16, 32, 64, 128, 256, 512, 1024]
    show("256 pairs per GPU (4 videos x 64 clips)", {n: (4 * n, 64) for n in many}, rates)
    print("\nCounted operations, contrastive + SwAMP over contrastive (goal: at most 1.10):")
    for size in (1, 8):
        print(f"  {size} GPUs: {counted_ratio(size):.3f}")


if __name__ == "__main__":
    main()
