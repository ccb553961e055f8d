"""The graph of a pipeline as it stands in its run folder, for those who watch it: graph.json."""

from __future__ import annotations

import json
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


def write_graph(plan: Plan) -> None:
    """Leave the graph of a planned pipeline in its folder."""
    stages = [{"key": stage.key, "after": list(stage.after)} for stage in plan.stages]
    write_atomically(RunDir(plan.run_dir).graph_json, json.dumps({"stages": stages}, indent=1) + "\n")


def read_graph(folder: Path) -> list[GraphNode] | None:
    """The stages of a pipeline folder, each after those it waits for; None where there is no readable graph."""
    try:
        stages = json.loads(RunDir(folder).graph_json.read_bytes())["stages"]
        return [GraphNode(str(stage["key"]), tuple(map(str, stage["after"]))) for stage in stages]
    except (OSError, ValueError, KeyError, TypeError):
        return None
