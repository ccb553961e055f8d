"""Starts the ranks of one stage on this machine, watches them and ends them together."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, final

from swamp_dist.backends import rank_process
from swamp_dist.backends.first_failure import Ending, first_failure, last_words, whole_error
from swamp_dist.backends.forking import Forked
from swamp_dist.backends.local_ranks import (
    POLL_SECONDS,
    TO_RANKS,
    LocalRank,
    end_ranks,
    forward_signals,
    released,
    start_rank,
    wait_for,
)
from swamp_dist.backends.protocols import Backend, Report, StageRef
from swamp_dist.backends.rank_process import die_with_parent, free_port, local_environment
from swamp_dist.config import ClusterSettings
from swamp_dist.errors import ExitCode, UserError, system_error
from swamp_dist.long_work import FIRST_SECONDS
from swamp_dist.printable import log_lines_to
from swamp_dist.runs.events import stopped_by_alarm
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.processes import own_mark

logger = logging.getLogger(__name__)

_AGAIN_SECONDS = 5.0
"""How often a start that takes long is told."""
_AGREED = {ExitCode.USER_MISTAKE, ExitCode.HELD, ExitCode.REQUEUE}
"""Codes that all ranks of a stage end with together: the others get time to do the same."""


@final
@dataclass(frozen=True)
class LocalBackend(Backend):
    """The machine that the command runs on: ranks are child processes of the command."""

    cluster: ClusterSettings

    @property
    def world_size(self) -> int:
        """Ranks of a stage."""
        return self.cluster.world_size

    def check(self) -> None:
        """Ranks can always be started here."""

    def run(self, stage: StageRef, report: Report) -> int:
        """Run a stage until all ranks have ended; an `ExitCode`."""
        return run_ranks(stage.run_dir.stage_yaml, stage.run_dir.path, self.world_size, report=report)

    def describe(self, stage: StageRef) -> str:
        """What would be started."""
        return f"would run {self.world_size} ranks on this machine in {stage.run_dir.path}"


def run_ranks(
    stage_yaml: Path,
    run_dir: Path,
    ranks: int,
    *,
    report: Callable[[str], None] = logger.info,
    console: IO[Any] | None = None,
    module: str | None = None,
    patience: float = 5.0,
) -> int:
    """Run a stage on `ranks` processes of this machine until all have ended; the exit code.

    Args:
        stage_yaml: the resolved stage; passed with `run_dir` to every rank.
        report: where messages to the user go.
        console: where rank 0 writes; None = this process's own output. Others write to their log files.
        module: what the ranks run; None = `rank_process.RANK_MODULE`.
        patience: seconds from SIGTERM to SIGKILL, per rank.

    SIGTERM, SIGUSR2 and SIGHUP are passed on to the ranks and SIGINT as SIGUSR1, so that they save and stop:
    code REQUEUE, also where they had not begun. A second SIGINT kills them: code INTERRUPTED.

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
    starts: list[LocalRank] = []
    with released(starts), forward_signals(starts) as signals:
        try:
            run = partial(start_rank, module or rank_process.RANK_MODULE, [str(stage_yaml), str(run_dir)])
            _start(starts, ranks, run, folder, console, signals.sent)
            return _watch(starts, folder, report, patience, signals.seen)
        finally:
            end_ranks(starts, patience=0.0)


def _start(
    starts: list[LocalRank],
    ranks: int,
    run: Callable[[Mapping[str, str], IO[Any] | None], subprocess.Popen[bytes] | Forked],
    folder: RunDir,
    console: IO[Any] | None,
    sent: Sequence[int],
) -> None:
    """Start the ranks. `run`: starts one; `sent`: signals for them that have come so far."""
    port = free_port()
    for rank in range(ranks):
        with folder.log(rank).open("ab") as log:
            before = log.tell()
            process = run(local_environment(rank, ranks, port), console if rank == 0 else log)
        starts.append(LocalRank(rank, process, folder.log(rank), before))
        for number in tuple(sent):  # those that came before it was in `starts`
            starts[-1].send(number)


