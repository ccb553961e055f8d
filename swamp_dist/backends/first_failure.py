"""Which rank failed first, and with which words: what its peers end with is only its echo. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from swamp_dist.errors import ExitCode

_ECHO = re.compile(
    r"lost its connection to another rank|did not meet the others|onnection (?:closed|reset) by"
)
"""In the last words of a rank whose peers ended before it: this package's, gloo's and the system's."""
_ERROR = " ERROR swamp_dist."
_BEFORE_LOG = "error: "
"""With this a rank begins that met a mistake before it had a log file."""
_NEXT = re.compile(r"(?:\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d[ ,]|Traceback|error: |srun: |slurmstepd: ")
"""How the line after a message begins."""
_SAME_MOMENT = 0.2
"""Seconds: a crash reaches its peers within milliseconds, and the endings are not seen in their order."""
_LINES = 15


@dataclass(frozen=True)
class Ending:
    """How a rank ended other than well."""

    rank: int
    code: int
    """Exit code, negative for a signal."""
    at: float
    """When it was seen, in seconds of any clock."""
    log: str
    """What it logged since it was started."""


def first_failure(endings: Sequence[Ending]) -> Ending:
    """The one to name, because of which the others ended.

    Not one that everybody agreed on, nor one that says that its peers were gone, if there is another; then
    the earliest. Of the same moment one that was killed, then a mistake that only it met (a damaged shard of
    its own), then the highest rank: what rank 0 has to say is on the console anyway.
    """
    first = min(each.at for each in endings)

    def key(ending: Ending) -> tuple[bool, bool, int, bool, bool, int]:
        agreed = ending.code in (ExitCode.HELD, ExitCode.REQUEUE)
        moment = int((ending.at - first) / _SAME_MOMENT)
        killed, mistaken = ending.code < 0, ending.code == ExitCode.USER_MISTAKE
        return agreed, is_echo(ending.log), moment, not killed, not mistaken, -ending.rank

    return min(endings, key=key)


def is_echo(log: str) -> bool:
    """Whether a rank's last words say that another one ended before it."""
    return any(map(_ECHO.search, last_words(log)))


def last_words(log: str) -> list[str]:
    """The last error that a rank logged, without its trace; else how its log ends."""
    lines = log.splitlines()
    errors = [number for number, line in enumerate(lines) if _ERROR in line]
    said = lines[errors[-1] :] if errors else lines[-_LINES:]
    trace = next((n for n, line in enumerate(said) if errors and line.startswith("Traceback")), _LINES)
    return said[: min(trace, _LINES)]


def last_error(log: str) -> str:
    """The last error that a rank logged: one line without time and module; empty where it logged none."""
    errors = [line for line in log.splitlines() if _ERROR in line]
    return errors[-1].partition(_ERROR)[2].partition(": ")[2] if errors else ""


def whole_error(log: str) -> str:
    """As `last_error`, with all its lines, of which the last say the fix; also one from before the log."""
    lines = log.splitlines()
    errors = [n for n, line in enumerate(lines) if _ERROR in line or line.startswith(_BEFORE_LOG)]
    if not errors:
        return ""
    first, *more = lines[errors[-1] :]
    said = first.removeprefix(_BEFORE_LOG) if _ERROR not in first else last_error(first)
    return "\n".join([said, *takewhile(lambda line: not _NEXT.match(line), more[:_LINES])]).strip()
