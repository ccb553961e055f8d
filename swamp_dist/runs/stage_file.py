"""Job files, and the `stage.yaml` that every run folder holds: where their paths lead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from swamp_dist.config import StageSettings
from swamp_dist.loading import load
from swamp_dist.runs.folder import RunDir


def load_stage(path: Path, overrides: Sequence[str] = ()) -> StageSettings:
    """The settings of a job file, whose paths are relative to it, or of a run's own stage.yaml, whose paths
    are relative to the working folder of the run.

    Raises:
        UserError: as `load`.
    """
    return load(path, StageSettings, overrides, is_dump=is_run_stage(path))


def is_run_stage(path: Path) -> bool:
    """Whether a file is the stage.yaml of a run, which lies beside what the run has left."""
    run = RunDir(path.parent)
    return path.name == run.stage_yaml.name and (run.events_jsonl.is_file() or run.result_json.is_file())
