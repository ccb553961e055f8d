"""Ranks as child processes of this one: their ends, and the signals that are passed on to them."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from swamp_dist.backends.forking import Forked, Inherited, Start, fork_module, is_prepared, unfit
from swamp_dist.backends.rank_process import die_with_parent, python_command
from swamp_dist.stop_requests import CTRL_C, listen

logger = logging.getLogger(__name__)
TO_RANKS: dict[int, int] = {signal.SIGINT: CTRL_C}
"""Ctrl-C asks the ranks to save and stop, as a scheduler does."""
POLL_SECONDS = 0.05


@dataclass
class LocalRank:
    """A rank of this machine that was started."""

    number: int
    process: subprocess.Popen[bytes] | Forked
    log_file: Path
    log_from: int
    """Size of its log file before it started: what stands there already is of earlier runs."""
    ended_at: float = float("inf")
    """When its end was seen, by the monotonic clock."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        code = self.process.poll()
        if code is not None:
            self.ended_at = min(self.ended_at, time.monotonic())
        return code

    def send(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.poll() is None:
            self.process.send_signal(number)

    @property
    def log(self) -> str:
        """What it has logged since it was started."""
        content = self.log_file.read_bytes() if self.log_file.is_file() else b""
        return content[self.log_from :].decode(errors="replace")


@dataclass
class Signals:
    """What asked this process to stop, and what the ranks are sent for it."""

    seen: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)

    def note(self, number: int) -> int:
        """A signal came; the one to send to the ranks."""
        again = number == signal.SIGINT and number in self.seen
        self.seen.append(number)
        self.sent.append(signal.SIGKILL if again else TO_RANKS.get(number, number))
        return self.sent[-1]


def start_rank(
    module: str, arguments: Sequence[str], environment: Mapping[str, str], out: IO[Any] | None
) -> subprocess.Popen[bytes] | Forked:
    """A child that runs a module: a fork of this process where that is prepared for it, else a new one.

    Args:
        out: where stdout and stderr go; None = to those of this process.
    """
    if is_prepared():
        start = Start(module, tuple(arguments), environment, Inherited.own())
        reason = unfit(start)
        if not reason:
            streams = (1, 2) if out is None else (out.fileno(), out.fileno())
            return Forked(fork_module(start, *streams))
        logger.info("ranks start as new processes: %s", reason)
    return subprocess.Popen(
        python_command(module, arguments),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=None if out is None else subprocess.STDOUT,
        start_new_session=True,  # Ctrl-C reaches the ranks once, through the forwarding
        preexec_fn=die_with_parent,  # safe: no other thread of the package runs here
    )


def wait_for(starts: Sequence[LocalRank], seconds: float) -> bool:
    """True if all ranks ended within the time."""
    deadline = time.monotonic() + seconds
    while any(r.poll() is None for r in starts):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def end_ranks(starts: Sequence[LocalRank], patience: float) -> None:
    """SIGTERM, and SIGKILL after `patience` seconds; returns when all have ended."""
    for step in (signal.SIGTERM, signal.SIGKILL):
        for rank in starts:
            rank.send(step)
        if wait_for(starts, patience if step == signal.SIGTERM else 10.0):
            return


@contextlib.contextmanager
def released(starts: Sequence[LocalRank]) -> Iterator[None]:
    """After the block, forked ranks that have ended are let go; nothing may ask for them any more."""
    try:
        yield
    finally:
        for rank in starts:
            if isinstance(rank.process, Forked) and rank.poll() is not None:
                rank.process.reap()


@contextlib.contextmanager
def forward_signals(starts: Sequence[LocalRank]) -> Iterator[Signals]:
    """Pass signals on to the ranks inside the block; yields those that came."""
    signals = Signals()

    def forward(number: int, _frame: object) -> None:
        to_ranks = signals.note(number)
        for rank in starts:
            rank.send(to_ranks)

    if threading.current_thread() is not threading.main_thread():
        yield signals  # Python delivers signals to the main thread only
        return
    interrupt = signal.signal(signal.SIGINT, forward)
    before = listen(lambda number: forward(number, None))
    try:
        yield signals
    finally:
        for number, handler in (before | {signal.SIGINT: interrupt}).items():
            signal.signal(number, handler)
