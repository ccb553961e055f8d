"""Which job sbatch has made: read from its answer, and proven by what the job carries.

A site's sbatch may print more than its answer (a greeting, a ticket, a count of hours), and a number in it
may be another user's job. An id is used only where the scheduler says that the job is ours.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection
from dataclasses import dataclass

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.slurm import queue
from swamp_dist.errors import UserError

_FORMS = (
    re.compile(r"Submitted batch job (?P<id>[0-9]+)(?: on cluster (?P<cluster>[A-Za-z0-9_.-]+))?"),
    re.compile(r"(?P<id>[0-9]+)(?:;(?P<cluster>[A-Za-z0-9_.-]+))?"),
)
"""A whole line: in sbatch's words, or of `--parsable`."""
_TRIES, _PAUSE = 3, 1.0
"""Questions about a job that the scheduler does not list yet, and seconds between them."""


@dataclass(frozen=True)
class Submitted:
    """A job that was submitted."""

    id: str
    cluster: str | None
    """One of several, as sbatch named it; None where it named none."""


def candidates(answer: str) -> list[Submitted]:
    """The jobs that an answer of sbatch may speak of, the likeliest first. Pure."""
    matches = [m for form in _FORMS for line in answer.splitlines() if (m := form.fullmatch(line.strip()))]
    return list(dict.fromkeys(Submitted(m["id"], m["cluster"]) for m in matches))


def prove(answer: str, comment: str, cluster: str | None, older: Collection[str] = ()) -> Submitted:
    """The job of an answer: the one that carries this comment.

    Args:
        cluster: that the job was submitted to, where the cluster file names one.
        older: jobs of this comment that were submitted before.

    Raises:
        UserError: none can be told for certain; says how to find it.
    """
    named = candidates(answer)
    for _ in range(_TRIES):
        silent, owners = _owners(named, cluster)
        mine = [each for each in named if owners.get(each) == comment]
        if mine:
            return mine[0]
        listed = [job for job in _listed(comment, cluster) if job not in older]
        if listed:
            return Submitted(max(listed, key=int), named[0].cluster if named else None)
        if len(named) == 1 and (silent or owners.get(named[0]) is None):
            return named[0]  # nobody else's: it may have ended, or nobody tells
        time.sleep(_PAUSE)
    carried = [(each.id, owners.get(each)) for each in named]
    others = ", ".join(f"{job} ({said or 'no comment'})" for job, said in carried if said is not None)
    raise UserError(
        "sbatch took the job, but its answer does not tell the job's id for certain:\n"
        f"{answer.strip()}\n"
        + (f"Not of this run: {others}.\n" if others else "")
        + f"Find it with `squeue --format='%i %k'`: it carries the comment {comment}"
    )


def _owners(named: list[Submitted], cluster: str | None) -> tuple[bool, dict[Submitted, str | None]]:
    """Whether the scheduler gave no answer, and what the jobs carry that it knows."""
    owners: dict[Submitted, str | None] = {}
    try:
        for each in named:
            known = queue.jobs([each.id], each.cluster or cluster).get(each.id)
            if known is not None:
                owners[each] = known.owner
    except SchedulerError:
        return True, owners
    return False, owners


def _listed(comment: str, cluster: str | None) -> list[str]:
    try:
        return [job.partition("_")[0] for job in queue.find(comment, cluster)]
    except SchedulerError:
        return []
