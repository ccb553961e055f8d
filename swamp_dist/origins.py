"""Where a setting was given: `file.yaml:12`, or on the command line."""

from __future__ import annotations

from pathlib import Path

ARGUMENT = "argument"
"""Where a KEY=VALUE of the command line was given."""


class FileText(str):
    """A text of a settings file that remembers where it stands, for KEY=VALUE texts that are used later."""

    __slots__ = ("origin",)
    origin: str
    """`file.yaml:12`, or ARGUMENT."""

    def __new__(cls, text: str, origin: str = ARGUMENT) -> FileText:
        """A text and where it stands."""
        made = super().__new__(cls, text)
        made.origin = origin
        return made


def said_where(text: str, other: str) -> str:
    """`text`, said where `other` was."""
    return FileText(text, other.origin) if isinstance(other, FileText) else text


def file_of(origin: str) -> Path | None:
    """The file of an origin `file.yaml:12`; None for what no file says."""
    file, colon, _ = origin.rpartition(":")
    return Path(file) if colon else None
