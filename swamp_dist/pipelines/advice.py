"""What may well go wrong with the stages of a pipeline, each warning told once. Imports no torch."""

from __future__ import annotations

from swamp_dist.pipelines.plan import PipelinePlan
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.advice import known_notes, stage_warnings


def pipeline_warnings(plan: PipelinePlan) -> list[str]:
    """Warnings of all stages that are not done, and notes on known ones, each with the key of the first such
    stage and how many follow."""
    keys: dict[str, list[str]] = {}
    for stage in plan.stages:
        if not RunDir(stage.run_dir).done:
            for text in (*stage_warnings(stage.settings), *known_notes(stage.settings)):
                keys.setdefault(text, []).append(stage.key)
    return [f"{_names(stages)}: {text}" for text, stages in keys.items()]


def _names(stages: list[str]) -> str:
    more = len(stages) - 1
    return stages[0] if more == 0 else f"{stages[0]} and {more} more stage{'s' if more > 1 else ''}"
