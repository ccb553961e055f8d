"""Which rank of a job failed first, from what srun says of all and from the logs of those that it names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from swamp_dist.backends.first_failure import (
    Ending,
    first_failure,
    is_echo,
    last_error,
    whole_error,
)
from swamp_dist.errors import ExitCode
from swamp_dist.runs.events import reason_line
from swamp_dist.runs.folder import RunDir

_ENDED = re.compile(r"^srun: error: (\S+): tasks? ([\d,-]+): (.+)$", re.MULTILINE)
_SRUN_KILLS = re.compile(
    r"^srun: (?:First task exited \d+s ago|Terminating (?:StepId|job step))", re.MULTILINE
)
"""With this srun says that the ranks which still run are going to be killed."""
_EXITED = "Exited with exit code"
_MISTAKE = f"{_EXITED} {int(ExitCode.USER_MISTAKE)}"
_LOG_TAIL = 2**16
"""Bytes of a rank's log that are looked at: a job may have a thousand of them."""


def culprit(console: str, log_of: Callable[[int], str] = lambda _rank: "") -> str:
    """Which rank ended the others and how, in srun's words and with its own last error.

    One that was killed comes before one that gave up. Ranks that srun itself has killed, once it had waited
    for them, and those that say that their peers were gone are named only where there is no other.

    Args:
        log_of: what a rank has logged in this start.
    """
    found = _endings(_SRUN_KILLS.split(console, maxsplit=1)[0]) or _endings(console)
    if not found:
        return ""
    logs = {rank: log_of(rank) for rank in found}
    codes = {rank: _code(how) for rank, (_, _, how) in found.items()}
    first = first_failure([Ending(rank, codes[rank], 0.0, logs[rank]) for rank in found])
    if first.code == ExitCode.USER_MISTAKE:  # what is wrong and its fix, not how the process ended
        said = mistake(console, log_of)
        if said:
            return said
    node, tasks, how = found[first.rank]
    said = last_error(logs[first.rank])
    alone = said or any(map(is_echo, logs.values())) or tasks.isdecimal()
    who = f"rank {first.rank}" if alone else f"ranks {tasks}"
    return f"{who} on node {node}: {how[0].lower()}{how[1:]}" + (f" ({said})" if said else "")


def mistake(console: str, log_of: Callable[[int], str]) -> str:
    """A mistake that a rank has met and told, with its fix, whatever has become of the others; "" for none.

    srun ends with the largest code of all ranks: 137 where it killed those that waited for this one.

    Args:
        log_of: what a rank has logged in this start.
    """
    mistaken = {rank: node for rank, (node, _, how) in _endings(console).items() if how == _MISTAKE}
    words = ((rank, reason_line(whole_error(log_of(rank)))) for rank in sorted(mistaken, reverse=True))
    return next((f"rank {rank} on node {mistaken[rank]}: {said}" for rank, said in words if said), "")


def _endings(console: str) -> dict[int, tuple[str, str, str]]:
    """Of each rank that srun names: its node, the ranks that srun names with it, and how they ended."""
    told = _ENDED.findall(console)
    return {rank: (node, tasks, how) for node, tasks, how in told for rank in _ranks(tasks)}


def _code(how: str) -> int:
    """An exit code in srun's words, 1 for any but a mistake's; negative for a signal."""
    if how == _MISTAKE:
        return ExitCode.USER_MISTAKE
    return ExitCode.FAILED if how.startswith(_EXITED) else -1


def _ranks(tasks: str) -> Iterator[int]:
    """The numbers in srun's short form: `0,2-4`."""
    for part in tasks.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal() and (last or first).isdecimal():
            yield from range(int(first), int(last or first) + 1)


def log_since(run_dir: RunDir, job: str, sizes: Mapping[str, object], rank: int) -> str:
    """The end of what a rank has logged, or else has said on its console before it had a log.

    Args:
        sizes: bytes of each log file when the ranks were started.
    """
    logged = _since(run_dir, run_dir.log(rank), sizes)
    return logged or _since(run_dir, run_dir.task_log(job, rank), sizes)


def _since(run_dir: RunDir, path: Path, sizes: Mapping[str, object]) -> str:
    began = sizes.get(path.relative_to(run_dir.logs).as_posix(), 0)
    try:
        with path.open("rb") as file:
            file.seek(max(began if isinstance(began, int) else 0, file.seek(0, 2) - _LOG_TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
