"""What a training run is made of between two steps, and how it is committed, resumed and handed on."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from swamp_dist.atomic_files import HashedFile
from swamp_dist.config import StageSettings, TrainSettings
from swamp_dist.distributed import World, on_main
from swamp_dist.errors import UserError
from swamp_dist.objective.term import StepObjective
from swamp_dist.product_library import resume_library
from swamp_dist.train.checkpoint import commit, prepare_checkpoints
from swamp_dist.train.checkpoint_folder import BrokenError, Checkpoint, read_checkpoint, step_folders
from swamp_dist.train.commit_meta import GO_BACK, LIBRARY, CommitMeta, Progress, read_meta
from swamp_dist.train.engine import Engine
from swamp_dist.train.fingerprint import EPOCHS, accept_longer, check_fingerprint, default_marks
from swamp_dist.train.newest_checkpoint import newest_checkpoint
from swamp_dist.train.weights import load_weights, save_weights, write_tensors
from swamp_dist.train.weights_record import say_unchecked

logger = logging.getLogger(__name__)
OBJECTIVE = "objective.safetensors"
"""Of a checkpoint: queue and potentials."""


@dataclass(frozen=True)
class TrainState:
    """Model, optimiser and objective of a run, and where their checkpoints live."""

    engine: Engine
    objective: StepObjective
    settings: StageSettings
    training: TrainSettings
    """The training section of `settings`."""
    checkpoints: Path
    fingerprint: dict[str, Any]
    world: World
    check_owner: Callable[[], None] = lambda: None
    """Called on rank 0 before each write that others build on; raises where the folder is another's."""
    described: Mapping[str, str] = field(default_factory=dict)
    """What the header of a weights file would say, for those who take weights out of a checkpoint."""

    @property
    def planned_epochs(self) -> int:
        """Epochs that the schedule is laid over; fewer than all where a longer run stays at its end."""
        planned: int = self.fingerprint.get(EPOCHS, self.training.epochs)
        return planned


def resume(state: TrainState) -> Progress:
    """Continue from the newest checkpoint of this run, or start at step 0.

    Raises:
        UserError: the checkpoint belongs to other settings, or its files cannot be understood.
    """
    prepare_checkpoints(state.checkpoints, state.world)
    found = newest_checkpoint(state.checkpoints, state.world, check=lambda found: _check_best(state, found))
    if found is None:
        return Progress()
    meta = read_meta(found)
    saved = accept_longer(meta.fingerprint, state.fingerprint)
    check_fingerprint(saved, state.fingerprint, default_marks(state.settings))
    _load_engine(found, meta, state)
    engine = state.engine
    engine.product_library = resume_library(engine.product_library, meta.product_library, state.world.device)
    _load_objective(found, state)
    logger.info("continuing from %s", found.folder)
    return meta.progress


def _check_best(state: TrainState, found: Checkpoint) -> None:
    """The best weights so far belong to a checkpoint: without them it would end in another model.

    Raises:
        BrokenError: they are gone, or have changed since they were written.
        UserError: nobody can tell which they are.
    """
    progress = read_meta(found).progress
    if state.training.select == "last" or progress.best_step is None:
        return
    path = _best_path(state.checkpoints, progress.best_step)
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BrokenError(f"its best weights {path.name} cannot be read ({error.strerror})") from error
    if progress.best_sha256 is None:
        say_unchecked(path)
    elif sha256 != progress.best_sha256:
        raise BrokenError(f"its best weights {path.name} differ from their sha256")