def _watch(
    starts: Sequence[LocalRank],
    folder: RunDir,
    report: Callable[[str], None],
    patience: float,
    seen: Sequence[int],
) -> int:
    """Wait for all ranks; after the first failure end the others. `seen`: signals passed on so far."""
    began, tell_at = time.monotonic(), FIRST_SECONDS
    while not (failed := _failed(starts)):
        if all(r.poll() == 0 for r in starts):
            return ExitCode.DONE
        if (passed := time.monotonic() - began) > tell_at:
            is_starting = any(event["event"] == "starting" for event in folder.read_events()[-1:])
            tell_at = passed + _AGAIN_SECONDS if is_starting else math.inf
            if is_starting:
                so_far = f"{passed:.0f} s so far"
                report(f"starting ranks ({len(starts)}): they load their libraries and meet: {so_far}")
        time.sleep(POLL_SECONDS)
    # A crash reaches its peers within milliseconds: wait a moment to find the one that began it.
    codes = set(failed.values())
    wait_for(starts, 10 * patience if codes == {ExitCode.REQUEUE} else patience if codes <= _AGREED else 0.2)
    failed = _failed(starts)
    first = first_failure(
        [Ending(r.number, failed[r.number], r.ended_at, r.log) for r in starts if r.number in failed]
    )
    culprit = first.rank
    end_ranks(starts, patience)
    code = failed[culprit]
    if seen.count(signal.SIGINT) > 1 and code != ExitCode.REQUEUE:
        report("killed by the second Ctrl-C; the same command continues from the last commit")
        return ExitCode.INTERRUPTED
    if -code in {TO_RANKS.get(number, number) for number in seen}:
        report("stopped before the ranks were ready; nothing was begun")
        return ExitCode.REQUEUE
    if code == ExitCode.FAILED and stopped_by_alarm(folder.read_events()):
        return ExitCode.FAILED  # rank 0 has said it on the console and in the events
    unsaid = code == ExitCode.USER_MISTAKE and not _told(folder)
    if code not in _AGREED or failed.get(0) != code or unsaid:  # else rank 0 has said it on the console
        message = _failure(first, starts[culprit].log_file)
        with contextlib.suppress(OSError):
            if folder.events_jsonl.is_file():  # else the folder is gone, and stays so
                folder.append_event("failed", rank=culprit, reason=message)
        report(message)
    return code if code in _AGREED else ExitCode.FAILED


def _failed(starts: Sequence[LocalRank]) -> dict[int, int]:
    """Exit codes of the ranks that ended other than well."""
    return {r.number: code for r in starts if (code := r.poll())}


def _told(folder: RunDir) -> bool:
    """Whether the ranks left word of their mistake: not where they met it before they had a log."""
    return any(e["event"] == "failed" for e in folder.read_events()[-1:])


def _failure(first: Ending, log: Path) -> str:
    code = first.code
    mistake = whole_error(first.log) if code == ExitCode.USER_MISTAKE else ""
    if mistake:  # its own words, fix included, say more than how it ended
        return f"rank {first.rank}: {mistake}\nIts log: {log}"
    ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    lines = last_words(first.log)
    said = f" Last lines of {log}:" + "".join(f"\n  | {line}" for line in lines) if lines else ""
    hint = "; the same command continues from the last commit" if code < 0 else ""
    return f"rank {first.rank} {ending}; the other ranks were stopped{hint}.{said}"


def main(arguments: Sequence[str] | None = None) -> int:
    """What a pipeline starts for each stage: run_ranks that ends when the pipeline does."""
    parser = argparse.ArgumentParser(prog="python -m swamp_dist.backends.local")
    parser.add_argument("stage_yaml", type=Path)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("ranks", type=int)
    chosen = parser.parse_args(arguments)
    die_with_parent()
    log_lines_to(None, logging.INFO)
    try:
        return run_ranks(chosen.stage_yaml, chosen.run_dir, chosen.ranks)
    except UserError as error:
        logger.error("error: %s", error)
    except OSError as error:
        logger.error("error: %s", system_error(error))
    return ExitCode.USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
