"""What a stage will take on a cluster, before it is submitted: its plan, memory and time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from swamp_dist.config import RayCluster, SlurmCluster, StageSettings
from swamp_dist.launch.cluster import StagePlan
from swamp_dist.launch.console import duration
from swamp_dist.launch.cost_table import WholeCost, binary, operations, whole_cost
from swamp_dist.launch.rundir import RunDir

GPU_RATE, GPU_LINK = 20e12, 10e9
"""Assumed of a rank on a GPU: float32 operations and bytes sent a second. Careful figures of an A100 node."""
CPU_RATE, CPU_LINK = 20e9, 1e9
"""The same of a rank on a CPU, a core."""


def estimate(
    settings: StageSettings, cluster: RayCluster | SlurmCluster, plan: StagePlan, run_dir: RunDir
) -> Iterator[tuple[str, str]]:
    """Label and text of each line to print."""
    yield "ranks", f"{plan.ranks} ({cluster.layout}, one a {'GPU' if cluster.on_gpu else 'CPU'})"
    if settings.train is None:
        yield "steps", "none: the stage only evaluates"
        return
    yield "batch", f"{settings.data.entries * settings.data.pairs_per_entry} pairs, {plan.local_pairs} a rank"
    yield "steps", f"{plan.steps} ({settings.train.epochs} epochs of {plan.steps_per_epoch})"
    cost = whole_cost(settings, plan.ranks, cluster.on_gpu)
    parts = ", ".join(f"{name} {binary(size)}" for name, size in cost.memory.items())
    yield (
        "memory",
        f"{binary(sum(cost.memory.values()))} a rank{_missing(cost)} ({parts})",
    )
    yield (
        "work",
        f"{operations(sum(cost.flops.values()))} and {binary(sum(cost.sent.values()))} sent, a step and rank"
        f"{_missing(cost)}",
    )
    yield "time", _time(cost, cluster, plan)
    measured = step_seconds(run_dir.metrics_jsonl)
    if measured is not None:
        yield (
            "measured",
            f"{measured:.3g} s a step in this folder so far: {duration(measured * plan.steps)} for all steps",
        )


def _missing(cost: WholeCost) -> str:
    return " for the objective, without the encoders" if cost.model is None else ""


def _time(cost: WholeCost, cluster: RayCluster | SlurmCluster, plan: StagePlan) -> str:
    rate, link = (GPU_RATE, GPU_LINK) if cluster.on_gpu else (CPU_RATE * cluster.cpus_per_rank, CPU_LINK)
    seconds = sum(cost.flops.values()) / rate + sum(cost.sent.values()) / link
    return (
        f"{seconds:.2g} s a step{_missing(cost)} at {operations(int(rate))}/s and {binary(int(link))}/s a rank (assumed), "
        f"{duration(seconds * plan.steps)} for all steps; reading data comes on top where it cannot keep up"
    )


def step_seconds(metrics: Path) -> float | None:
    """Seconds a step, data included, in the newest logged step of a run; None before there is one."""
    if not metrics.is_file():
        return None
    for line in reversed(metrics.read_text().splitlines()):
        try:
            figures = json.loads(line)
        except ValueError:  # a line still being written
            continue
        if "perf/step_seconds" in figures:
            return float(figures["perf/step_seconds"] + figures.get("perf/data_seconds", 0.0))
    return None
