"""The process that stages of a pipeline are forked from: it imports what a rank needs, once, and waits.

    python -u -m swamp_dist.backends.fork_server SOCKET      (the number of an open socket that listens)

A connection is one stage. A start comes with the files that become its stdout and stderr; the mark of its
process goes back, and at its end the exit code; a start that cannot be forked, by what it asks or for want
of processes, memory or open files, is refused with the reason. Where the connection ends before, nobody
waits for the stage: it is asked to save and stop, as by the end of its parent. The server ends when its
stdin does, and Linux tells its stages.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from swamp_dist.backends.forking import Forked, Inherited, Start, fork_module, prepare, unfit
from swamp_dist.runs.processes import ProcessMark, born

_READ_SECONDS = 10.0
"""So long a start may take to arrive; it is a few kB from the same machine."""
_PAUSE_SECONDS = 0.1
"""Between two tries to take a connection, where neither a file nor memory is left."""
_FILES = 2
"""Open files that come with a start: stdout and stderr of the stage."""


def send_message(connection: socket.socket, message: Mapping[str, Any], *files: int) -> None:
    """A JSON object, and open files with it."""
    data = json.dumps(message).encode()
    packed = len(data).to_bytes(4, "big") + data
    rest = packed[socket.send_fds(connection, [packed], files) if files else 0 :]
    if rest:  # once the other end has answered and closed, to send no bytes at all is an error too
        connection.sendall(rest)


def read_message(connection: socket.socket, files: int = 0) -> tuple[dict[str, Any], list[int]]:
    """The next JSON object, and the open files that came with it.

    Raises:
        EOFError: the other end is gone.
    """
    data, opened, *_ = socket.recv_fds(connection, 4, files)
    while missing := _missing(data):  # no byte more: it would be one of the next message
        more = connection.recv(min(missing, 2**16))
        if not more:
            for file in opened:
                os.close(file)
            raise EOFError
        data += more
    return json.loads(data[4:]), list(opened)


def _missing(data: bytes) -> int:
    """Bytes to be received before more can be told of a message; 0 where it is whole."""
    return (4 if len(data) < 4 else 4 + int.from_bytes(data[:4], "big")) - len(data)


@dataclass
class _Stage:
    """A stage that was forked, and who waits for it; None where nobody does any more."""

    process: Forked
    connection: socket.socket | None


def serve(listener: socket.socket, owner: int) -> None:
    """Fork stages until the file `owner` ends."""
    woken, wakes = socket.socketpair()
    for end in (woken, wakes):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    listener.setblocking(False)
    stages: list[_Stage] = []
    spare: list[int] = []
    _keep_spare(spare)
    while True:
        waiting = {each.connection: each for each in stages if each.connection is not None}
        files: list[Any] = [owner, listener, woken, *waiting]
        ready = select.select(files, [], [])[0]
        if owner in ready:
            return
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
        for connection in set(ready) & set(waiting):
            _forget(waiting[connection])
        stages = [each for each in stages if not _told_its_end(each)]
        if listener in ready:
            started = _accept(listener, spare)
            if started is not None:
                stages.append(started)


def _accept(listener: socket.socket, spare: list[int]) -> _Stage | None:
    """The stage of the next connection; None where it is refused, or cannot be taken now.

    `spare` holds a file that is open for nothing: where no other can be opened, a connection takes its place
    for as long as it takes to refuse it.
    """
    reason = ""
    try:
        connection, _ = listener.accept()
    except OSError as error:
        reason = _cannot(error)
        while spare:
            os.close(spare.pop())
        try:
            connection, _ = listener.accept()
        except OSError:
            time.sleep(_PAUSE_SECONDS)  # who asks goes on waiting, and is looked at again
            _keep_spare(spare)
            return None
    started = _start(connection, reason)
    _keep_spare(spare)
    return started


def _keep_spare(spare: list[int]) -> None:
    if not spare:
        with contextlib.suppress(OSError):
            spare.append(os.open(os.devnull, os.O_RDONLY))


def _cannot(error: OSError) -> str:
    return f"the process to be forked cannot be: {error.strerror or error}"


def _start(connection: socket.socket, reason: str = "") -> _Stage | None:
    """Read a start and fork; None where that was refused, as for a `reason`, or who asked is gone."""
    connection.settimeout(_READ_SECONDS)
    try:
        said, files = read_message(connection, files=_FILES)
    except (EOFError, OSError, ValueError):
        connection.close()
        return None
    start = Start(
        said["module"], tuple(said["arguments"]), said["environment"], Inherited.of(said["inherited"])
    )
    try:
        reason = reason or unfit(start)
        if len(files) != _FILES:  # Linux leaves out those that a process has no room for
            reason = reason or "the process to be forked has too many open files"
        process = None if reason else Forked(fork_module(start, *files))
    except OSError as error:
        process, reason = None, _cannot(error)
    finally:
        for file in files:
            os.close(file)
    if process is None:
        _tell(connection, {"refused": reason})
        connection.close()
        return None
    _tell(connection, ProcessMark(socket.gethostname(), process.pid, born(process.pid) or "").as_dict())
    return _Stage(process, connection)


def _forget(stage: _Stage) -> None:
    """Nobody waits for it any more: nothing else is ever said on a connection."""
    if stage.connection is not None:
        stage.connection.close()
        stage.connection = None
        stage.process.send_signal(signal.SIGTERM)


def _told_its_end(stage: _Stage) -> bool:
    code = stage.process.poll()
    if code is None:
        return False
    stage.process.reap()
    if stage.connection is not None:
        _tell(stage.connection, {"code": code})
        stage.connection.close()
    return True


def _tell(connection: socket.socket, message: Mapping[str, Any]) -> None:
    with contextlib.suppress(OSError):  # it is gone, as the next look at its connection says
        send_message(connection, message)


def main() -> None:
    """Prepare, then serve."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    prepare()
    serve(listener, sys.stdin.fileno())


if __name__ == "__main__":
    main()
