"""Open shard files of a process: as many as its limit of open files leaves room for."""

from __future__ import annotations

import errno
import resource
from collections import OrderedDict
from io import FileIO
from pathlib import Path
from typing import Any

from swamp_dist.data.entry import shard_error

RESERVE = 128
"""Files that are left to the rest of the process: sockets, pipes of loader processes, logs."""


class ShardFiles:
    """The shards of one split, each opened at its first use.

    A file stays open until the process nears its limit (RLIMIT_NOFILE). The soft limit is then raised, as far
    as the hard one allows; where it does not, the file that was least recently used is closed. A new file
    has the lowest free number, so that its number tells how many files the whole process has open.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._paths = paths
        self._files: OrderedDict[int, FileIO] = OrderedDict()
        self._most = len(paths)
        self.opened = 0
        """How often a file was opened, by this process and before it was forked."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": OrderedDict(), "opened": 0}  # a process has its own

    def descriptor(self, shard: int) -> int:
        """The open file of shard number `shard`, which stays open until the next call at least.

        Raises:
            ShardError: it cannot be opened.
        """
        file = self._files.get(shard)
        if file is None:
            return self._open(shard).fileno()
        self._files.move_to_end(shard)
        return file.fileno()

    def _open(self, shard: int) -> FileIO:
        path = self._paths[shard]
        try:
            file = self._open_or_make_room(path)
        except OSError as error:
            raise shard_error(path, None, f"cannot be opened ({error.strerror})") from None
        if not _is_room_left(file.fileno()):
            self._most = max(1, len(self._files))  # from now on: numbers that become free are low ones
        while len(self._files) >= self._most:
            self._files.popitem(last=False)[1].close()
        self._files[shard] = file
        self.opened += 1
        return file

    def _open_or_make_room(self, path: Path) -> FileIO:
        try:
            return path.open("rb", buffering=0)
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE) or not self._files:
                raise
        self.close()  # others of the process took the reserve
        return path.open("rb", buffering=0)

    def close(self) -> None:
        """Close all; one that is forgotten closes with this object."""
        while self._files:
            self._files.popitem()[1].close()


def _is_room_left(number: int) -> bool:
    """Whether the process may keep its file of this number open; raises its soft limit where that helps."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or number < soft - RESERVE:
        return True
    wanted = 2 * soft if hard == resource.RLIM_INFINITY else min(2 * soft, hard)
    if wanted <= soft:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return False
    return number < wanted - RESERVE
