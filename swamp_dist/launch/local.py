"""Starts the ranks of one stage on this machine, watches them and ends them together."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import enum
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from swamp_dist.launch.processes import own_mark
from swamp_dist.launch.rundir import RunDir
from swamp_dist.records import UserError

logger = logging.getLogger(__name__)
_libc = ctypes.CDLL(None)  # opened here: between fork and exec is no place to load libraries
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)
_TO_RANKS: dict[int, int] = {signal.SIGINT: signal.SIGTERM}
"""Ctrl-C asks the ranks to save and stop, as a scheduler does."""
_POLL_SECONDS = 0.05


class ExitCode(enum.IntEnum):
    """How a stage ended, for schedulers and pipelines."""

    DONE = 0
    FAILED = 1
    USER_MISTAKE = 2
    HELD = 3
    REQUEUE = 75
    """Progress is committed and the stage wants to be started again."""
    INTERRUPTED = 130


RANK_DEFAULTS = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "PYTHONUNBUFFERED": "1"}
"""Variables of every rank."""
CPU_DEFAULTS = {
    "DS_ACCELERATOR": "cpu",
    # Keep freed arrays of a step's size for the next step: giving them back to the system and
    # faulting their pages in again doubled the time of a step on a CPU.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Variables of ranks without a GPU, where the user sets no others."""
_AGREED = {ExitCode.USER_MISTAKE, ExitCode.HELD, ExitCode.REQUEUE}
"""Codes that all ranks of a stage end with together: the others get time to do the same."""


@dataclass(frozen=True)
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    log_from: int
    """Size of its log file before it started: what stands there already is of earlier runs."""


def run_ranks(
    stage_yaml: Path,
    run_dir: Path,
    ranks: int,
    *,
    report: Callable[[str], None] = logger.info,
    console: IO[Any] | None = None,
    module: str = "swamp_dist.launch.task",
    patience: float = 5.0,
) -> int:
    """Run a stage on `ranks` processes of this machine until all have ended; the exit code.

    Args:
        stage_yaml: the resolved stage; passed with `run_dir` to `python -m module`.
        report: where messages to the user go.
        console: where rank 0 writes; None = this process's own output. Others write to their log files.
        patience: seconds a rank gets between SIGTERM and SIGKILL.

    SIGTERM and SIGUSR2 are passed on to the ranks and SIGINT as SIGTERM, so that they save and stop: code
    REQUEUE, also where they had not begun. A second SIGINT kills them: code INTERRUPTED.

    Raises:
        UserError: `ranks` is not positive.
    """
    folder = RunDir(run_dir)
    if ranks < 1:
        raise UserError(f"--ranks: expected a number of at least 1, found {ranks}")
    if folder.done:
        report(f"{run_dir} is done already ({folder.result_json} is there): nothing to run")
        return ExitCode.DONE
    folder.create()
    folder.append_event("starting", **own_mark().as_dict(), world_size=ranks, logs=folder.log_sizes())
    starts: list[_Rank] = []
    with _forwarding(starts) as seen:
        try:
            _start(
                starts, ranks, [sys.executable, "-m", module, str(stage_yaml), str(run_dir)], folder, console
            )
            return _watch(starts, folder, report, patience, seen)
        finally:
            _end(starts, patience=0.0)