def save_checkpoint(state: TrainState, progress: Progress) -> None:
    """Commit model, optimiser, objective and progress as one, then drop what it supersedes."""

    def write(folder: Path) -> list[Path]:
        held = state.objective.state(state.world)  # all ranks take part, so before anything can fail alone
        files = state.engine.save(folder)
        if state.world.is_main:
            path = folder / OBJECTIVE
            with HashedFile(path) as file:
                write_tensors(file, held)
            files.append(path)
        return files

    meta = {
        "progress": asdict(progress),
        "fingerprint": state.fingerprint,
        "zero_stage": state.settings.engine.zero_stage,
        LIBRARY: state.engine.product_library,
        **({"weights": dict(state.described)} if state.described else {}),
    }
    keep = state.training.checkpoint.keep
    commit(state.checkpoints, progress.step, write, meta, state.world, keep, state.check_owner)
    on_main(state.world, lambda: _drop_superseded_best(state.checkpoints, progress))


def keep_best(state: TrainState, step: int) -> str:
    """Keep the present weights as the best so far; older ones stay until no checkpoint refers to them.

    Returns:
        sha256 of their file, on all ranks.
    """
    tensors = state.engine.weights()
    path = _best_path(state.checkpoints, step)

    def save() -> str:
        state.check_owner()
        return save_weights(path, tensors, {"step": str(step)})

    return on_main(state.world, save)


def selected_weights(state: TrainState, progress: Progress) -> tuple[dict[str, Tensor], int]:
    """Tensors (on rank 0; {} elsewhere) and step of the weights this run hands on.

    Raises:
        UserError: on all ranks; the best weights are gone or have changed since they were written.
    """
    if state.training.select == "last" or progress.best_step is None:
        return state.engine.weights(), progress.step
    path, tensors = _best_path(state.checkpoints, progress.best_step), dict[str, Tensor]()
    on_main(state.world, lambda: tensors.update(_best_weights(path, progress.best_sha256)))
    return tensors, progress.best_step


def _best_weights(path: Path, sha256: str | None) -> Mapping[str, Tensor]:
    try:
        return load_weights(path, sha256).tensors
    except UserError as error:
        what = str(error).splitlines()[0]
        raise UserError(
            f"{what}\nRun the same command again: it goes back to a checkpoint whose best weights are whole."
        ) from None


def _best_path(checkpoints: Path, step: int) -> Path:
    return checkpoints / f"best-step-{step}.safetensors"


def _drop_superseded_best(checkpoints: Path, progress: Progress) -> None:
    """Best weights that no kept checkpoint refers to; a fallback to an older checkpoint must still find its
    own."""
    kept = {_best_path(checkpoints, progress.best_step).name} if progress.best_step is not None else set()
    kept |= {f"best-step-{step}.safetensors" for step in _best_steps_of_checkpoints(checkpoints)}
    for path in checkpoints.glob("best-step-*.safetensors"):
        if path.name not in kept:
            path.unlink()


def _best_steps_of_checkpoints(checkpoints: Path) -> set[int]:
    """Best steps that the checkpoints on disk refer to; a broken checkpoint can be gone back to by nobody."""
    steps = set()
    for _, folder in step_folders(checkpoints):
        with contextlib.suppress(BrokenError, UserError):
            best = read_meta(read_checkpoint(folder, verify_hash=False)).progress.best_step
            steps |= set() if best is None else {best}
    return steps


def _load_objective(found: Checkpoint, state: TrainState) -> None:
    path = found.folder / OBJECTIVE
    try:
        state.objective.load_state(load_file(path))
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{path}: not the queue and potentials of this training: {error}.\nFix: {GO_BACK}"
        ) from error


def _load_engine(found: Checkpoint, meta: CommitMeta, state: TrainState) -> None:
    """Through DeepSpeed where this layout wrote the commit, so bit by bit; else dealt to this layout."""
    saved = (meta.zero_stage, found.world_size)
    current = (state.settings.engine.zero_stage, state.world.size)
    if saved == current or saved[0] == current[0] == 0:
        state.engine.load(found.folder)
        return
    logger.info(
        "%s was written by %d ranks at ZeRO stage %d: dealing it to %d ranks at stage %d",
        found.folder, saved[1], saved[0], current[1], current[0],
    )  # fmt: skip
    state.engine.load_resharded(found.folder, *saved)
