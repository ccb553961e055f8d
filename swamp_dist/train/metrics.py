"""What a run says about itself while it trains: TensorBoard, and a twin that needs no tool.

`metrics.jsonl` holds one object per logged step, tags as keys beside `step`; an evaluation adds one of its
own. Both are cut at a resume, so that a tag has at most one value per step however often a run was killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any, final

from torch import Tensor

from swamp_dist.atomic_files import named, set_aside, write_atomically
from swamp_dist.distributed import World
from swamp_dist.file_names import METRICS_FILE
from swamp_dist.objective.terms import described_tags
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StepReport

TAGS: Mapping[str, str] = {
    "loss/total": "Weighted sum of all terms, mean over ranks.",
    **described_tags(),
    "optim/lr": "Learning rate of the update.",
    "optim/grad_norm": "Global gradient norm before clipping.",
    "data/share/<name>": "Share of all entries drawn so far that a set of the blend gave.",
    "perf/step_seconds": "Seconds of the training step, data excluded.",
    "perf/data_seconds": "Seconds spent waiting for the batch.",
    "perf/pairs_per_second": "Pairs trained on per second, over all ranks.",
    "retrieval/<split>/<relevance>/<direction>/<metric>": "A retrieval figure; recalls and mAP in percent.",
}
"""Every tag that may be logged, with what it says. `<name>` stands for one part of a tag."""

_EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)\.(.+)")
logger = logging.getLogger(__name__)
_KNOWN = re.compile("|".join(re.sub("<[a-z]+>", "[^/]+", re.escape(tag)) for tag in TAGS))


class MetricsWriter(ABC):
    """Where a training loop reports to; every rank has one, only rank 0's writes."""

    @abstractmethod
    def log(self, report: StepReport) -> None:
        """Write the figures of one step. ValueError for a tag that TAGS does not know."""

    @abstractmethod
    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        """Write the distribution of `values` (any shape) to TensorBoard. ValueError as in `log`."""

    @abstractmethod
    def evaluation(self, split: str, result: EvaluationResult, step: int) -> None:
        """Write all figures of an evaluation that ran after `step` updates."""

    @abstractmethod
    def flush(self) -> None:
        """Force everything to disk. Call it before a commit: a resume keeps what the commit covers."""

    @abstractmethod
    def close(self) -> None:
        """Flush and end; the writer is unusable after."""


def open_metrics(run_folder: Path, world: World, resume_step: int) -> MetricsWriter:
    """The writer of this rank: `metrics.jsonl` and `tensorboard/` in `run_folder` on rank 0, else silent.

    What an earlier run wrote past `resume_step` updates (0: a fresh start) is dropped from both.
    """
    return _RunFolderWriter(run_folder, resume_step) if world.is_main else _SilentWriter()


def evaluation_figures(split: str, result: EvaluationResult) -> dict[str, float]:
    """The figures of an evaluation by tag, those that were computed."""
    figures: dict[str, float] = {}
    for key, metrics in result.metrics.items():
        for name, value in _retrieval_figures(metrics).items():
            figures[f"retrieval/{split}/{key}/{name}"] = value
    return figures


def _retrieval_figures(metrics: RetrievalMetrics) -> dict[str, float]:
    figures = {name: getattr(metrics, name) for name in ("r_at_1", "r_at_5", "r_at_10", "median_rank")}
    if metrics.map is not None:
        figures["map"] = metrics.map
    figures |= {f"precision_at_{k}": value for k, value in metrics.precision_at.items()}
    return figures | {f"map_at_{k}": value for k, value in metrics.map_at.items()}


def _check_tags(tags: Iterable[str]) -> None:
    unknown = [tag for tag in tags if not _KNOWN.fullmatch(tag)]
    if unknown:
        raise ValueError(
            f"unknown metric tags {unknown}: describe them in TAGS of the term or of swamp_dist.train.metrics"
        )


@final
class _SilentWriter(MetricsWriter):
    """Of every rank but 0."""

    def log(self, report: StepReport) -> None:
        _check_tags(report.figures)

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        _check_tags([tag])

    def evaluation(self, split: str, result: EvaluationResult, step: int) -> None:
        _check_tags(evaluation_figures(split, result))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


