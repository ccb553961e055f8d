"""Stages of a pipeline on this machine as forks of a process that has imported what they need."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from swamp_dist.backends.fork_server import read_message, send_message
from swamp_dist.backends.forking import Inherited
from swamp_dist.backends.rank_process import has_gpu, on_cpu
from swamp_dist.runs.processes import life, mark_from

logger = logging.getLogger(__name__)
SWITCH = "SWAMP_FORK_STAGES"
"""Variable that keeps stages from being forked where it is 0."""
_SERVER = "swamp_dist.backends.fork_server"
_WAITING = 512
"""Connections that the server has not taken yet: more than stages run at a time."""
_POLL_SECONDS = 0.1


class NotForked(Exception):
    """A stage was not forked, or not to its end: it needs a new process. The message says why."""


def may_fork() -> bool:
    """Whether stages can be forked here: on Linux, without a GPU, whose driver no fork may share."""
    return sys.platform == "linux" and os.environ.get(SWITCH) != "0" and not has_gpu()


@contextlib.contextmanager
def fork_server(variables: Mapping[str, str | None]) -> Iterator[str]:
    """A server inside the block; yields the address that `run_forked` takes, at once.

    Args:
        variables: of the stages, on top of this process's own; None = not set.
    """
    own = {name: value for name, value in os.environ.items() if name not in variables}
    environment = on_cpu(own | {name: value for name, value in variables.items() if value is not None})
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="swamp-forks-")))
        log = stack.enter_context((folder / "log").open("w+b"))
        with socket.socket(socket.AF_UNIX) as listener:  # the server's alone: its end is heard
            listener.bind(str(folder / "server"))
            listener.listen(_WAITING)
            server = subprocess.Popen(
                [sys.executable, "-u", "-m", _SERVER, str(listener.fileno())],
                env=environment,
                stdin=subprocess.PIPE,  # ends with this process, however that ends
                stdout=log,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,  # Ctrl-C is for this process, which ends the stages in its way
            )
        stack.callback(_end, server, folder / "log")
        yield str(folder / "server")


def run_forked(server: str, module: str, arguments: Sequence[str], output: int) -> int:
    """Run `python -m MODULE ARGUMENTS` as a fork of a server, as if it were our child; its exit code.

    It is asked to save and stop where this call or this process ends before it does.

    Args:
        server: address that `fork_server` gave.
        output: open file for its stdout and stderr.

    Raises:
        NotForked: it was not started, or the server ended, and then the stage too.
    """
    start = {
        "module": module,
        "arguments": list(arguments),
        "environment": dict(os.environ),
        "inherited": Inherited.own().as_dict(),
    }
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(server)
            send_message(connection, start, output, output)
            answer, _ = read_message(connection)
        except (OSError, EOFError):
            raise NotForked("the process that stages are forked from has ended") from None
        if "refused" in answer:
            raise NotForked(str(answer["refused"]))
        try:
            ending, _ = read_message(connection)
        except (OSError, EOFError):
            mark = mark_from(answer)
            while mark is not None and life(mark) in ("alive", "suspended"):  # it saves, as Linux told it
                time.sleep(_POLL_SECONDS)
            raise NotForked(
                "the process that stages are forked from has ended, and this stage with it"
            ) from None
        return int(ending["code"])


def _end(server: subprocess.Popen[bytes], log: Path) -> None:
    """End the server; say so where it had ended by itself."""
    if server.poll() is not None:
        said = log.read_text(errors="replace").strip().splitlines()[-1:]
        logger.warning(
            "the process that stages are forked from ended with code %s%s; later stages started as usual",
            server.returncode,
            "".join(f" ({line})" for line in said),
        )
    server.terminate()
    if server.stdin is not None:
        server.stdin.close()
    server.wait()
