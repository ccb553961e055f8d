"""What a run says about itself while it trains: TensorBoard, and a twin that needs no tool.

`metrics.jsonl` holds one object a logged step, tags as keys beside `step`; an evaluation adds one of its
own. Both are cut at a resume, so that a tag has at most one value a step however often a run was killed.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

from torch import Tensor

from swamp_dist.distributed import World
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StepReport

TAGS: Mapping[str, str] = {
    "loss/total": "Weighted sum of both terms, mean over ranks.",
    "loss/contrastive": "Contrastive term before its weight, mean over ranks.",
    "loss/swamp": "Swapped-assignment term before its weight (lambda), mean over ranks.",
    "optim/lr": "Learning rate of the update.",
    "optim/grad_norm": "Global gradient norm before clipping.",
    "swamp/target_entropy": "Mean entropy of the soft targets in nats; near 0 they are hard.",
    "swamp/target_entropy_max": "Largest possible target entropy, ln K; targets near it say nothing.",
    "swamp/used_prototypes": "Prototypes that are the arg-max of some target; a small number tells collapse.",
    "swamp/marginal_error": "Mean relative error of the prototype masses in the Sinkhorn solve.",
    "swamp/agreement": "Share of pairs whose two sides have the same arg-max target.",
    "swamp/iterations": "Sinkhorn iterations of the step.",
    "swamp/repeats": "Iterations repeated because a column mass left the range of floats.",
    "swamp/prototype_use": "Histogram of how the targets' mass is shared over prototypes (TensorBoard only).",
    "queue/fill": "Share of the queue's rows that are valid.",
    "queue/age_mean": "Mean age of the valid queue rows, in steps.",
    "queue/age_max": "Age of the oldest valid queue row, in steps.",
    "similarity/positive": "Mean cosine of matching pairs.",
    "similarity/hardest_negative": "Mean cosine of each row's most similar non-matching partner.",
    "perf/step_seconds": "Seconds of the training step, data excluded.",
    "perf/data_seconds": "Seconds spent waiting for the batch.",
    "perf/pairs_per_second": "Pairs trained on a second, over all ranks.",
    "retrieval/<split>/<relevance>/<direction>/<metric>": "A retrieval figure; recalls and mAP in percent.",
}
"""Every tag that may be logged, with what it says. `<name>` stands for one part of a tag."""

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
        raise ValueError(f"unknown metric tags {unknown}: describe them in swamp_dist.train.metrics.TAGS")


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

        path, events = run_folder / "metrics.jsonl", run_folder / "tensorboard"
        _cut(path, resume_step)
        _sort_before_now(events)
        self._rows = open(path, "a")  # noqa: SIM115 (open as long as the run)
        # TensorBoard drops what earlier event files hold from purge_step on.
        purge_step = resume_step + 1 if resume_step else 0
        self._tensorboard: Any = SummaryWriter(str(events), purge_step=purge_step)

    def log(self, report: StepReport) -> None:
        self._write(report.figures, report.step)

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        _check_tags([tag])
        self._tensorboard.add_histogram(tag, values.detach().float().cpu(), step)

    def evaluation(self, split: str, result: EvaluationResult, step: int) -> None:
        self._write(evaluation_figures(split, result), step)

    def flush(self) -> None:
        self._tensorboard.flush()
        self._rows.flush()
        os.fsync(self._rows.fileno())

    def close(self) -> None:
        self.flush()
        self._tensorboard.close()
        self._rows.close()

    def _write(self, figures: Mapping[str, float], step: int) -> None:
        _check_tags(figures)
        # JSON has no NaN: null says that a figure was taken and is not a number.
        row = {tag: value if math.isfinite(value) else None for tag, value in figures.items()}
        self._rows.write(json.dumps({"step": step} | row, allow_nan=False) + "\n")
        self._rows.flush()
        for tag, value in figures.items():
            self._tensorboard.add_scalar(tag, value, step)


def _cut(path: Path, resume_step: int) -> None:
    """Keep the rows up to `resume_step` (none at a fresh start), by an atomic rewrite."""
    if not path.exists():
        return
    kept = [line for line in path.read_text().splitlines() if 0 < resume_step >= _step_of(line)]
    staging = path.with_suffix(".jsonl.tmp")
    with open(staging, "w") as file:
        file.writelines(line + "\n" for line in kept)
        file.flush()
        os.fsync(file.fileno())
    os.replace(staging, path)


def _step_of(line: str) -> float:
    """Step of a row; a torn one (a kill while it was written) belongs to no commit."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _sort_before_now(events: Path) -> None:
    """Give event files earlier names where the clock would not sort a new one behind them.

    They are read in the order of their names, which begin with the second they were made in: after a
    resume within that second, or on a node whose clock is behind, the purge would hit the wrong file.
    """
    files = sorted(events.glob("events.out.tfevents.*"))
    if any(int(path.name.split(".")[3]) >= int(time.time()) for path in files):
        for place, path in enumerate(files):
            os.replace(path, events / f"events.out.tfevents.{place:010d}.{path.name.split('.', 4)[4]}")
