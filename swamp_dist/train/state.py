"""What a training run is made of between two steps, and how it is committed, resumed and handed on."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from swamp_dist.config import StageSettings, TrainSettings
from swamp_dist.distributed import World, on_main
from swamp_dist.objective.swamp import Objective
from swamp_dist.records import UserError
from swamp_dist.train.checkpoint import Commit, check_fingerprint, commit, newest_commit, remove_leftovers
from swamp_dist.train.commit_folder import BrokenError, read_commit, step_folders
from swamp_dist.train.engine import Engine
from swamp_dist.train.weights import load_weights, save_weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """How far a run is: what a commit carries besides model, optimiser and objective."""

    step: int = 0
    best_value: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Validations since the best one."""


@dataclass(frozen=True)
class TrainState:
    """Model, optimiser and objective of a run, and where their commits live."""

    engine: Engine
    objective: Objective
    settings: StageSettings
    checkpoints: Path
    fingerprint: dict[str, Any]
    world: World

    @property
    def plan(self) -> TrainSettings:
        """The training section."""
        assert self.settings.train is not None
        return self.settings.train


def resume(state: TrainState) -> Progress:
    """Continue from the newest commit of this run, or start at step 0.

    Raises:
        UserError: the commit belongs to other settings, or its files cannot be understood.
    """
    remove_leftovers(state.checkpoints, state.world)
    found = newest_commit(state.checkpoints, state.world)
    if found is None:
        return Progress()
    check_fingerprint(found.meta["fingerprint"], state.fingerprint)
    _load_engine(found, state)
    state.objective.load_state(load_file(found.folder / "objective.safetensors"))
    progress = Progress(**found.meta["progress"])
    best = None if progress.best_step is None else _best_path(state.checkpoints, progress.best_step)
    if best is not None and state.plan.select == "best" and not best.is_file():
        raise UserError(
            f"{best}: the best weights that commit step-{found.step} refers to are gone; "
            "restore the file, or start anew in another run folder"
        )
    logger.info("continuing from %s", found.folder)
    return progress


def save_commit(state: TrainState, progress: Progress) -> None:
    """Commit model, optimiser, objective and progress as one, then drop what it supersedes."""

    def write(folder: Path) -> list[Path]:
        held = state.objective.state(state.world)  # all ranks take part, so before anything can fail alone
        files = state.engine.save(folder)
        if state.world.is_main:
            path = folder / "objective.safetensors"
            save_file({k: v.detach().cpu().contiguous() for k, v in held.items()}, path)
            files.append(path)
        return files

    meta = {
        "progress": asdict(progress),
        "fingerprint": state.fingerprint,
        "zero_stage": state.settings.engine.zero_stage,
    }
    commit(state.checkpoints, progress.step, write, meta, state.world, state.plan.checkpoint.keep)
    on_main(state.world, lambda: _drop_superseded_best(state.checkpoints, progress))


def keep_best(state: TrainState, step: int) -> None:
    """Keep the present weights as the best so far; older ones stay until no commit refers to them."""
    tensors = state.engine.weights()
    path = _best_path(state.checkpoints, step)

    def save() -> None:
        state.checkpoints.mkdir(parents=True, exist_ok=True)
        save_weights(path, tensors, {"step": str(step)})

    on_main(state.world, save)


def selected_weights(state: TrainState, progress: Progress) -> tuple[dict[str, Tensor], int]:
    """Tensors (on rank 0; {} elsewhere) and step of the weights this run hands on."""
    if state.plan.select == "last" or progress.best_step is None:
        return state.engine.weights(), progress.step
    path = _best_path(state.checkpoints, progress.best_step)
    tensors = dict(load_weights(path).tensors) if state.world.is_main else {}
    return tensors, progress.best_step


def _best_path(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"best-step-{step}.safetensors"


def _drop_superseded_best(checkpoints: Path, progress: Progress) -> None:
    """Best weights that no kept commit refers to; a fallback to an older commit must still find its own."""
    kept = {_best_path(checkpoints, progress.best_step).name} if progress.best_step is not None else set()
    kept |= {f"best-step-{step}.safetensors" for step in _best_steps_of_commits(checkpoints)}
    for path in checkpoints.glob("best-step-*.safetensors"):
        if path.name not in kept:
            path.unlink()


def _best_steps_of_commits(checkpoints: Path) -> set[int]:
    """Best steps that the commits on disk refer to; a broken commit can be gone back to by nobody."""
    steps = set()
    for _, folder in step_folders(checkpoints):
        with contextlib.suppress(BrokenError):
            best = read_commit(folder, verify_hash=False).meta["progress"]["best_step"]
            steps |= set() if best is None else {int(best)}
    return steps


def _load_engine(found: Commit, state: TrainState) -> None:
    """Through DeepSpeed where this layout wrote the commit, so bit by bit; else dealt to this layout."""
    saved = (found.meta["zero_stage"], found.world_size)
    current = (state.settings.engine.zero_stage, state.world.size)
    if saved == current or saved[0] == current[0] == 0:
        state.engine.load(found.folder)
        return
    logger.info(
        "%s was written by %d ranks at ZeRO stage %d: dealing it to %d ranks at stage %d",
        found.folder, saved[1], saved[0], current[1], current[0],
    )  # fmt: skip
    state.engine.load_resharded(found.folder, *saved)
