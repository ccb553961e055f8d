"""What the ranks of a run note in events.jsonl for those who watch it; all ranks call, rank 0 writes."""

from __future__ import annotations

import os

from swamp_dist.config import TrainSettings
from swamp_dist.distributed import World, gather_objects, on_main
from swamp_dist.launch.processes import own_mark
from swamp_dist.launch.rundir import RunDir
from swamp_dist.train.state import Progress


def note_start(run_dir: RunDir, world: World) -> None:
    """The ranks have met and rank 0 holds the folder: who they are, and where their logs begin."""
    marks = [mark.as_dict() for mark in gather_objects(own_mark(), world)]
    job = {"job": os.environ["SLURM_JOB_ID"]} if os.environ.get("SLURM_JOB_ID") else {}
    details = {**marks[0], "world_size": world.size, "ranks": marks, "logs": run_dir.log_sizes(), **job}
    on_main(world, lambda: run_dir.append_event("started", **details))


def note_training(run_dir: RunDir, world: World, plan: TrainSettings, step: int, total_steps: int) -> None:
    """Training begins, or goes on after `step` updates."""
    metric = {}
    if plan.validate_on is not None:
        metric = {"validates": plan.validate_on.split, "metric": plan.validate_on.metric}
    details = {"step": step, "total_steps": total_steps, "log_every": plan.log_every, **metric}
    on_main(world, lambda: run_dir.append_event("training", **details))


def note_commit(run_dir: RunDir, world: World, progress: Progress, seconds: float) -> None:
    """A commit is whole; `seconds`: how long saving took."""
    best = {"best_step": progress.best_step, "best_value": progress.best_value}
    details = {"step": progress.step, "seconds": round(seconds, 3), **best}
    on_main(world, lambda: run_dir.append_event("committed", **details))
