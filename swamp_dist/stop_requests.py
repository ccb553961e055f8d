"""Signals that ask a run to save and stop: which they are, and what a person reads of them."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP)
"""Of schedulers and people; SIGHUP comes when a terminal is closed."""

CTRL_C = signal.SIGUSR1
"""What a command sends its ranks for a Ctrl-C: a SIGTERM would hide what asked, and a SIGINT that comes while
Python starts would end in a trace."""
OF_RANKS = (*STOP_SIGNALS, CTRL_C)
"""All that ask a rank to stop."""


def listen(note: Callable[[int], None], *numbers: signal.Signals) -> dict[signal.Signals, Any]:
    """Let `note` be called with the number of each stop signal, or of `numbers`, from now on; the handlers
    that were there. SIGHUP stays ignored where `nohup` had it ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    wanted = [n for n in numbers or STOP_SIGNALS if not (n == signal.SIGHUP and is_ignored)]

    def handle(number: int, _frame: object) -> None:
        if number == signal.SIGHUP:
            leave_terminal()
        note(number)

    return {number: signal.signal(number, handle) for number in wanted}


class StopRequest:
    """Whether, and by what, this process was asked to save and stop."""

    def __init__(self, earlier: Sequence[int] = ()) -> None:
        self._asked = list(earlier)

    def __call__(self) -> bool:
        """Whether it was asked."""
        return bool(self._asked)

    def note(self, number: int) -> None:
        """A signal came."""
        self._asked.append(number)

    @property
    def reason(self) -> str:
        """What asked first, for people; empty where nothing has asked this process."""
        if not self._asked:
            return ""
        if self._asked[0] == CTRL_C:
            return "Ctrl-C (SIGINT)"
        name = signal.Signals(self._asked[0]).name
        return f"{name}: its terminal was closed" if name == "SIGHUP" else name


@contextlib.contextmanager
def stop_signals(earlier: Sequence[int] = ()) -> Iterator[StopRequest]:
    """Note stop signals inside the block; the loop reads them at the next step edge, nothing else happens.

    `earlier` are those that came before this block.
    """
    request = StopRequest(earlier)
    before = listen(request.note, *OF_RANKS)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave_terminal() -> None:
    """Let what is still said go nowhere: every write to a closed terminal would be an error."""
    with contextlib.suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            if _was_terminal(stream):
                os.dup2(nowhere, stream)
        os.close(nowhere)


def _was_terminal(stream: int) -> bool:
    """Whether a stream goes to a terminal, open or closed."""
    try:
        return os.ttyname(stream) != ""
    except OSError:
        pass
    try:
        return os.path.realpath(f"/proc/self/fd/{stream}").startswith(("/dev/pts/", "/dev/tty"))
    except OSError:
        return False
