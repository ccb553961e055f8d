"""The checks of a machine on the compute nodes that a cluster file asks for, in a short allocation."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from swamp_dist.backends.protocols import SchedulerError, SiteBackend
from swamp_dist.doctor.examine import merge_findings
from swamp_dist.doctor.finding import Subject
from swamp_dist.doctor.node import read_answers
from swamp_dist.errors import UserError
from swamp_dist.records import Finding

_NO_MATTER = ("grace", "requeue")
"""Checks of the cluster file that no allocation depends on."""


def refused(backend: SiteBackend, known: Sequence[Finding]) -> list[Finding]:
    """What is said instead where the scheduler would never give such nodes: to ask would only wait."""
    if all(f.level != "problem" or f.check in _NO_MATTER or f.place != "scheduler" for f in known):
        return []
    said = f"{backend.title} would not give these nodes: see the problems of the cluster file"
    return [Finding("allocation", "warning", said, "mend those, then the same command", place="nodes")]


def look_on_nodes(backend: SiteBackend, subject: Subject, job: Path | None) -> list[Finding]:
    """Findings of all nodes; those that they share stand once.

    Args:
        job: file of the subject's job.

    Raises:
        UserError: nothing can be written where the runs are.
    """
    folder = _run_folder(subject)
    token = secrets.token_hex(8)
    try:
        with tempfile.NamedTemporaryFile("w", prefix=".swamp-doctor-", dir=folder) as file:
            file.write(token)
            file.flush()
            printed = backend.run_on_nodes(_command(backend, subject, job, Path(file.name), token))
    except SchedulerError as error:
        said = f"not looked at: {error}"
        found = [Finding("allocation", "warning", said, "the same command when nodes are free")]
    except OSError as error:
        raise UserError(
            f"{folder}: {error.strerror or error}: runs cannot be written there.\nFix: another --run-dir."
        ) from None
    else:
        found = _judge(backend, read_answers(printed))
    return [replace(each, place="nodes") for each in found]


def _judge(backend: SiteBackend, answers: dict[str, list[Finding]]) -> list[Finding]:
    missing = backend.nodes - len(answers)
    hosts = ", ".join(sorted(answers))
    if missing > 0:
        said = f"{missing} of {backend.nodes} nodes gave no answer" + (f", only {hosts}" if hosts else "")
        fix = "see whether this Python starts there: srun -N1 " + sys.executable + " -m swamp_dist --help"
        found = [Finding("allocation", "problem", said, fix)]
    else:
        found = [Finding("allocation", "ok", f"looked at {hosts}")]
    return found + (merge_findings(list(answers.items())) if answers else [])


def _command(backend: SiteBackend, subject: Subject, job: Path | None, shared: Path, token: str) -> list[str]:
    words = [sys.executable, "-u", "-m", "swamp_dist.doctor.node", "--ranks", str(backend.ranks_per_node)]
    words += ["--gpus", str(backend.gpus_per_node), "--shared", str(shared), "--token", token]
    words += ["--job", str(job.resolve())] if job is not None else []
    return words + (["--run-dir", str(subject.run_dir.path.resolve())] if subject.run_dir is not None else [])


def _run_folder(subject: Subject) -> Path:
    """Where the run is or would be made: the nearest folder that is there."""
    wanted = (subject.run_dir.path if subject.run_dir is not None else Path("runs")).resolve()
    return next(p for p in (wanted, *wanted.parents) if p.is_dir())
