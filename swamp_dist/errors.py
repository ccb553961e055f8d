"""What a user is told went wrong, and the exit codes that schedulers and pipelines read."""

from __future__ import annotations

import enum
import errno
import os


class UserError(Exception):
    """A mistake the user can mend: one screen that names what is wrong, what was expected and the fix.

    The command line prints it without a traceback and exits with code 2.
    """


class BadEntry(UserError):
    """Raw data of one entry that are missing or malformed; a build fails or skips it, as its policy says."""

    def __init__(self, key: str, kind: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key
        self.kind = kind
        """What is wrong in a few fixed words, for example `no 3D features`; coverage reports count by it."""


class RunDirHeld(UserError):
    """Another live process works in the run folder; the command line ends with code 3."""


class PredecessorHolds(RunDirHeld):
    """An earlier attempt of the same job still works in the run folder: it is waited for and ends no job."""


class RunDirLost(RunDirHeld):
    """This process owned the run folder and does not any more; it has stopped before it wrote there."""

    def __init__(self, message: str, attempt: bool = True) -> None:
        super().__init__(message)
        self.attempt = attempt
        """Whether another process owns it now; else nobody does, and a start may go on."""

    def __reduce__(self) -> tuple[type[RunDirLost], tuple[str, bool]]:
        return type(self), (str(self), self.attempt)


OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a disk that is full, for all or for this user."""
_FIXES = {
    **dict.fromkeys(OUT_OF_SPACE, "Free space, or raise the quota or the file size limit (ulimit -f)."),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "Mend its permissions, or name another place."),
    errno.EROFS: "Its file system is mounted read-only: mount it for writing, or name another place.",
    **dict.fromkeys((errno.ENOENT, errno.ESTALE), "Was it moved or removed meanwhile?"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG), "Correct the path."),
    errno.EIO: "The disk or the network file system failed: see the system's log (dmesg).",
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Raise the number of open files (ulimit -n)."),
}


def system_error(error: OSError) -> str:
    """What a user is told about a file that the system refuses: its path, the system's words and the fix.

    Notes of the error, when or where it came, stand first.
    """
    paths = [os.fsdecode(path) for path in (error.filename, error.filename2) if isinstance(path, str | bytes)]
    said = " and ".join(paths) + ": " if paths else ""
    said = "".join(f"{note}: " for note in getattr(error, "__notes__", ())) + said
    fix = fix_of(error.errno)
    return f"{said}{error.strerror or error}" + (f".\n{fix}" if fix else "")


def fix_of(number: int | None) -> str:
    """What helps against an error of the system, a sentence; empty where nothing is known."""
    return _FIXES.get(number or 0, "")


class ExitCode(enum.IntEnum):
    """How a stage ended, for schedulers and pipelines."""

    DONE = 0
    FAILED = 1
    USER_MISTAKE = 2
    HELD = 3
    REQUEUE = 75
    """Progress is committed and the stage wants to be started again."""
    INTERRUPTED = 130
