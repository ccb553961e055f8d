"""Run folders as trainings leave them, with made-up figures, for tests of the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swamp_dist.records import Alarm, EvaluationResult, RetrievalMetrics, StageResult
from swamp_dist.runs.folder import RunDir
from tests.train.tiny import tiny_stage


def figures(recall: float) -> dict[str, RetrievalMetrics]:
    """Both directions of both relevances."""
    return {
        f"{relevance}/{way}": RetrievalMetrics(
            f"text->{way}", relevance, recall + shift, 2 * recall, 3 * recall, 4.0, 90, 90, mean
        )
        for relevance, mean in (("pair", None), ("class", recall + 5))
        for way, shift in (("a_to_b", 0.0), ("b_to_a", 1.0))
    }


def finished(
    folder: Path,
    recall: float = 30.0,
    steps: int = 40,
    alarms: tuple[Alarm, ...] = (),
    provenance: Mapping[str, Any] | None = None,
    **changes: Any,
) -> RunDir:
    """A run of the tiny stage that has ended, with curves of so many steps."""
    run = begun(folder, steps, **changes)
    facts = {"seed": 0, "world_size": 2, "seconds": 12.5, "versions": {"torch": "2"}, **(provenance or {})}
    evaluation = EvaluationResult("test", figures(recall), figures(1.0))
    result = StageResult(
        "tiny", folder, run.weights, steps, steps, (evaluation,), facts, "ab" * 32, alarms
    )  # fmt: skip
    run.write_result(result)
    return run


def begun(folder: Path, steps: int = 40, **changes: Any) -> RunDir:
    """A run that has not ended."""
    run = RunDir(folder)
    run.write_stage(tiny_stage(Path("no/such/shards"), **changes))
    rows = [
        {
            "step": step,
            "loss/total": 5 / step,
            "loss/contrastive": 4 / step,
            "loss/swamp": 1 / step,
            "swamp/effective_ratio": 0.1 + math.sin(step) / 50,
            "optim/lr": 1e-3,
            "retrieval/validation/pair/a_to_b/r_at_1": 40 * (1 - 1 / step),
        }
        for step in range(1, steps + 1)
    ]
    run.metrics_jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    clock = ({"time": 100.0, "event": "started"}, {"time": 160.0, "event": "done"})
    run.events_jsonl.write_text("".join(json.dumps(event) + "\n" for event in clock))
    return run


def thirty(folder: Path, steps: int = 2000) -> Path:
    """Ten settings under three seeds."""
    for seed in range(3):
        for k in range(10):
            finished(
                folder / f"seed-{seed}/prototypes-{k}", 20 + k + seed, steps, seed=seed,
                objective__swamp__prototypes=100 * (k + 1),
            )  # fmt: skip
    return folder
