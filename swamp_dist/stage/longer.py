"""Training a run for longer than it was begun with: whether that can be, and what becomes of the schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swamp_dist.config import StageSettings, TrainSettings
from swamp_dist.errors import UserError
from swamp_dist.loading import load_dumped
from swamp_dist.runs.folder import RunDir
from swamp_dist.train.checkpoint_folder import checkpoint_size, step_folders
from swamp_dist.train.fingerprint import EPOCHS

if TYPE_CHECKING:
    from swamp_dist.stage.resolve import ResolvedStage  # which imports this module


@dataclass(frozen=True)
class Longer:
    """More epochs than a run was begun with."""

    was: int
    asked: int


def more_epochs(run_dir: RunDir, settings: StageSettings) -> Longer | None:
    """Whether the folder is that of a run which was to have fewer epochs; None where not."""
    if settings.train is None or not run_dir.stage_yaml.is_file():
        return None
    before = load_dumped(run_dir.stage_yaml, StageSettings).train
    if before is None or before.epochs >= settings.train.epochs:
        return None
    return Longer(before.epochs, settings.train.epochs)


def check_checkpoints(run_dir: RunDir) -> None:
    """Refuse to train a finished stage for longer from nothing.

    Raises:
        UserError: none of its checkpoints is there any more.
    """
    if not any(checkpoint_size(folder) is not None for _, folder in step_folders(run_dir.checkpoints)):
        raise UserError(
            f"{run_dir.path} holds a finished stage without checkpoints: it cannot be trained for longer.\n"
            f"Fix: begin another run with its weights: train.init_from={run_dir.path} and another --run-dir."
        )


def go_on(run_dir: RunDir, settings: StageSettings, stage: ResolvedStage) -> list[str]:
    """Make ready a run that `open_run` has let pass: the result of one that is trained for longer is set
    aside, and its weights with it. What there is to say of more epochs; [] where they are those of before.

    Raises:
        OSError: the folder may not be written.
    """
    longer = more_epochs(run_dir, settings)
    if longer is None or stage.training is None or not step_folders(run_dir.checkpoints):
        return []
    training = stage.training
    planned = training.fingerprint.get(EPOCHS, longer.asked)
    told = [schedule_told(longer, training.settings, planned if isinstance(planned, int) else longer.asked)]
    result = run_dir.read_result()
    if result is not None:
        kept = run_dir.set_aside_result(result)
        told.append(f"the result of its {longer.was} epochs is kept as {kept}")
    return told


def planned_epochs(saved: Mapping[str, object], train: TrainSettings) -> int:
    """Epochs that the schedule is laid over, where a run goes on from a checkpoint with the marks `saved`.

    Raises:
        UserError: the schedule has ended at a learning rate of 0, at which no weight would move.
    """
    began = saved.get(EPOCHS)
    held = train.schedule.extend == "hold" and isinstance(began, int) and began < train.epochs
    if train.schedule.kind != "cosine" or not held or not isinstance(began, int):
        return train.epochs
    if train.schedule.floor == 0:
        raise UserError(
            f"train.epochs: was {began}, asked {train.epochs}: the cosine schedule ends at a learning rate "
            f"of 0 after {began} epochs, and held there no weight would move.\n"
            f"Fix: train.schedule.extend=replan, which lays it over {train.epochs} epochs from where the run "
            "goes on."
        )
    return began


def schedule_told(longer: Longer, train: TrainSettings, planned: int) -> str:
    """What the learning rate does in the added epochs, one line."""
    how = {
        "constant": "the constant learning rate goes on",
        "step": "the learning rate goes on falling as before",
        "cosine": f"the schedule is laid over {train.epochs} epochs from where the run goes on (replan)",
    }[train.schedule.kind]
    if train.schedule.kind == "cosine" and planned < train.epochs:
        rate = train.schedule.floor * train.optimizer.lr
        how = (
            f"after epoch {planned} the learning rate stays where its schedule ends, {rate:g} "
            "(train.schedule.extend=replan would lay the schedule over all epochs)"
        )
    return f"train.epochs: was {longer.was}, asked {longer.asked}: {how}"
