"""A rank under a scheduler: `python -m swamp_dist.launch.rank STAGE_YAML RUN_DIR`, one task each.

A scheduler may signal at any moment, also while torch is imported, which takes seconds. The handlers
are therefore set first, and the stage hears of what came early.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Listen, then run the stage; does not return."""
    early: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: early.append(received))
    from swamp_dist.launch.task import exit_at_once
    from swamp_dist.launch.task import main as run_task

    exit_at_once(run_task(sys.argv[1:], early))


if __name__ == "__main__":
    main()
