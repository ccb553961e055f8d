"""What a running build leaves beside its set, for `swamp status`: who builds, and how far it is."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from swamp_dist.atomic_files import write_atomically
from swamp_dist.file_names import build_note_file
from swamp_dist.runs.processes import own_mark

Report = Callable[[int, int], None]


@contextlib.contextmanager
def noted_build(out: Path, report: Report) -> Iterator[Report]:
    """Keep the note while the block builds the set at `out`; yields a report that brings it up to date."""
    path, facts = build_note_file(out), {**own_mark().as_dict(), "began": time.time(), "out": str(out)}

    def note(done: int, total: int) -> None:
        with contextlib.suppress(OSError):  # nobody's build fails for want of a note
            write_atomically(path, json.dumps({**facts, "done": done, "total": total}) + "\n")
        report(done, total)

    with contextlib.suppress(OSError):
        write_atomically(path, json.dumps(facts) + "\n")
    try:
        yield note
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
