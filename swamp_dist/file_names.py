"""Names of files that more than one part of the package knows, and which names a folder may get."""

from __future__ import annotations

import os
import re
from pathlib import Path

WEIGHTS_FILE = "weights.safetensors"
"""The selected model in a run folder; the others of a run folder are `RunDir`'s."""
STAGE_FILE = "stage.yaml"
"""The settings of a run, as resolved, in its folder."""
METRICS_FILE = "metrics.jsonl"
"""One row per logged step in a run folder."""
CHECKPOINTS = "checkpoints"
"""Folder of a run's checkpoints, `step-N` each."""
CHECKPOINT_MANIFEST = "MANIFEST.json"
"""What a checkpoint is known by."""
RESULT_FILE = "result.json"
"""What a stage leaves last in its run folder."""
SHEET_FILE = "sheet.png"
"""The picture that `swamp prototypes` leaves in RUN/prototypes/SPLIT/."""
MANIFEST_FILE = "manifest.json"
"""What a shard set is known by."""

VOCABULARY_FILE = "vocabulary.json"
"""The words of a shard set's captions and their numbers."""

NAME_RULE = (
    "a name of letters, digits, single blanks between them and . _ + - = , @, that begins with a letter, a "
    "digit or _"
)
"""What `name_problem` asks of a name."""
_BUILD_NOTE = ".build.json"
_STEP = re.compile("step-([0-9]+)")
_NAME = re.compile(r"\w[\w.+=,@-]*( [\w.+=,@-]+)*")
_INVISIBLE = "\u115f\u1160\u3164\uffa0"
"""Letters to Unicode, and nothing on a screen."""
_NAME_BYTES = 200
"""File systems take 255; a part of them is left for what stands around a name."""


def weights_file(source: Path) -> Path:
    """The weights file that a setting names: `source` itself, the one inside a run folder, or the one that is
    made of a checkpoint (`checkpoint_of`)."""
    folder = checkpoint_of(source)
    if folder is None:
        return source / WEIGHTS_FILE if source.is_dir() else source
    best = folder.with_name(f"best-{folder.name}.safetensors")
    return best if best.is_file() and not folder.is_dir() else checkpoint_weights_file(folder)


def checkpoint_weights_file(folder: Path) -> Path:
    """Where the weights of a checkpoint are put as a file."""
    return folder.with_name(f"weights-{folder.name}.safetensors")


def checkpoint_of(source: Path) -> Path | None:
    """The folder of the checkpoint that `source` names: `RUN@STEP`, that folder itself, or a run without
    weights, of which the newest one is meant. None where `source` names weights that are a file."""
    run, at, step = source.name.rpartition("@")
    if at and run and step.isdecimal() and not os.path.lexists(source) and source.with_name(run).is_dir():
        return source.with_name(run) / CHECKPOINTS / f"step-{int(step)}"
    if _STEP.fullmatch(source.name) and (source / CHECKPOINT_MANIFEST).is_file():
        return source
    if not source.is_dir() or (source / WEIGHTS_FILE).is_file():
        return None
    whole = (source / CHECKPOINTS).glob(f"step-*/{CHECKPOINT_MANIFEST}")
    steps = [int(found[1]) for each in whole if (found := _STEP.fullmatch(each.parent.name))]
    return source / CHECKPOINTS / f"step-{max(steps)}" if steps else None


def run_of(source: Path) -> Path:
    """The run folder that weights belong to, by the name that was given for them."""
    folder = checkpoint_of(source)
    if folder is not None:
        return folder.parent.parent
    inside = source if source.is_dir() else source.parent
    return inside.parent if inside.name == CHECKPOINTS else inside


def build_note_file(out: Path) -> Path:
    """What a running build of the set at `out` leaves beside it."""
    return out.parent / f".{out.name}{_BUILD_NOTE}"


def is_build_note(path: Path) -> bool:
    """Whether a path is that of `build_note_file` of some set."""
    return path.name.startswith(".") and path.name.endswith(_BUILD_NOTE)


def name_problem(name: str) -> str | None:
    """Why a folder cannot have this name, with what was expected; None where it can.

    Such a name is one part of a path that goes neither up nor elsewhere, is no option of a command, and shows
    on a screen as what it is.
    """
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > _NAME_BYTES:
        return f"expected a name of at most {_NAME_BYTES} bytes, found {size}: {name[:20]!a}..."
    strange = set(_INVISIBLE) & set(name)
    if strange or not _NAME.fullmatch(name):
        return f"expected {NAME_RULE}; found {name!a}"
    return None
