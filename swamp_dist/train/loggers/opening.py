"""The loggers that a job names, opened for a run that begins or goes on."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, final

from swamp_dist.atomic_files import write_atomically
from swamp_dist.config.training import LoggerName
from swamp_dist.train.loggers.csv_file import CsvLogger
from swamp_dist.train.loggers.logger import Logger, RunAbout
from swamp_dist.train.loggers.mlflow import MlflowLogger
from swamp_dist.train.loggers.tensorboard import TensorBoardLogger
from swamp_dist.train.loggers.wandb import WandbLogger

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
IDENTITIES = "loggers.json"
"""In the run folder: by what other programs know the run, so that it goes on there after a kill."""


def open_loggers(
    names: Sequence[LoggerName], run: RunAbout, resume_step: int, describe: Callable[[str], str]
) -> list[Logger]:
    """The loggers of these names, told what the run is.

    Args:
        names: of `train.loggers`.
        resume_step: updates that a commit covers; figures past it are dropped where that can be done.
        describe: what a tag means.
    """
    made: list[Logger] = []
    for name in names:
        if name == "tensorboard":
            made.append(TensorBoardLogger(run.folder, resume_step, describe))
        elif name == "csv":
            made.append(CsvLogger(run.folder, resume_step))
        else:
            made.append(_OtherProgram(name, run))
    for each in made:
        each.about(run)
    return made


def logger_problems(names: Sequence[LoggerName]) -> Iterator[str]:
    """What these loggers lack on this machine, each with the fix."""
    for name in names:
        if name in ("wandb", "mlflow", "trackio") and find_spec(name) is None:
            package = "mlflow-skinny" if name == "mlflow" else name
            yield (
                f"train.loggers: {name} is not installed here: pip install {package}, or leave it out; "
                "metrics.jsonl is written in any case"
            )
        elif name == "mlflow" and not os.environ.get("MLFLOW_TRACKING_URI"):
            yield (
                "train.loggers: mlflow: MLFLOW_TRACKING_URI does not say where runs are kept: set it to a "
                "server (http://HOST:5000) or a database (sqlite:////path/mlflow.db)"
            )


@final
class _OtherProgram(Logger):
    """A program outside of the run folder. What fails there ends no training: it is told once, and nothing
    more is sent; the run's own `metrics.jsonl` has all figures."""

    def __init__(self, name: LoggerName, run: RunAbout) -> None:
        self._name = name
        self._inner: Logger | None = None
        self._try(lambda: self._open(run))

    def _open(self, run: RunAbout) -> None:
        known = _read_identities(run)
        identity = known.get(self._name)
        if self._name == "mlflow":
            made = MlflowLogger(run, identity)
            identity, self._inner = made.identity, made
        else:
            identity = identity or uuid.uuid4().hex[:8]
            self._inner = WandbLogger(run, identity, "trackio" if self._name == "trackio" else "wandb")
        write_atomically(run.folder / IDENTITIES, json.dumps({**known, self._name: identity}) + "\n")

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            self._inner = None
            said = (str(error).splitlines() or [""])[0]
            logger.warning("%s: %s: %s: no more figures go there", self._name, type(error).__name__, said)

    def _ask(self, call: Callable[[Logger], None]) -> None:
        inner = self._inner
        if inner is not None:
            self._try(lambda: call(inner))

    def about(self, run: RunAbout) -> None:
        """As the program's own."""
        self._ask(lambda inner: inner.about(run))

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """As the program's own."""
        self._ask(lambda inner: inner.figures(figures, step))

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        """As the program's own."""
        self._ask(lambda inner: inner.histogram(tag, values, step))

    def result(self, run: RunAbout, figures: Mapping[str, float], step: int) -> None:
        """As the program's own."""
        self._ask(lambda inner: inner.result(run, figures, step))

    def flush(self) -> None:
        """As the program's own."""
        self._ask(lambda inner: inner.flush())

    def close(self) -> None:
        """As the program's own."""
        self._ask(lambda inner: inner.close())


def _read_identities(run: RunAbout) -> dict[str, str]:
    try:
        found = json.loads((run.folder / IDENTITIES).read_text())
    except (OSError, ValueError):
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, dict) else {}
