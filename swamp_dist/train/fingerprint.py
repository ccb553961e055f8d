"""What a training computes, as flat keys: checkpoints of another training are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from swamp_dist.config import StageSettings
from swamp_dist.records import UserError

# Settings that may change between two runs of one training without changing what it computes.
_FREE_DATA = {"shards", "recipe", "lanes", "cache", "reading", "workers", "prefetch", "verify"}
_FREE_OBJECTIVE: dict[str, Any] = {
    "contrastive": {"chunk"},
    "swamp": {"queue": {"layout", "solve"}, "sinkhorn": {"score_memory"}},
}


def fingerprint(settings: StageSettings, data_hash: str) -> dict[str, object]:
    """What a training computes, as flat dotted keys; two runs with equal ones may share checkpoints.

    Left out is what changes speed, memory or length only: world size, ZeRO stage, threads, micro-batch,
    columns of the contrastive term at a time, loader settings, logging, checkpoints, and the epochs,
    unless the schedule depends on them.

    Args:
        settings: the resolved stage; it must train.
        data_hash: hash of the shard set's manifest.
    """
    if settings.train is None:
        raise ValueError("a stage without training has no checkpoints")
    train = settings.train.model_dump(mode="json", include={"optimizer", "schedule"})
    if settings.train.schedule.kind == "cosine":
        train["epochs"] = settings.train.epochs
    no_clips = {"clips"} if settings.data.clips is None else set()
    data = settings.data.model_dump(mode="json", exclude=_FREE_DATA | no_clips)
    if settings.data.clips is not None:  # in order: it is that of the halves of a video's vector
        data["clips"]["parts"] = [[name, rate] for name, rate in settings.data.clips.parts.items()]
    return _flat(
        {
            "seed": settings.seed,
            "data": data | {"manifest": data_hash, "lanes": settings.data.num_lanes},
            "model": settings.model.model_dump(mode="json"),
            "objective": settings.objective.model_dump(mode="json", exclude=_FREE_OBJECTIVE),
            "train": train,
            "engine": {"precision": settings.engine.precision},
        }
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def check_fingerprint(saved: Mapping[str, object], current: Mapping[str, object]) -> None:
    """Refuse to continue a training as another one.

    Raises:
        UserError: a table of the differing keys, with what the checkpoint expects, what was found in
            the job and how to mend it.
    """
    keys = [key for key in sorted({*saved, *current}) if _shown(saved, key) != _shown(current, key)]
    if not keys:
        return
    rows = [("setting", "expected", "found", "fix")]
    rows += [(key, _shown(saved, key), _shown(current, key), _fix(saved, key)) for key in keys]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    raise UserError(
        "the checkpoints in the run folder belong to another training than this job.\n  "
        + "\n  ".join(lines)
        + "\nMend the settings as in the last column, or start anew in another run folder."
    )


_ADDED: Mapping[str, object] = {
    "objective.swamp.sinkhorn.momentum": False,
    "objective.swamp.sinkhorn.score_precision": "float32",
    "model.a.unit_parts": None,
    "model.b.unit_parts": None,
}
"""What commits from before these settings existed were trained with."""


def _shown(values: Mapping[str, object], key: str) -> str:
    if key not in values and key not in _ADDED:
        return "(none)"
    return json.dumps(values.get(key, _ADDED.get(key)))


def _fix(saved: Mapping[str, object], key: str) -> str:
    if key == "data.manifest":
        return "data.shards=<the shard set it began with>"
    return f"{key}={_shown(saved, key)}" if key in saved else f"remove {key}"
