"""How often the ranks of a stage start from the same committed step before it is given up."""

from __future__ import annotations

from swamp_dist.runs.folder import RunDir
from swamp_dist.train.checkpoint_folder import BrokenError, read_checkpoint, step_folders


def committed_step(run_dir: RunDir) -> int:
    """Step of the newest commit that looks whole; 0 where there is none."""
    for step, folder in step_folders(run_dir.checkpoints):
        try:
            read_checkpoint(folder, verify_hash=False)
        except BrokenError:
            continue
        return step
    return 0


def given_up(starts: int, step: int, max_restarts: int, reason: str) -> str:
    """Why a job is not started again."""
    return (
        f"started {starts} times from step {step} without committing another one "
        f"(max_restarts = {max_restarts}), the last time: {reason}"
    )
