from __future__ import annotations

import logging
import time

import pytest

from swamp_dist import long_work
from swamp_dist.long_work import told_while

log = logging.getLogger("swamp_dist.test")


def test_long_work_is_told_and_told_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert long_work.FIRST_SECONDS < 5
    monkeypatch.setattr(long_work, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(long_work, "NEXT_SECONDS", 0.05)
    with caplog.at_level(logging.INFO, "swamp_dist"), told_while(log, "fetching"):
        time.sleep(0.5)
    told = [record.message for record in caplog.records]
    assert len(told) >= 2
    assert all(line.startswith("fetching: ") for line in told)


def test_short_work_is_not(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_work, "FIRST_SECONDS", 0.1)
    with caplog.at_level(logging.INFO, "swamp_dist"):
        with told_while(log, "fetching"):
            pass
        with told_while(log, "the first step") as is_done:
            is_done()
            time.sleep(0.3)
        with pytest.raises(ValueError, match="x"), told_while(log, "failing"):
            raise ValueError("x")
        time.sleep(0.2)
    assert not caplog.records
