"""A stage that trains in a second, for tests of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from swamp_dist.config import StageSettings

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"a": "a", "b": "b", "entries": 24, "workers": 0, "cache": "memory"},
    "model": {
        "embedding_dim": 8,
        "a": {"kind": "mlp", "hidden": [16], "dropout": 0.1},
        "b": {"kind": "mlp", "hidden": [16]},
    },
    "objective": {
        "contrastive": {"form": "all"},
        "swamp": {"weight": 0.5, "prototypes": 10, "queue": {"size": 50}, "sinkhorn": {"max_iterations": 10}},
    },
    "train": {
        "epochs": 4,
        "optimizer": {"lr": 5e-3, "clip_norm": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": 3},
        "validate_on": {"split": "validation"},
        "select": "best",
        "checkpoint": {"every": 5, "keep": 2},
        "log_every": 1,
    },
    "evaluate": [{"split": "test", "relevance": ["pair", "class"]}],
}


class StopAfter:
    """Asks to stop during the n-th step, as a signal to this rank would."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


def tiny_stage(shards: Path, **changes: Any) -> StageSettings:
    """The tiny stage with dotted changes, for example train__epochs=2."""
    tree = _merged(TINY, {"data": {"shards": str(shards)}})
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        change: dict[str, Any] = {last: value}
        for name in reversed(path):
            change = {name: change}
        tree = _merged(tree, change)
    return StageSettings.model_validate(tree)


def _merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
