"""What the ranks of a run note in events.jsonl for those who watch it; all ranks call, rank 0 writes."""

from __future__ import annotations

from swamp_dist.config import TrainSettings
from swamp_dist.distributed import World, gather_objects, on_main
from swamp_dist.environment import job_id
from swamp_dist.records import Alarm
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.processes import own_mark
from swamp_dist.train.commit_meta import Progress


def note_start(run_dir: RunDir, world: World) -> None:
    """The ranks have met and rank 0 holds the folder: who they are, and where their logs begin."""
    marks = [mark.as_dict() for mark in gather_objects(own_mark(), world)]
    job = {"job": job_id()} if job_id() else {}
    details = {**marks[0], "world_size": world.size, "ranks": marks, "logs": run_dir.log_sizes(), **job}
    on_main(world, lambda: run_dir.append_event("started", **details))


def note_training(
    run_dir: RunDir, world: World, plan: TrainSettings, progress: Progress, total_steps: int
) -> None:
    """Training begins, or goes on after `progress`, with the alarms that stood then."""
    metric = {}
    if plan.validate_on is not None:
        metric = {"validates": plan.validate_on.split, "metric": plan.validate_on.metric}
    standing = [vars(alarm) for alarm in progress.alarms.standing]
    details = {"step": progress.step, "total_steps": total_steps, "log_every": plan.log_every, **metric}
    details |= {"alarms": standing} if standing else {}
    on_main(world, lambda: run_dir.append_event("training", **details))


def note_commit(run_dir: RunDir, world: World, progress: Progress, seconds: float) -> None:
    """A commit is whole; `seconds`: how long saving took."""
    best = {"best_step": progress.best_step, "best_value": progress.best_value}
    details = {"step": progress.step, "seconds": round(seconds, 3), **best}
    on_main(world, lambda: run_dir.append_event("committed", **details))


def note_alarm(run_dir: RunDir, world: World, alarm: Alarm) -> None:
    """An alarm was raised or cleared."""
    event = "alarm" if alarm.cleared is None else "alarm_cleared"
    on_main(world, lambda: run_dir.append_event(event, **vars(alarm)))
