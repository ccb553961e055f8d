"""What a pipeline file plans, as text that reads and compares well.

`python -m tests.pipelines.planned_text` writes that of every shipped pipeline to tests/pipelines/planned/.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from swamp_dist.config import PipelineSettings, Settings, ShardSettings, StageSettings, TableSettings
from swamp_dist.loading import load
from swamp_dist.pipelines.matrix import cells
from swamp_dist.pipelines.plan import PlannedShards, PlannedStage, plan_pipeline

ROOT = Path(__file__).parents[2]
FOLDER = Path("tests/pipelines/planned")
RUN = Path("RUN")
"""Stands for the run folder; it does not exist."""


def planned_text(settings: PipelineSettings) -> str:
    """One line per stage: key, job, stages before it, resolved settings that differ from the job file.

    Stages are sorted by key. Cells of the matrix that plan the same, but for their own values, are written
    once. Works in the root of the checkout.
    """
    plan = plan_pipeline(settings, RUN)
    _check_order_and_folders(plan.stages)
    lines = [f"ranks {settings.ranks}, concurrency {settings.concurrency}, retries {settings.retries}"]
    lines += ["", "shards", *(_shards_line(each) for each in plan.shards)]
    texts: dict[str, list[str]] = {}
    for cell, values in cells(settings.matrix):
        inside = [stage for stage in plan.stages if stage.run_dir.parent == RUN / cell]
        text = "\n".join(sorted(_stage_line(s, settings.stages[s.name].job, values) for s in inside))
        for name, value in values.items():
            text = text.replace(f"{name}-{value}", f"{name}-{{{name}}}")
            text = text.replace(f" {name}={value}", f" {name}={{{name}}}")
        texts.setdefault(text, []).append(cell)
    for text, same in texts.items():
        lines += ["", f"stages {' '.join(same)}".rstrip(), text]
    for table in settings.tables:
        lines += ["", *_table_lines(table)]
    return "\n".join(lines) + "\n"


def _check_order_and_folders(stages: Sequence[PlannedStage]) -> None:
    keys = [stage.key for stage in stages]
    assert [stage.run_dir for stage in stages] == [RUN / key for key in keys]
    assert all(keys.index(before) < keys.index(stage.key) for stage in stages for before in stage.after)


def _shards_line(shards: PlannedShards) -> str:
    changes = _changes(load(shards.recipe, ShardSettings), shards.settings)
    return " ".join([f"  {shards.out} from {shards.recipe}", *changes])


def _stage_line(stage: PlannedStage, job: Path, always: Collection[str]) -> str:
    changes = _changes(load(job, StageSettings), stage.settings, always)
    return " ".join([f"  {stage.key}: {job} after {', '.join(stage.after) or 'nothing'};", *changes])


def _table_lines(table: TableSettings) -> list[str]:
    lines = [f"table {table.title}", f"  metrics: {' '.join(table.metrics)}"]
    lines.append(f"  evaluation {table.evaluation}, baseline {table.baseline}; {table.note}".rstrip("; "))
    for row in table.rows:
        shown = {
            k: v for k, v in row.model_dump(mode="json").items() if v and k not in ("label", "published")
        }
        if row.published:
            shown["published"] = [row.published.get(metric) for metric in table.metrics]
        lines.append(f"  {row.label} | " + " ".join(f"{k}={v}" for k, v in shown.items()))
    return lines


def _changes(before: Settings, now: Settings, always: Collection[str] = ()) -> list[str]:
    old, new = _leaves(before.model_dump(mode="json")), _leaves(now.model_dump(mode="json"))
    changed = [f"{k}={json.dumps(v)}" for k, v in new.items() if k in always or old.get(k, ...) != v]
    return changed + [f"-{key}" for key in old if key not in new]


def _leaves(value: object, prefix: str = "") -> dict[str, object]:
    if not isinstance(value, Mapping) or not value:
        return {prefix[:-1]: value}
    leaves: dict[str, object] = {}
    for key, inner in value.items():
        leaves |= _leaves(inner, f"{prefix}{key}.")
    return leaves


def main() -> None:
    os.chdir(ROOT)
    for file in sorted(Path("jobs/pipelines").glob("*.yaml")):
        (FOLDER / f"{file.stem}.txt").write_text(planned_text(load(file, PipelineSettings)))


if __name__ == "__main__":
    main()
