from __future__ import annotations

import threading
from collections.abc import Iterator

from swamp_dist.doctor.finding import Subject, run_checks
from swamp_dist.records import Finding

WELL = Finding("well", "ok", "fine")


def test_checks_stand_in_order_and_neither_hang_nor_break_the_whole() -> None:
    release = threading.Event()

    def hangs(_: Subject) -> Iterator[Finding]:
        release.wait(60)
        yield WELL

    def breaks(_: Subject) -> Iterator[Finding]:
        yield WELL
        raise OSError("gone")

    def passes(_: Subject) -> Iterator[Finding]:
        yield WELL

    try:
        found = run_checks(
            {"hangs": (hangs, 0.1), "breaks": (breaks, 30.0), "well": (passes, 30.0)}, Subject()
        )
    finally:
        release.set()
    assert [(f.check, f.level) for f in found] == [
        ("hangs", "warning"),
        ("breaks", "problem"),
        ("well", "ok"),
    ]
    assert "gave no answer" in found[0].message
    assert "OSError: gone" in found[1].message
