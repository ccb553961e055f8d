"""What the driver of a stage on Ray and its workers tell each other. Imports no ray."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swamp_dist.backends.first_failure import Ending, first_failure
from swamp_dist.errors import ExitCode
from swamp_dist.runs.folder import RunDir
from swamp_dist.stop_requests import listen

RETURNED = {ExitCode.DONE, ExitCode.USER_MISTAKE, ExitCode.HELD, ExitCode.REQUEUE}
"""Endings of a rank that another start would only repeat, or that it was asked for."""
STOPPED_FOR = (ExitCode.USER_MISTAKE, ExitCode.HELD)
"""Endings of one rank that end the stage, whatever its peers end with."""


@dataclass(frozen=True)
class RankExit:
    """How a rank ended."""

    rank: int
    code: int
    """Exit code of its process, negative for a signal."""
    said: str
    """For the user; empty where the rank said it on the console."""


@dataclass(frozen=True)
class MailboxState:
    """What the worker hears while its rank runs."""

    signals: tuple[int, ...] = ()
    """Signals that the driver passed on, oldest first."""
    exits: tuple[RankExit, ...] = ()
    """Ranks that have ended in this start."""

    @property
    def culprit(self) -> str:
        """What is to be said of the rank that failed first, not of those that failed because of it."""
        # how long an exit was under way from its machine is not known: all count as of one moment
        failed = [Ending(e.rank, e.code, 0.0, e.said) for e in self.exits if e.said]
        return first_failure(failed).log if failed else ""

    @property
    def killed(self) -> bool:
        """A second Ctrl-C: no time to save."""
        return self.signals.count(signal.SIGINT) > 1


class Mailbox:
    """An actor through which the driver and the workers hear of each other."""

    def __init__(self) -> None:
        self._state, self._begun = MailboxState(), 0
        self._changed = asyncio.Condition()

    async def tell(self, number: int) -> None:
        """The driver got a signal."""
        await self._set(replace(self._state, signals=(*self._state.signals, number)))

    async def ended(self, rank_exit: RankExit) -> None:
        """A rank has ended."""
        await self._set(replace(self._state, exits=(*self._state.exits, rank_exit)))

    async def begin(self) -> None:
        """A start of the ranks begins: those that ended before are history."""
        self._begun += 1
        await self._set(replace(self._state, exits=()))

    async def begun(self) -> int:
        """How many starts there were."""
        return self._begun

    async def state(self) -> MailboxState:
        """The state of this start, at once."""
        return self._state

    async def wait_for_change(self, known: MailboxState) -> MailboxState:
        """The state of this start, as soon as it is other than `known`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._state != known)
            return self._state

    async def _set(self, state: MailboxState) -> None:
        async with self._changed:
            self._state = state
            self._changed.notify_all()


class LogTail:
    """What rank 0 writes from now on, line by line."""

    def __init__(self, file: Path) -> None:
        self._file, self._at = file, file.stat().st_size if file.is_file() else 0

    def pass_on(self, report: Callable[[str], None]) -> None:
        """Report the whole lines that are new."""
        if not self._file.is_file():
            return
        with self._file.open("rb") as file:
            file.seek(self._at)
            lines, newline, _ = file.read().rpartition(b"\n")
        self._at += len(lines) + len(newline)
        if newline:
            report(lines.decode(errors="replace"))


@contextlib.contextmanager
def recorded_signals(seen: list[int]) -> Iterator[list[int]]:
    """Note signals inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield seen  # Python delivers signals to the main thread only
        return
    interrupt = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    before = listen(seen.append) | {signal.SIGINT: interrupt}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def note_stage_exit(
    folder: RunDir, state: MailboxState, error: str, began: float, report: Callable[[str], None]
) -> ExitCode:
    """The exit code, after saying what the console has not; `began`: seconds since 1970."""
    events = [e for e in folder.read_events() if float(str(e["time"])) >= began]
    if state.signals and any(e["event"] == "preempted" for e in events):
        return ExitCode.REQUEUE  # whatever became of Ray meanwhile
    told = [str(e["reason"]) for e in events if e.get("given_up") or e.get("by_alarm")]
    code, said = stage_exit(folder.done, state, error, told)
    if said:
        report(said)
    if code == ExitCode.FAILED and not told:
        folder.append_event("failed", reason=said)
    return code


def stage_exit(done: bool, state: MailboxState, error: str, told: Sequence[str]) -> tuple[ExitCode, str]:
    """How the stage ended after Ray Train has: code, and what to say beyond the console.

    Args:
        done: result.json is there.
        state: signals of all, exits of the last start.
        error: Ray's words where it gave up; empty where the workers returned.
        told: reasons of `failed` events of starts that were one too many, or stopped by an alarm.
    """
    if done:
        return ExitCode.DONE, ""
    codes = {e.code for e in state.exits}
    for code in STOPPED_FOR:
        if code in codes:
            return ExitCode(code), ""
    asked = {-signal.SIGTERM, *(-n for n in state.signals)} if state.signals else set()
    if state.killed and ExitCode.REQUEUE not in codes:
        return (
            ExitCode.INTERRUPTED,
            "killed by the second Ctrl-C; the same command continues from the last commit",
        )
    if codes <= {ExitCode.REQUEUE, *asked} and (codes or state.signals) and (not error or state.signals):
        return ExitCode.REQUEUE, "" if codes == {ExitCode.REQUEUE} else "stopped before the ranks were ready"
    if told:
        return ExitCode.FAILED, f"{told[-1]}; not started again"
    said = [state.culprit] if state.culprit else []
    return ExitCode.FAILED, "\n".join([*said, error] if error else said) or "the ranks ended without a result"


def first_line(error: BaseException | None) -> str:
    """Ray's words without its trace."""
    if error is None:
        return ""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"Ray Train gave up ({type(error).__name__}): {lines[0] if lines else ''}"
