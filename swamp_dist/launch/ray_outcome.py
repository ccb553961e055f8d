"""How a stage on Ray ended, from what its ranks, its events and Ray itself say. Imports no ray."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence

from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.ray_post import News
from swamp_dist.launch.ray_rank import STOPPED_FOR
from swamp_dist.launch.rundir import RunDir


def judged(folder: RunDir, news: News, error: str, began: float, report: Callable[[str], None]) -> ExitCode:
    """The exit code, after saying what the console has not; `began`: seconds since 1970."""
    events = [e for e in folder.read_events() if float(str(e["time"])) >= began]
    if news.signals and any(e["event"] == "preempted" for e in events):
        return ExitCode.REQUEUE  # whatever became of Ray meanwhile
    told = [str(e["reason"]) for e in events if e.get("given_up")]
    code, said = outcome(folder.done, news, error, told)
    if said:
        report(said)
    if code == ExitCode.FAILED and not told:
        folder.append_event("failed", reason=said)
    return code


def outcome(done: bool, news: News, error: str, told: Sequence[str]) -> tuple[ExitCode, str]:
    """How the stage ended after Ray Train has: code, and what to say beyond the console.

    Args:
        done: result.json is there.
        news: signals of all, endings of the last start.
        error: Ray's words where it gave up; empty where the workers returned.
        told: reasons of `failed` events of starts that were one too many.
    """
    if done:
        return ExitCode.DONE, ""
    codes = {e.code for e in news.endings}
    for code in STOPPED_FOR:
        if code in codes:
            return ExitCode(code), ""
    asked = {-signal.SIGTERM, *(-n for n in news.signals)} if news.signals else set()
    if news.killed and ExitCode.REQUEUE not in codes:
        return (
            ExitCode.INTERRUPTED,
            "killed by the second Ctrl-C; the same command continues from the last commit",
        )
    if codes <= {ExitCode.REQUEUE, *asked} and (codes or news.signals) and (not error or news.signals):
        return ExitCode.REQUEUE, "" if codes == {ExitCode.REQUEUE} else "stopped before the ranks were ready"
    if told:
        return ExitCode.FAILED, f"{told[-1]}; not started again"
    said = [news.culprit] if news.culprit else []
    return ExitCode.FAILED, "\n".join([*said, error] if error else said) or "the ranks ended without a result"


def first_line(error: BaseException | None) -> str:
    """Ray's words without its trace."""
    if error is None:
        return ""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"Ray Train gave up ({type(error).__name__}): {lines[0] if lines else ''}"
