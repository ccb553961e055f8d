"""What a check is asked about, and how many are run within a bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from swamp_dist.config import ClusterSettings, StageSettings
from swamp_dist.records import Finding
from swamp_dist.runs.folder import RunDir


@dataclass(frozen=True)
class Subject:
    """What the checks are about; parts that were not given are not checked."""

    job: StageSettings | None = None
    run_dir: RunDir | None = None
    cluster: ClusterSettings | None = None
    ranks: int = 2
    """Ranks of this machine."""


Check = Callable[[Subject], Iterable[Finding]]


def run_checks(checks: Mapping[str, tuple[Check, float]], subject: Subject) -> list[Finding]:
    """All findings in the order of the checks, which run side by side, each within its own seconds.

    One that takes longer is a warning, and left behind: a file system that hangs must not hang the doctor.
    One that raises is a problem of its own.
    """
    found: dict[str, list[Finding]] = {}
    threads = {
        name: threading.Thread(target=_run, args=(name, check, subject, found), daemon=True)
        for name, (check, _) in checks.items()
    }
    began = time.monotonic()
    for thread in threads.values():
        thread.start()
    for name, thread in threads.items():
        thread.join(max(0.0, began + checks[name][1] - time.monotonic()))
    late = {
        name: [
            Finding(name, "warning", f"gave no answer within {seconds:.0f} s", "look at what it waits for")
        ]
        for name, (_, seconds) in checks.items()
    }
    return [finding for name in checks for finding in found.get(name, late[name])]


def _run(name: str, check: Check, subject: Subject, found: dict[str, list[Finding]]) -> None:
    try:
        found[name] = list(check(subject))
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        found[name] = [Finding(name, "problem", f"could not be checked: {said}", "mend what it names")]
