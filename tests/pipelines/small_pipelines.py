"""A small pipeline on disk, and stage runners that only leave their mark; used by several tests."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from swamp_dist.config import PipelineSettings

JOB = """
name: demo
data: {shards: data/demo-0, entries: 8}
train: {epochs: 1}
evaluate: [{split: test}]
"""
RECIPE = """
name: demo
source: {kind: synthetic, splits: {train: {classes: [0, 4], total: 16}}}
"""


RESULT = {
    "format": 1,
    "weights": None,
    "selected_step": None,
    "steps": 0,
    "evaluations": [],
    "provenance": {},
}


def pipeline_files(folder: Path, **changes: object) -> PipelineSettings:
    """pre -> post, and other on its own, over two seeds; its files are in `folder`, the working folder."""
    (folder / "job.yaml").write_text(JOB)
    (folder / "recipe.yaml").write_text(RECIPE)
    data = ["seed={seed}", "data.shards=data/demo-{seed}"]
    tree = {
        "name": "demo",
        "matrix": {"seed": [0, 1]},
        "shards": [{"recipe": "recipe.yaml", "out": "data/demo-{seed}", "overrides": ["source.seed={seed}"]}],
        "stages": {
            "post": {
                "job": "job.yaml",
                "after": ["pre"],
                "overrides": [*data, "train.init_from={runs.pre}"],
            },
            "pre": {"job": "job.yaml", "overrides": data},
            "other": {"job": "job.yaml", "overrides": data},
        },
        "concurrency": 2,
    }
    return PipelineSettings.model_validate(tree | changes)


def mark(stage_yaml: Path, run_dir: Path, ranks: int) -> int:
    """Play a stage: note the start, do what the file `orders` beside the run folders says, be done.

    Orders, one a line: `STAGE_KEY ENDING TIMES`, where ENDING is an exit code or `kill`.
    """
    root = Path(os.environ["PLAYED_RUNS"])
    key = str(run_dir.relative_to(root))
    with (root / "started").open("a") as file:
        file.write(f"{key} {ranks} {os.environ.get('OMP_NUM_THREADS')} {stage_yaml.is_file()}\n")
    count = sum(line.startswith(key + " ") for line in (root / "started").read_text().splitlines())
    for line in (root / "orders").read_text().splitlines():
        stage, ending, times = line.split()
        if stage == key and count <= int(times):
            if ending == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            return int(ending)
    (run_dir / "result.json").write_text(json.dumps(RESULT | {"name": run_dir.name}))
    return 0