def rank_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """This process's environment with what a rank needs to join the others."""
    own = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **RANK_DEFAULTS,
    }
    threads = max(1, (os.cpu_count() or 1) // ranks)
    defaults = {"OMP_NUM_THREADS": str(threads)}
    if not _has_gpu():
        defaults |= CPU_DEFAULTS
    return {**defaults, **os.environ, **own}


def _has_gpu() -> bool:
    """Whether a GPU device node is there and not hidden; importing torch to ask would take a second."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _start(
    starts: list[_Rank], ranks: int, command: Sequence[str], folder: RunDir, console: IO[Any] | None
) -> None:
    port = free_port()
    for rank in range(ranks):
        with folder.log(rank).open("ab") as log:
            before = log.tell()
            out: Any = console if rank == 0 else log
            process = subprocess.Popen(
                command,
                env=rank_environment(rank, ranks, port),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out if rank == 0 else subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the ranks once, through the forwarding
                preexec_fn=die_with_parent,  # safe: no other thread of the package runs here
            )
        starts.append(_Rank(rank, process, before))


def die_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies, so that no rank is orphaned."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        _libc.prctl(pr_set_pdeathsig, signal.SIGTERM)


def _watch(
    starts: Sequence[_Rank],
    folder: RunDir,
    report: Callable[[str], None],
    patience: float,
    seen: Sequence[int],
) -> int:
    """Wait for all ranks; after the first failure end the others. `seen`: signals passed on so far."""
    while not (failed := _failed(starts)):
        if all(r.process.poll() == 0 for r in starts):
            return ExitCode.DONE
        time.sleep(_POLL_SECONDS)
    # A crash reaches its peers within milliseconds: wait a moment to find the one that began it.
    codes = set(failed.values())
    _wait(starts, 10 * patience if codes == {ExitCode.REQUEUE} else patience if codes <= _AGREED else 0.2)
    failed = _failed(starts)
    culprit = _culprit(failed)
    _end(starts, patience)
    code = failed[culprit]
    if seen.count(signal.SIGINT) > 1 and code != ExitCode.REQUEUE:
        report("killed by the second Ctrl-C; the same command continues from the last commit")
        return ExitCode.INTERRUPTED
    if -code in {_TO_RANKS.get(number, number) for number in seen}:
        report("stopped before the ranks were ready; nothing was begun")
        return ExitCode.REQUEUE
    if code not in _AGREED or failed.get(0) != code:  # what rank 0 said itself is on the console already
        message = _failure(starts[culprit], code, folder)
        with contextlib.suppress(OSError):
            folder.append_event("failed", rank=culprit, reason=message)
        report(message)
    return code if code in _AGREED else ExitCode.FAILED


def _failed(starts: Sequence[_Rank]) -> dict[int, int]:
    """Exit codes of the ranks that ended other than well."""
    return {r.number: code for r in starts if (code := r.process.poll())}


def _culprit(failed: dict[int, int]) -> int:
    """The rank to name, whose peers failed because of it: killed, then stopped by a mistake that only it
    met (a damaged shard of its own), then crashed, then agreed endings.

    Between equals the higher number: what rank 0 had to say is on the console anyway.
    """

    def guilt(rank: int) -> tuple[bool, bool, bool, int]:
        code = failed[rank]
        return code < 0, code == ExitCode.USER_MISTAKE, code not in _AGREED, rank

    return max(failed, key=guilt)


def _failure(rank: _Rank, code: int, folder: RunDir) -> str:
    ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    log = folder.log(rank.number)
    lines = last_words(log.read_bytes()[rank.log_from :].decode(errors="replace") if log.is_file() else "")
    said = f" Last lines of {log}:" + "".join(f"\n  | {line}" for line in lines) if lines else ""
    hint = "; the same command continues from the last commit" if code < 0 else ""
    return f"rank {rank.number} {ending}; the other ranks were stopped{hint}.{said}"


def last_words(text: str) -> list[str]:
    """The last error that a rank logged, without its trace; else how its log ends."""
    lines = text.splitlines()
    errors = [number for number, line in enumerate(lines) if " ERROR swamp_dist." in line]
    said = lines[errors[-1] :] if errors else lines[-15:]
    trace = next((n for n, line in enumerate(said) if errors and line.startswith("Traceback")), 15)
    return said[: min(trace, 15)]


def _wait(starts: Sequence[_Rank], seconds: float) -> bool:
    """True if all ranks ended within the time."""
    deadline = time.monotonic() + seconds
    while any(r.process.poll() is None for r in starts):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _end(starts: Sequence[_Rank], patience: float) -> None:
    """SIGTERM, and SIGKILL after `patience` seconds; returns when all have ended."""
    for step in (signal.SIGTERM, signal.SIGKILL):
        for rank in starts:
            if rank.process.poll() is None:
                rank.process.send_signal(step)
        if _wait(starts, patience if step == signal.SIGTERM else 10.0):
            return


@contextlib.contextmanager
def _forwarding(starts: Sequence[_Rank]) -> Iterator[list[int]]:
    """Pass signals on to the ranks inside the block; yields the list of those seen."""
    seen: list[int] = []

    def forward(number: int, _frame: object) -> None:
        again = number == signal.SIGINT and number in seen
        seen.append(number)
        for rank in starts:
            if rank.process.poll() is None:
                rank.process.send_signal(signal.SIGKILL if again else _TO_RANKS.get(number, number))

    if threading.current_thread() is not threading.main_thread():
        yield seen  # Python delivers signals to the main thread only
        return
    before = {number: signal.signal(number, forward) for number in _FORWARDED}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(arguments: Sequence[str] | None = None) -> int:
    """What a pipeline starts for each stage: run_ranks that ends when the pipeline does."""
    parser = argparse.ArgumentParser(prog="python -m swamp_dist.launch.local")
    parser.add_argument("stage_yaml", type=Path)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("ranks", type=int)
    chosen = parser.parse_args(arguments)
    die_with_parent()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    return run_ranks(chosen.stage_yaml, chosen.run_dir, chosen.ranks)


if __name__ == "__main__":
    sys.exit(main())
