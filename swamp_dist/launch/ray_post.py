"""What the driver of a stage on Ray and its workers tell each other, and the driver its user. Imports no ray."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


@dataclass(frozen=True)
class Ending:
    """How a rank ended."""

    rank: int
    code: int
    """Exit code of its process, negative for a signal."""
    said: str
    """For the user; empty where the rank said it on the console."""


@dataclass(frozen=True)
class News:
    """What the worker hears while its rank runs."""

    signals: tuple[int, ...] = ()
    """Signals that the driver passed on, oldest first."""
    endings: tuple[Ending, ...] = ()
    """Ranks that have ended in this start."""

    @property
    def culprit(self) -> str:
        """Of the ranks that failed the one to name: one that was killed before those that failed because of it."""
        failed = sorted((e.code >= 0, e.rank, e.said) for e in self.endings if e.said)
        return failed[0][2] if failed else ""

    @property
    def killed(self) -> bool:
        """A second Ctrl-C: no time to save."""
        return self.signals.count(signal.SIGINT) > 1


class Post:
    """An actor through which the driver and the workers hear of each other."""

    def __init__(self) -> None:
        self._news, self._begun = News(), 0
        self._changed = asyncio.Condition()

    async def tell(self, number: int) -> None:
        """The driver got a signal."""
        await self._set(replace(self._news, signals=(*self._news.signals, number)))

    async def ended(self, ending: Ending) -> None:
        """A rank has ended."""
        await self._set(replace(self._news, endings=(*self._news.endings, ending)))

    async def begin(self) -> None:
        """A start of the ranks begins: those that ended before are history."""
        self._begun += 1
        await self._set(replace(self._news, endings=()))

    async def begun(self) -> int:
        """How many starts there were."""
        return self._begun

    async def news(self) -> News:
        """All news of this start, at once."""
        return self._news

    async def hear(self, known: News) -> News:
        """All news of this start, as soon as it is other than `known`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._news != known)
            return self._news

    async def _set(self, news: News) -> None:
        async with self._changed:
            self._news = news
            self._changed.notify_all()


class Console:
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
def heard(seen: list[int]) -> Iterator[list[int]]:
    """Note signals inside the block."""
    if threading.current_thread() is not threading.main_thread():
        yield seen  # Python delivers signals to the main thread only
        return
    before = {n: signal.signal(n, lambda number, _: seen.append(number)) for n in _FORWARDED}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