@final
class _RunFolderWriter(MetricsWriter):
    """Of rank 0."""

    def __init__(self, run_folder: Path, resume_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        path, events = run_folder / METRICS_FILE, run_folder / "tensorboard"
        self._path, self._events, self._refused = path, events, False
        _clear_way(path, events)
        _cut(path, resume_step)
        _sort_before_now(events)
        self._rows = open(path, "a")  # noqa: SIM115 (open as long as the run)
        # TensorBoard drops what earlier event files hold from purge_step on.
        purge_step = resume_step + 1 if resume_step else 0
        others = threading.enumerate()
        self._tensorboard: Any = SummaryWriter(str(events), purge_step=purge_step)
        _say_nothing(set(threading.enumerate()).difference(others))

    def log(self, report: StepReport) -> None:
        self._write(report.figures, report.step)

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        _check_tags([tag])
        with self._writing(self._events):
            self._tensorboard.add_histogram(tag, values.detach().float().cpu(), step)

    def evaluation(self, split: str, result: EvaluationResult, step: int) -> None:
        self._write(evaluation_figures(split, result), step)

    def flush(self) -> None:
        with self._writing(self._events):
            self._tensorboard.flush()
        with self._writing(self._path):
            self._rows.flush()
            os.fsync(self._rows.fileno())

    def close(self) -> None:
        for end in (self.flush, self._tensorboard.close, self._rows.close):
            try:
                end()
            except OSError:
                if not self._refused:  # else it was told, and would only be told again
                    raise

    @contextlib.contextmanager
    def _writing(self, path: Path) -> Iterator[None]:
        """Name the path in an OSError of the block, and remember that there was one."""
        try:
            with named(path):
                yield
        except OSError:
            self._refused = True
            raise

    def _write(self, figures: Mapping[str, float], step: int) -> None:
        _check_tags(figures)
        # JSON has no NaN: null says that a figure was taken and is not a number.
        row = {tag: value if math.isfinite(value) else None for tag, value in figures.items()}
        with self._writing(self._path):
            self._rows.write(json.dumps({"step": step} | row, allow_nan=False) + "\n")
            self._rows.flush()
        with self._writing(self._events):
            for tag, value in figures.items():
                self._tensorboard.add_scalar(tag, value, step)


def _say_nothing(threads: Set[threading.Thread]) -> None:
    """Let errors of the system that end these threads not be printed: TensorBoard raises them once more in
    the next call of its writer."""
    others = threading.excepthook

    def hook(ending: threading.ExceptHookArgs) -> None:
        if ending.thread not in threads or not isinstance(ending.exc_value, OSError):
            others(ending)

    threading.excepthook = hook


def _clear_way(rows: Path, events: Path) -> None:
    """Set aside what stands under the two names and is none of this writer's."""
    for path, is_ours in ((rows, rows.is_file()), (events, events.is_dir())):
        if os.path.lexists(path) and not is_ours:
            logger.warning("%s was not written by a run: it is %s now", path, set_aside(path).name)


def _cut(path: Path, resume_step: int) -> None:
    """Keep the rows up to `resume_step` (none at a fresh start), by an atomic rewrite.

    A file in which other lines than the last, which a kill may have torn, are no rows is set aside whole.
    """
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    steps = [_step_of(line) for line in lines]
    damaged = sum(step is None for line, step in zip(lines[:-1], steps, strict=False) if line)
    if damaged:
        aside = set_aside(path)
        logger.warning("%s: %d lines are no rows: it is %s now, its rows go on", path, damaged, aside.name)
    kept = [
        line for line, step in zip(lines, steps, strict=True) if step is not None and 0 < resume_step >= step
    ]
    write_atomically(path, b"".join(line + b"\n" for line in kept))


def _step_of(line: bytes) -> int | None:
    """Step of a row; None of a line that is none, or a torn one: it belongs to no checkpoint."""
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return step if isinstance(step, int) else None


def _sort_before_now(events: Path) -> None:
    """Give event files earlier names where the clock would not sort a new one behind them.

    They are read in the order of their names, which begin with the second they were made in: after a
    resume within that second, or on a node whose clock is behind, the purge would hit the wrong file.
    """
    named = [(path, _EVENTS.fullmatch(path.name)) for path in sorted(events.glob("events.out.tfevents.*"))]
    files = [(path, match) for path, match in named if match and path.is_file()]
    for path, match in named:
        if not match:
            logger.warning("%s has no name that TensorBoard gives: it stays as it is", path)
    if any(int(match[1]) >= int(time.time()) for _, match in files):
        for place, (path, match) in enumerate(files):
            os.replace(path, events / f"events.out.tfevents.{place:010d}.{match[2]}")
