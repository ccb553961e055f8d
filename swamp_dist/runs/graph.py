"""The graph of a pipeline as it stands in its run folder, for those who watch it: graph.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from swamp_dist.launch.rundir import RunDir, write_atomically

if TYPE_CHECKING:
    from swamp_dist.launch.plan import Plan  # brings numpy, which watching does without


@dataclass(frozen=True)
class GraphNode:
    """One stage of a pipeline: its key, which is also its folder's path, and the keys before it."""

    key: str
    after: tuple[str, ...]


def write_graph(plan: Plan, jobs: Mapping[str, str] | None = None) -> None:
    """Leave the graph of a planned pipeline in its folder; jobs and builds that it names already stay.

    Args:
        jobs: of a graph that the scheduler holds, the job of each stage handed over so far; empty for one
            that is done.
    """
    submitted = _read_jobs(plan.run_dir) | dict(jobs or {})
    stages = [
        {"key": stage.key, "after": list(stage.after)}
        | ({"job": job} if (job := submitted.get(stage.key)) else {})
        for stage in plan.stages
    ]
    _write(plan.run_dir, stages, read_builds(plan.run_dir))


def note_build(folder: Path, job: str) -> None:
    """Add a job that this pipeline submitted to build a shard set: `swamp cancel` ends it with the stages."""
    stages = json.loads(RunDir(folder).graph_json.read_bytes())["stages"]
    _write(folder, stages, list(dict.fromkeys([*read_builds(folder), job])))


def _write(folder: Path, stages: Sequence[object], builds: Sequence[str]) -> None:
    graph = {"stages": stages} | ({"builds": builds} if builds else {})
    write_atomically(RunDir(folder).graph_json, json.dumps(graph, indent=1) + "\n")


def _read_jobs(folder: Path) -> dict[str, str]:
    try:
        stages = json.loads(RunDir(folder).graph_json.read_bytes())["stages"]
        return {str(stage["key"]): str(stage["job"]) for stage in stages if "job" in stage}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_builds(folder: Path) -> list[str]:
    """Jobs that were submitted to build the shard sets of a pipeline folder; [] where there are none."""
    try:
        return [str(job) for job in json.loads(RunDir(folder).graph_json.read_bytes())["builds"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def read_graph(folder: Path) -> list[GraphNode] | None:
    """The stages of a pipeline folder, each after those it waits for; None where there is no readable graph."""
    try:
        stages = json.loads(RunDir(folder).graph_json.read_bytes())["stages"]
        return [GraphNode(str(stage["key"]), tuple(map(str, stage["after"]))) for stage in stages]
    except (OSError, ValueError, KeyError, TypeError):
        return None
