"""The graph of a pipeline as it stands in its run folder, for those who watch it: graph.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swamp_dist.atomic_files import write_atomically
from swamp_dist.plain_files import parse_json, read_plain_file
from swamp_dist.runs.folder import RunDir

_MOST_BYTES = 2**26
"""Of graph.json: some 500,000 stages."""


@dataclass(frozen=True)
class GraphNode:
    """One stage of a pipeline: its key, which is also its folder's path, and the keys before it."""

    key: str
    after: tuple[str, ...]


def write_graph(
    folder: Path,
    nodes: Sequence[GraphNode],
    jobs: Mapping[str, str] | None = None,
    shards: Sequence[Path] = (),
) -> None:
    """Leave the graph of a planned pipeline in its folder; jobs and builds that it names already stay.

    Args:
        nodes: every stage, after those it waits for.
        jobs: of a graph that the scheduler holds, the job of each stage handed over so far; empty for one
            that is done.
        shards: folders of the shard sets that it builds.
    """
    submitted = _read_jobs(folder) | dict(jobs or {})
    stages = [
        {"key": stage.key, "after": list(stage.after)}
        | ({"job": job} if (job := submitted.get(stage.key)) else {})
        for stage in nodes
    ]
    named = [str(out) for out in shards] or read_shards(folder)
    _write(folder, stages, read_builds(folder), named)


def note_build(folder: Path, job: str) -> None:
    """Add a job that this pipeline submitted to build a shard set: `swamp cancel` ends it with the stages."""
    stages = _read(folder)["stages"]
    _write(folder, stages, list(dict.fromkeys([*read_builds(folder), job])), read_shards(folder))


def _write(folder: Path, stages: Sequence[object], builds: Sequence[str], shards: Sequence[str]) -> None:
    graph = {"stages": stages} | ({"builds": builds} if builds else {})
    graph |= {"shards": shards} if shards else {}
    write_atomically(RunDir(folder).graph_json, json.dumps(graph, indent=1) + "\n")


def _read(folder: Path) -> Any:
    """graph.json as it stands. Raises OSError or ValueError where it is no JSON file."""
    return parse_json(read_plain_file(RunDir(folder).graph_json, _MOST_BYTES))


def _read_jobs(folder: Path) -> dict[str, str]:
    try:
        stages = _read(folder)["stages"]
        return {str(stage["key"]): str(stage["job"]) for stage in stages if "job" in stage}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def read_builds(folder: Path) -> list[str]:
    """Jobs that were submitted to build the shard sets of a pipeline folder; [] where there are none."""
    try:
        return [str(job) for job in _read(folder)["builds"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def read_shards(folder: Path) -> list[str]:
    """Folders of the shard sets that a pipeline builds; [] where none is noted."""
    try:
        return [str(out) for out in _read(folder)["shards"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def read_graph(folder: Path) -> list[GraphNode] | None:
    """The stages of a pipeline folder, each after those it waits for; None where there is no readable
    graph."""
    try:
        stages = _read(folder)["stages"]
        nodes = [GraphNode(str(stage["key"]), tuple(map(str, stage["after"]))) for stage in stages]
        # A key is a path below the folder: another one would lead to runs that are not this pipeline's.
        return [node for node in nodes if _is_below(node.key)]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_below(key: str) -> bool:
    parts = key.split("/")
    return "\0" not in key and not {"", ".", ".."} & set(parts)
