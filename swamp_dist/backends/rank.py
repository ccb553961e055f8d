"""The process of a rank: `python -m swamp_dist.backends.rank STAGE_YAML RUN_DIR`, whatever starts it.

A scheduler may signal at any moment, also while torch is imported, which takes seconds. The handlers
are therefore set first, and the stage is told of what came early.
"""

from __future__ import annotations

import sys
from pathlib import Path

from swamp_dist.backends.rank_process import exit_at_once
from swamp_dist.printable import write_all_characters
from swamp_dist.stop_requests import OF_RANKS, listen


def main() -> None:
    """Listen, then run the stage; does not return."""
    write_all_characters()
    early: list[int] = []
    listen(early.append, *OF_RANKS)
    from swamp_dist.environment import job_id
    from swamp_dist.runs.folder import RunDir

    stage_yaml, run_dir = map(Path, sys.argv[1:])
    RunDir(run_dir).note_began(job_id())
    from swamp_dist.backends.jobs import job_lives
    from swamp_dist.stage.rank import run_rank

    exit_at_once(run_rank(stage_yaml, run_dir, early, job_lives(RunDir(run_dir))))


if __name__ == "__main__":
    main()
