"""What a stage will take on a cluster, before it is submitted: its plan, memory and time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from swamp_dist.config import SizedCluster
from swamp_dist.costs.loading import loading_bytes, loading_note
from swamp_dist.costs.memory import PROCESS_BYTES
from swamp_dist.costs.table import WholeCost, binary, operations, whole_cost
from swamp_dist.progress import duration
from swamp_dist.runs.events import last_rows, row_seconds
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.partner_lines import partner_lines
from swamp_dist.stage.resolve import ResolvedStage, blend_lines

GPU_RATE, GPU_LINK = 20e12, 10e9
"""Assumed of a rank on a GPU: float32 operations and bytes sent per second. Careful figures of an A100
node."""
CPU_RATE, CPU_LINK = 20e9, 1e9
"""The same of a rank on a CPU, per core."""


def estimate(stage: ResolvedStage, cluster: SizedCluster, run_dir: RunDir) -> Iterator[tuple[str, str]]:
    """Label and text of each line to print."""
    yield "ranks", f"{stage.world_size} ({cluster.layout}, one per {'GPU' if cluster.on_gpu else 'CPU'})"
    training, settings = stage.training, stage.settings
    if training is None:
        yield "steps", "none: the stage only evaluates"
        return
    yield "batch", f"{training.batches.pairs} pairs, {training.batches.local_pairs} per rank"
    epochs = f"{training.settings.epochs} epochs of {training.steps_per_epoch}"
    yield "steps", f"{training.total_steps} ({epochs})"
    yield from (("blend", line) for line in blend_lines(training))
    yield from (("partners", line) for line in partner_lines(settings))
    cost = whole_cost(settings, stage.embedding_dim, stage.inputs, stage.world_size, cluster.on_gpu)
    memory = {**cost.memory, **({} if cluster.on_gpu else {"process": PROCESS_BYTES})}
    parts = ", ".join(f"{name} {binary(size)}" for name, size in memory.items())
    yield "memory", f"{binary(sum(memory.values()))} per rank{_missing_note(cost)} ({parts})"
    note = loading_note(settings, stage.world_size)
    if note:
        read = binary(loading_bytes(settings, stage.world_size))
        yield "reading", f"{read} of the machine's memory per rank ({note})"
    yield (
        "work",
        f"{operations(sum(cost.flops.values()))} and {binary(sum(cost.sent.values()))} sent, per step and "
        f"rank{_missing_note(cost)}",
    )
    yield "time", _time(cost, cluster, training.total_steps)
    measured = step_seconds(run_dir.metrics_jsonl)
    if measured is not None:
        yield (
            "measured",
            f"{measured:.3g} s per step in this folder so far: "
            f"{duration(measured * training.total_steps)} for all steps",
        )


def _missing_note(cost: WholeCost) -> str:
    return " for the objective, without the encoders" if cost.model is None else ""


def _time(cost: WholeCost, cluster: SizedCluster, steps: int) -> str:
    rate, link = (GPU_RATE, GPU_LINK) if cluster.on_gpu else (CPU_RATE * cluster.cpus_per_rank, CPU_LINK)
    seconds = sum(cost.flops.values()) / rate + sum(cost.sent.values()) / link
    return (
        f"{seconds:.2g} s per step{_missing_note(cost)} at {operations(int(rate))}/s and {binary(int(link))}"
        f"/s per rank (assumed), {duration(seconds * steps)} for all steps; reading data comes on top where "
        "it cannot keep up"
    )


def step_seconds(metrics: Path) -> float | None:
    """Seconds per step, data included, as a run has logged them last; None before it has."""
    return next(
        (seconds for row in reversed(last_rows(metrics)) if (seconds := row_seconds(row)) is not None), None
    )
