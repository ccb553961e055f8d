"""Whether a run has the time to save when a cluster asks it to, and is let in again; its backend judges."""

from __future__ import annotations

from collections.abc import Iterator

from swamp_dist.backends.protocols import CheckedBackend, SiteBackend
from swamp_dist.backends.registry import open_backend
from swamp_dist.doctor.finding import Subject
from swamp_dist.environment import read_environment
from swamp_dist.records import Finding
from swamp_dist.runs import events as journal
from swamp_dist.runs.events import number
from swamp_dist.runs.folder import RunDir


def grace(subject: Subject) -> Iterator[Finding]:
    """The time that a cluster leaves for saving against one step plus one save."""
    backend = _backend(subject)
    if backend is not None:
        yield from backend.check_time_to_save(*seconds_to_save(subject.run_dir))


def requeue(subject: Subject) -> Iterator[Finding]:
    """Whether the cluster lets a job into the queue again."""
    backend = _backend(subject)
    if backend is not None:
        yield from backend.check_requeue()


def site(subject: Subject) -> Iterator[Finding]:
    """Whether the scheduler would take a job of the cluster file, asked where jobs are submitted."""
    backend = site_backend(subject)
    if backend is not None and read_environment().launcher == "none":
        yield from backend.check_site()


def site_backend(subject: Subject) -> SiteBackend | None:
    """The scheduler of the cluster file; None where ranks run on this machine."""
    backend = open_backend(subject.cluster) if subject.cluster is not None else None
    return backend if isinstance(backend, SiteBackend) else None


def _backend(subject: Subject) -> CheckedBackend | None:
    backend = open_backend(subject.cluster) if subject.cluster is not None else None
    return backend if isinstance(backend, CheckedBackend) else None


def seconds_to_save(run_dir: RunDir | None) -> tuple[float | None, str]:
    """Seconds of one step plus the slowest of the last saves of a run, and how they come about."""
    if run_dir is None:
        return None, "no run was given to measure a step and a save in"
    events = run_dir.read_events()
    saves = [s for e in events if e["event"] == "committed" and (s := number(e, "seconds")) is not None]
    tries = journal.attempts(events)
    step = journal.seconds_per_step(
        tries[-1] if tries else None, journal.last_rows(run_dir.metrics_jsonl), None
    )
    if step is None or not saves:
        return None, f"{run_dir.path} has no step or no commit yet"
    save = max(saves[-20:])
    return step + save, f"a step {step:.2g} s, a commit {save:.2g} s"
