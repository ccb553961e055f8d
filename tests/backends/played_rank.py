"""A rank that only leaves its mark: learns its place, waits for `finish`, saves when asked."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from swamp_dist.environment import job_id, read_environment
from swamp_dist.errors import ExitCode
from swamp_dist.runs.folder import RunDir


def main() -> None:
    """Play one rank until `finish` appears in the run folder, or a signal asks to save."""
    info, folder = read_environment(), RunDir(Path(sys.argv[2]))

    def save(_number: int, _frame: object) -> None:
        if info.rank == 0:
            folder.append_event("preempted", step=1)
        os._exit(ExitCode.REQUEUE)

    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, save)
    mark = {
        "pid": os.getpid(),
        "rank": info.rank,
        "world_size": info.world_size,
        "job": job_id(),
        "weights_only": os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD"),
    }
    with (folder.path / f"starts-{info.rank}").open("a") as starts:
        starts.write(json.dumps(mark) + "\n")
    while not (folder.path / "finish").exists():
        time.sleep(0.02)
    if info.rank == 0:
        folder.result_json.write_text("{}")
        folder.append_event("done")


if __name__ == "__main__":
    main()
