"""Signals that ask a run to stop are noted with what sent them; a closed terminal is one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from swamp_dist.stop_requests import CTRL_C, OF_RANKS, StopRequest, listen, stop_signals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Give every handler back, and let SIGHUP be one that is heard: the tests may run under nohup."""
    before = {n: signal.signal(n, signal.SIG_DFL) for n in OF_RANKS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGTERM, "SIGTERM"),
        (signal.SIGUSR2, "SIGUSR2"),
        (CTRL_C, "Ctrl-C (SIGINT)"),
        (signal.SIGHUP, "SIGHUP: its terminal was closed"),
    ],
)
def test_a_signal_is_noted_with_its_reason(number: signal.Signals, reason: str) -> None:
    with stop_signals() as asked:
        assert not asked()
        assert asked.reason == ""
        os.kill(os.getpid(), number)
        assert asked()
        assert asked.reason == reason
    assert signal.getsignal(number) == signal.SIG_DFL


def test_what_came_earlier_counts() -> None:
    assert StopRequest([signal.SIGHUP]).reason.startswith("SIGHUP")
    assert StopRequest([signal.SIGTERM])()


def test_a_hangup_that_nohup_had_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert set(listen(lambda number: None)) == {signal.SIGTERM, signal.SIGUSR2}
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


CHILD = """
import os, signal, sys, time
from swamp_dist.stop_requests import stop_signals
with stop_signals() as asked:
    print("listening", flush=True)
    while not asked():
        time.sleep(0.01)
    print("said to nobody", flush=True)
    sys.stderr.write("nor this"); sys.stderr.flush()
    os._exit(75 if asked.reason.startswith("SIGHUP") else 1)
"""


def test_what_is_said_after_the_terminal_was_closed_is_no_error() -> None:
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL
    )
    os.close(theirs)
    assert b"listening" in os.read(ours, 100)
    os.close(ours)
    child.send_signal(signal.SIGHUP)  # a terminal of its own session would send it by itself
    assert child.wait(20) == 75
