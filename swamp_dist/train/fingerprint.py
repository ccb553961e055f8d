"""What a training computes, as flat keys: checkpoints of another training are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from swamp_dist.config import StageSettings
from swamp_dist.earlier_names import present_name
from swamp_dist.errors import UserError
from swamp_dist.loading import REQUIRED, describe
from swamp_dist.settings import is_below, same_result_keys

EPOCHS = "train.epochs"
"""Mark of the epochs that a cosine schedule is laid over."""
FILES_MARK = " (sha256 of files)"
"""Ends the keys of marks that are hashes of files which encoders name."""
_TOLD_OTHERWISE = {"shards", "lanes", "blend"}
"""Of `data`: the manifests' hashes and the number of lanes stand for them."""


def fingerprint(
    settings: StageSettings, data_hash: str, blend_hashes: Mapping[str, str] | None = None
) -> dict[str, object]:
    """What a training computes, as flat dotted keys; two runs with equal ones may share checkpoints.

    Left out is what is marked `SAME_RESULT` in the settings, and what changes the length of a training only:
    the epochs (unless the schedule depends on them), what is validated and what is selected. A finished stage
    is compared by more (`stage/open.py`): its result depends on those too.

    Args:
        settings: the resolved stage; it must train.
        data_hash: hash of the shard set's manifest.
        blend_hashes: those of the sets of a blend, by name.
    """
    if settings.train is None:
        raise ValueError("a stage without training has no checkpoints")
    train = settings.train.model_dump(mode="json", include={"optimizer", "schedule"})
    if settings.train.schedule.kind == "cosine":
        train["epochs"] = settings.train.epochs
    no_clips = {"clips"} if settings.data.clips is None else set()
    data = settings.data.model_dump(mode="json", exclude=_TOLD_OTHERWISE | no_clips)
    if settings.data.clips is not None:  # in order: it is that of the halves of a video's vector
        data["clips"]["parts"] = [[name, rate] for name, rate in settings.data.clips.parts.items()]
    if settings.data.partners is not None:
        del data["partners"]["names"]  # which no tensor knows
    if settings.data.blend is not None and blend_hashes:
        data["blend"] = {
            name: {"manifest": blend_hashes[name], "share": each.share, "split": each.split}
            for name, each in settings.data.training_sets.items()
        }
    flat = _flat(
        {
            "seed": settings.seed,
            "data": data | {"manifest": data_hash, "lanes": settings.data.num_lanes},
            "model": settings.model.model_dump(mode="json"),
            "objective": settings.objective.model_dump(mode="json"),
            "train": train,
            "engine": settings.engine.model_dump(mode="json"),
        }
    )
    same = set(same_result_keys(settings))
    return {key: value for key, value in flat.items() if not is_below(key, same)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat


def default_marks(settings: StageSettings) -> dict[str, object]:
    """What each setting would be if the job file did not say, under the keys of `fingerprint`."""
    known = ((s.key, s.default) for s in describe(settings) if s.default != REQUIRED)
    return {key: json.loads(json.dumps(value, default=str)) for key, value in known}


def check_fingerprint(
    saved: Mapping[str, object], current: Mapping[str, object], defaults: Mapping[str, object]
) -> None:
    """Refuse to continue a training as another one.

    Args:
        defaults: see `default_marks`. A checkpoint from before a setting existed was made as the setting's
            default says, so the default of a new setting has to be what was done before.

    Raises:
        UserError: a table of the differing keys: what the run was begun with, what is asked now, and how to
            mend it.
    """
    saved = {key: value for key, value in defaults.items() if key in current} | _renamed(saved)
    unknown = {key for key in current if key.endswith(FILES_MARK) and key not in saved}  # of earlier versions
    keys = [key for key in sorted({*saved, *current} - unknown) if _shown(saved, key) != _shown(current, key)]
    if not keys:
        return
    rows = [("setting", "was", "asked", "fix")]
    rows += [(key, _shown(saved, key), _shown(current, key), _fix(saved, key)) for key in keys]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    raise UserError(
        "the checkpoints in the run folder belong to another training than this job.\n  "
        + "\n  ".join(lines)
        + "\nMend the settings as in the last column, or start anew in another run folder."
    )


def accept_longer(saved: Mapping[str, object], current: Mapping[str, object]) -> Mapping[str, object]:
    """The marks of a checkpoint, its epochs taken for those of now where they are fewer: `stage/longer.py`
    decides what becomes of the schedule."""
    began, epochs = saved.get(EPOCHS), current.get(EPOCHS)
    fewer = isinstance(began, int) and isinstance(epochs, int) and began < epochs
    return {**saved, EPOCHS: epochs} if fewer else saved


def _renamed(saved: Mapping[str, object]) -> dict[str, object]:
    """The marks of a checkpoint of an earlier version as this one would have written them."""
    renamed = {".".join(present_name(tuple(key.split(".")))): value for key, value in saved.items()}
    if saved.get("objective.contrastive.negatives") == "all":
        renamed["objective.contrastive.reduction"] = "mean"  # whatever was set: it did not count for `all`
    return renamed


def _shown(values: Mapping[str, object], key: str) -> str:
    return json.dumps(values[key]) if key in values else "(none)"


def _fix(saved: Mapping[str, object], key: str) -> str:
    if key.endswith(FILES_MARK):
        return "bring back the files that it began with"
    if key == "data.manifest" or (key.startswith("data.blend.") and key.endswith(".manifest")):
        return f"{key.removesuffix('manifest')}shards=<the shard set it began with>"
    return f"{key}={_shown(saved, key)}" if key in saved else f"remove {key}"
