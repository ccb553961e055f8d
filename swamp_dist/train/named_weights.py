"""What was named where weights are asked for: the run that they belong to, or why there are none and the fix.

Torch is not imported.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from swamp_dist.errors import UserError
from swamp_dist.file_names import CHECKPOINTS, STAGE_FILE, WEIGHTS_FILE, checkpoint_of, run_of, weights_file
from swamp_dist.train.checkpoint_folder import step_folders

_EXPECTED = "expected a run folder, RUN@STEP, a checkpoint's folder or a .safetensors file"
_SUFFIX = ".safetensors"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_NAMED = 3
"""Runs or steps that a message names at most."""


def no_weights(source: Path) -> str:
    """What was expected of a source of weights that has none, what was found, and the fix."""
    found, fix = _found(source)
    return f"{_EXPECTED}, found {found}.\nFix: {fix}"


def holds_weights(source: Path) -> bool:
    """Whether a weights file is where `source` says; what a checkpoint holds has to be taken out first."""
    path = weights_file(source)
    return path.suffix == _SUFFIX and path.is_file()


def stage_file_of(source: Path) -> Path:
    """The stage.yaml of the run that weights belong to.

    Raises:
        UserError: there are no such weights, or no run is around them.
    """
    path, weights = run_of(source) / STAGE_FILE, holds_weights(source)
    step = checkpoint_of(source)
    there = source.is_dir() if step is None else step.is_dir()
    if not weights and not (there and path.is_file()):
        raise UserError(f"{source}: {no_weights(source)}")
    if not path.is_file():
        raise UserError(
            f"{source}: no {path} beside these weights, which says the settings they were trained with.\n"
            "Fix: name the run folder that wrote them; or give a job and weights=..., in Python job=..."
        )
    return path


def _found(source: Path) -> tuple[str, str]:
    folder = checkpoint_of(source)
    if folder is not None:
        steps = _steps(folder.parent.parent)
        there = ", ".join(f"{folder.parent.parent}@{step}" for step in steps) or "none"
        found = f"no checkpoint {folder.name} (there are: {there})"
        return found, "name one of those; train.checkpoint.keep sets how many are kept." if steps else _FINISH
    if source.is_dir():
        return _found_in_folder(source)
    if source.is_file():
        kind = f"a {source.suffix} file" if source.suffix else "a file of another kind"
        return kind, _instead_of_file(source)
    if _ADDRESS.match(str(source)):
        return "an address, and nothing is downloaded", "fetch the file, then name its path."
    run, at, step = source.name.rpartition("@")
    if at and source.with_name(run).is_dir():
        return f"{step!r} for the step", _name_run(source.with_name(run))
    near = difflib.get_close_matches(source.name, _runs_in(source.parent), n=1)
    if near:
        return "nothing there", f"did you mean {source.with_name(near[0])}?"
    return "nothing there", f"{_FINISH} What there is: swamp status"


_FINISH = "run the stage that writes it to its end first, or correct the path."


def _found_in_folder(source: Path) -> tuple[str, str]:
    if source.name == CHECKPOINTS and (source.parent / STAGE_FILE).is_file():
        return "the folder of all checkpoints", _name_run(source.parent)
    runs = _runs_in(source)
    if runs:
        more = "" if len(runs) <= _NAMED else ", ..."
        named = ", ".join(str(source / name) for name in runs[:_NAMED])
        return "a folder of runs", f"name one of them: {named}{more}"
    return f"a folder without {WEIGHTS_FILE} and checkpoints", _FINISH


def _instead_of_file(source: Path) -> str:
    if source.suffix in (".pth", ".pt", ".tar"):
        return f"swamp import {source} --out FOLDER makes one of a published checkpoint."
    if source.suffix in (".yaml", ".yml"):
        return "name the run folder that the job was run in, such as runs/NAME."
    if (source.parent / STAGE_FILE).is_file():
        return f"name the run itself: {source.parent}"
    return "name one of these."


def _name_run(run: Path) -> str:
    steps = [f"{run}@{step}" for step in _steps(run)[:_NAMED]]
    return f"name the run, {run}, or a step of it: {', '.join(steps)}" if steps else f"name the run, {run}"


def _steps(run: Path) -> list[int]:
    return [step for step, _ in step_folders(run / CHECKPOINTS)]


def _runs_in(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir() if (each / STAGE_FILE).is_file())
    except OSError:
        return []
