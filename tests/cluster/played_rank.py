"""A rank without torch: learns its place as a real one does, then runs `rank.py` of its run folder."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

from swamp_dist.environment import check_batch_mark, job_id, job_restarts, read_environment
from swamp_dist.runs.folder import RunDir


def main() -> None:
    """Run the text with `rank`, `restart` and `folder`; what it does not end otherwise is done."""
    folder = RunDir(Path(sys.argv[2]))
    folder.note_began(job_id())
    check_batch_mark()
    info = read_environment()
    (folder.path / f"variables-{info.rank}.json").write_text(json.dumps(dict(os.environ)))
    known = {"rank": info.rank, "restart": job_restarts(), "folder": folder}
    runpy.run_path(str(folder.path / "rank.py"), known)
    if info.rank == 0:
        folder.result_json.write_text("{}")


if __name__ == "__main__":
    main()
