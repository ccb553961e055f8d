"""What a checkpoint says beside its files: how far the run was, of which training, at which layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from swamp_dist.errors import UserError
from swamp_dist.evaluate.results import alarm_from_json
from swamp_dist.records import PRODUCT_LIBRARIES, AlarmState, ProductLibrary
from swamp_dist.train.checkpoint_folder import MANIFEST, Checkpoint

GO_BACK = (
    "restore the folder from a copy, or move it away: the same command\nthen goes on from the checkpoint "
    "before it."
)
"""What helps where a checkpoint is whole and yet not understood: no fallback is taken by itself then."""
LIBRARY = "product_library"
"""Key of what made the float32 products of the training on a CPU."""


@dataclass(frozen=True)
class Progress:
    """How far a run is: what a checkpoint carries besides model, optimiser and objective."""

    step: int = 0
    best_value: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Validations since the best one."""
    best_sha256: str | None = None
    """Of the file with the best weights; None where none is kept, or an earlier version wrote it."""
    alarms: AlarmState = field(default_factory=AlarmState)
    """Empty in a commit of an earlier version."""


_KINDS: Mapping[str, tuple[type, ...]] = {
    "step": (int,),
    "best_value": (float, int, type(None)),
    "best_step": (int, type(None)),
    "stale": (int,),
    "best_sha256": (str, type(None)),
    "alarms": (dict,),
}


@dataclass(frozen=True)
class CommitMeta:
    """The `meta` of a checkpoint's manifest."""

    progress: Progress
    fingerprint: Mapping[str, object]
    """What the training computes."""
    zero_stage: int
    product_library: ProductLibrary = "blas"
    """As `Engine.product_library`; a commit of an earlier version names none, and knew no other."""


def read_meta(found: Checkpoint) -> CommitMeta:
    """What the manifest of a whole checkpoint says.

    Raises:
        UserError: it is none that this version writes, or an earlier one did: nothing is guessed.
    """
    problems = "\n  ".join(list(_problems(found))[:8])
    if problems:
        raise UserError(
            f"{found.folder / MANIFEST}: the files are whole, but this version does not understand what it "
            f"says of them:\n  {problems}\nContinue with the version that wrote it. Or {GO_BACK}"
        )
    meta = found.meta
    values = {**meta["progress"], "alarms": _alarms(meta["progress"].get("alarms", {}))}
    library = meta.get(LIBRARY, "blas")
    return CommitMeta(Progress(**values), meta["fingerprint"], meta["zero_stage"], library)


def _problems(found: Checkpoint) -> Iterator[str]:
    meta = found.meta
    if not isinstance(meta.get("fingerprint"), dict):
        yield "fingerprint: expected the settings of a training by their keys"
    if not _is_one_of(meta.get("zero_stage"), (int,)):
        yield f"zero_stage: expected a number, found {_shown(meta.get('zero_stage'))}"
    if meta.get(LIBRARY, "blas") not in PRODUCT_LIBRARIES:
        yield f"{LIBRARY}: expected one of {', '.join(PRODUCT_LIBRARIES)}, found {_shown(meta[LIBRARY])}"
    progress = meta.get("progress")
    if not isinstance(progress, dict):
        yield f"progress: expected step, best_value and others, found {_shown(progress)}"
        return
    known = [field.name for field in fields(Progress)]
    for key in sorted(progress.keys() - set(known)):
        yield f"progress.{_shown(key)}: not known; known are {', '.join(known)}"
    for key in known:
        if key in progress and not _is_one_of(progress[key], _KINDS[key]):
            yield f"progress.{key}: expected another kind of value, found {_shown(progress[key])}"
        elif key == "alarms" and key in progress and not _understood(progress[key]):
            yield f"progress.alarms: expected counts and alarms, found {_shown(progress[key])}"
    if progress.get("step") != found.step:
        yield f"progress.step: expected {found.step}, found {_shown(progress.get('step'))}"


def _alarms(saved: Mapping[str, Any]) -> AlarmState:
    """The state of alarms as `asdict` wrote it; {} is that of a commit of an earlier version.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is none.
    """
    against = {str(name): int(count) for name, count in saved.get("against", {}).items()}
    return AlarmState(against, {n: alarm_from_json(v) for n, v in saved.get("alarms", {}).items()})


def _understood(saved: Mapping[str, Any]) -> bool:
    try:
        _alarms(saved)
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return True


def _is_one_of(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A value of the file in a few characters, none of which a terminal obeys."""
    text = ascii(value)
    return text if len(text) <= 40 else text[:37] + "..."
