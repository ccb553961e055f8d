"""What a run says about itself while it trains: its own rows, and loggers that show them.

`metrics.jsonl` holds one object per logged step, tags as keys beside `step`; a validation adds one of its
own. It is cut at a resume, so that a tag has at most one value per step however often a run was killed; so
are the loggers that keep their figures in the run folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import final

from torch import Tensor

from swamp_dist.atomic_files import named, set_aside, write_atomically
from swamp_dist.config.training import LoggerName
from swamp_dist.distributed import World
from swamp_dist.file_names import METRICS_FILE
from swamp_dist.objective.terms import described_tags
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StepReport
from swamp_dist.train.loggers.logger import RunAbout
from swamp_dist.train.loggers.opening import open_loggers

TAGS: Mapping[str, str] = {
    "loss/total": "Weighted sum of all terms, mean over ranks.",
    **described_tags(),
    "optim/lr": "Learning rate of the update.",
    "optim/grad_norm": "Global gradient norm before clipping.",
    "data/share/<name>": "Share of all entries drawn so far that a set of the blend gave.",
    "perf/step_seconds": "Seconds of a training step, data excluded: mean since the last logged step.",
    "perf/data_seconds": "Seconds spent waiting for its batch: mean since the last logged step.",
    "perf/pairs_per_second": "Pairs trained on per second since the last logged step, over all ranks.",
    "retrieval/<split>/<relevance>/<direction>/<metric>": "A retrieval figure; recalls and mAP in percent.",
    "evaluation/<split>/<relevance>/<direction>/<metric>": "The same of the selected weights, at the end.",
}
"""Every tag that may be logged, with what it says. `<name>` stands for one part of a tag."""

logger = logging.getLogger(__name__)
_PATTERNS = {re.compile(re.sub("<[a-z]+>", "[^/]+", re.escape(tag))): said for tag, said in TAGS.items()}


class MetricsWriter(ABC):
    """Where a training loop reports to; every rank has one, only rank 0's writes."""

    @abstractmethod
    def log(self, report: StepReport) -> None:
        """Write the figures of one step. ValueError for a tag that TAGS does not know."""

    @abstractmethod
    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        """Show the distribution of `values` (any shape) in loggers. ValueError as in `log`."""

    @abstractmethod
    def evaluation(self, split: str, result: EvaluationResult, step: int) -> None:
        """Write all figures of a validation that ran after `step` updates."""

    @abstractmethod
    def flush(self) -> None:
        """Force everything to disk. Call it before a commit: a resume keeps what the commit covers."""

    @abstractmethod
    def close(self) -> None:
        """Flush and end; the writer is unusable after."""


def open_metrics(
    run: RunAbout, world: World, resume_step: int, loggers: Sequence[LoggerName] = ("tensorboard",)
) -> MetricsWriter:
    """The writer of this rank: `metrics.jsonl` in the run's folder and these loggers on rank 0, else silent.

    What an earlier run wrote past `resume_step` updates (0: a fresh start) is dropped from its files.
    """
    return _RunFolderWriter(run, resume_step, loggers) if world.is_main else _SilentWriter()


def show_result(
    run: RunAbout, loggers: Sequence[LoggerName], evaluations: Sequence[EvaluationResult], steps: int
) -> None:
    """Show the figures that a stage ends with in its loggers, after `steps` updates. On rank 0."""
    figures: dict[str, float] = {}
    for result in evaluations:
        figures |= evaluation_figures(result.split, result, "evaluation")
    for each in open_loggers(loggers, run, steps, description):
        each.result(run, figures, steps)
        each.close()


def description(tag: str) -> str:
    """What a tag means.

    Raises:
        ValueError: TAGS does not know it.
    """
    for pattern, said in _PATTERNS.items():
        if pattern.fullmatch(tag):
            return said
    raise ValueError(
        f"unknown metric tags {[tag]}: describe them in TAGS of the term or of swamp_dist.train.metrics"
    )


def evaluation_figures(split: str, result: EvaluationResult, first: str = "retrieval") -> dict[str, float]:
    """The figures of an evaluation by tag, whose first part is given; those that were computed."""
    figures: dict[str, float] = {}
    normalised = f" {result.normalised}" if result.normalised else ""
    for key, metrics in result.metrics.items():
        for name, value in _retrieval_figures(metrics).items():
            figures[f"{first}/{split}{normalised}/{key}/{name}"] = value
    return figures


def _retrieval_figures(metrics: RetrievalMetrics) -> dict[str, float]:
    figures = {name: getattr(metrics, name) for name in ("r_at_1", "r_at_5", "r_at_10", "median_rank")}
    if metrics.map is not None:
        figures["map"] = metrics.map
    figures |= {f"precision_at_{k}": value for k, value in metrics.precision_at.items()}
    figures |= {f"map_at_{k}": value for k, value in metrics.map_at.items()}
    figures |= {f"map_at_{k}_hits": value for k, value in metrics.map_at_hits.items()}
    return figures | {f"hit_at_{n}": value for n, value in metrics.hit_at.items()}


def _check_tags(tags: Iterable[str]) -> None:
    for tag in tags:
        description(tag)


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

    def __init__(self, run: RunAbout, resume_step: int, loggers: Sequence[LoggerName]) -> None:
        self._path, self._refused = run.folder / METRICS_FILE, False
        if os.path.lexists(self._path) and not self._path.is_file():
            logger.warning(
                "%s was not written by a run: it is %s now", self._path, set_aside(self._path).name
            )
        _cut(self._path, resume_step)
        self._rows = open(self._path, "a")  # noqa: SIM115 (open as long as the run)
        self._loggers = open_loggers(loggers, run, resume_step, description)

    def log(self, report: StepReport) -> None:
        self._write(report.figures, report.step)

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        _check_tags([tag])
        with self._writing():
            for each in self._loggers:
                each.histogram(tag, values, step)

    def evaluation(self, split: str, result: EvaluationResult, step: int) -> None:
        self._write(evaluation_figures(split, result), step)

    def flush(self) -> None:
        with self._writing():
            for each in self._loggers:
                each.flush()
            with named(self._path):
                self._rows.flush()
                os.fsync(self._rows.fileno())

    def close(self) -> None:
        for end in (self.flush, *(each.close for each in self._loggers), self._rows.close):
            try:
                end()
            except OSError:
                if not self._refused:  # else it was told, and would only be told again
                    raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Remember that there was an OSError in the block."""
        try:
            yield
        except OSError:
            self._refused = True
            raise

    def _write(self, figures: Mapping[str, float], step: int) -> None:
        _check_tags(figures)
        # JSON has no NaN: null says that a figure was taken and is not a number.
        row = {tag: value if math.isfinite(value) else None for tag, value in figures.items()}
        with self._writing():
            with named(self._path):
                self._rows.write(json.dumps({"step": step} | row, allow_nan=False) + "\n")
                self._rows.flush()
            for each in self._loggers:
                each.figures(figures, step)


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
