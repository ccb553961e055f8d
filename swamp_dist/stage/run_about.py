"""What loggers are told of a stage: the job, what was chosen in it, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping

from swamp_dist.distributed import World
from swamp_dist.loading import describe, dump
from swamp_dist.records import StageResult
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.provenance import git_state
from swamp_dist.stage.resolve import ResolvedStage
from swamp_dist.train.loggers.logger import RunAbout, Value
from swamp_dist.train.metrics import show_result

_ALWAYS = ("seed", "data.entries", "train.epochs", "train.optimizer.lr", "objective.swamp.weight")
"""Settings that are shown where they are the default, too: runs differ in them most often."""


def about(stage: ResolvedStage, run_dir: RunDir, world: World) -> RunAbout:
    """The run of a stage that trains."""
    settings = stage.settings
    chosen = {
        each.key: _plain(each.value)
        for each in describe(settings)
        if not each.is_default or each.key in _ALWAYS
    }
    made_of: Mapping[str, object] = {
        "world_size": world.size,
        "device": world.device.type,
        "shards_sha256": stage.manifest.hash,
        "blend_sha256": dict(stage.blend_hashes),
        "git": git_state(),
    }
    return RunAbout(run_dir.path, settings.name, dump(settings), chosen, made_of)


def show_end(stage: ResolvedStage, run_dir: RunDir, result: StageResult, world: World) -> None:
    """Show the figures that a training ended with in its loggers; nothing of a stage that only evaluates."""
    if stage.training is not None:
        loggers = stage.training.settings.loggers
        show_result(about(stage, run_dir, world), loggers, result.evaluations, result.steps)


def _plain(value: object) -> Value:
    return value if isinstance(value, str | int | float) else str(value)
