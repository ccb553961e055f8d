"""TensorBoard's event files, in the run folder itself, so that a run is called as its folder is."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from swamp_dist.atomic_files import named
from swamp_dist.printable import printable
from swamp_dist.train.loggers.logger import Logger, RunAbout

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)
_EVENTS = re.compile(r"events\.out\.tfevents\.(\d+)\.(.+)")
_EARLIER = "tensorboard"
"""Folder in which earlier versions kept the event files; a run that has one goes on in it."""


@final
class TensorBoardLogger(Logger):
    """Scalars with descriptions, histograms, settings and provenance as text, and HParams."""

    def __init__(self, folder: Path, resume_step: int, describe: Callable[[str], str]) -> None:
        """Go on after `resume_step` updates; `describe` says what a tag means."""
        from torch.utils.tensorboard import SummaryWriter

        earlier = folder / _EARLIER
        self._folder = earlier if earlier.is_dir() else folder
        self._describe = describe
        _sort_before_now(self._folder)
        # TensorBoard drops what earlier event files hold from purge_step on.
        purge_step = resume_step + 1 if resume_step else 0
        others = threading.enumerate()
        self._writer: Any = SummaryWriter(str(self._folder), purge_step=purge_step)
        _say_nothing(set(threading.enumerate()).difference(others))

    def about(self, run: RunAbout) -> None:
        """The resolved job and its provenance as text."""
        with named(self._folder):
            self._writer.add_text("job", _code(run.settings), 0)
            self._writer.add_text("provenance", _code(json.dumps(run.provenance, indent=2, default=str)), 0)

    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """Scalars, each with what its tag says."""
        with named(self._folder):
            for tag, value in figures.items():
                self._writer.file_writer.add_summary(_scalar(tag, value, self._describe(tag)), step)

    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        """In TensorBoard's own buckets."""
        with named(self._folder):
            self._writer.add_histogram(tag, values.detach().float().cpu(), step)

    def result(self, run: RunAbout, figures: Mapping[str, float], step: int) -> None:
        """Scalars, and a line in the table of HParams: what was chosen, with these figures."""
        from torch.utils.tensorboard import summary as summaries

        make: Any = summaries.hparams
        self.figures(figures, step)
        with named(self._folder):
            for summary in make(dict(run.chosen), dict.fromkeys(figures, 0.0)):
                self._writer.file_writer.add_summary(summary)

    def flush(self) -> None:
        """To the disk."""
        with named(self._folder):
            self._writer.flush()

    def close(self) -> None:
        """Flush and end the thread that writes."""
        with named(self._folder):
            self._writer.close()


def _scalar(tag: str, value: float, description: str) -> Any:
    from tensorboard.compat.proto import summary_pb2 as proto

    metadata = proto.SummaryMetadata(
        summary_description=description,
        plugin_data=proto.SummaryMetadata.PluginData(plugin_name="scalars"),
        data_class=proto.DATA_CLASS_SCALAR,  # without it the server shows no description
    )
    return proto.Summary(value=[proto.Summary.Value(tag=tag, simple_value=value, metadata=metadata)])


def _code(text: str) -> str:
    """Text as a block of Markdown in which nothing is markup."""
    return "\n".join(f"    {line}" for line in printable(text).splitlines())


def _say_nothing(threads: Set[threading.Thread]) -> None:
    """Let errors of the system that end these threads not be printed: TensorBoard raises them once more in
    the next call of its writer."""
    others = threading.excepthook

    def hook(ending: threading.ExceptHookArgs) -> None:
        if ending.thread not in threads or not isinstance(ending.exc_value, OSError):
            others(ending)

    threading.excepthook = hook


def _sort_before_now(events: Path) -> None:
    """Give event files earlier names where the clock would not sort a new one behind them.

    They are read in the order of their names, which begin with the second they were made in: after a
    resume within that second, or on a node whose clock is behind, the purge would hit the wrong file.
    """
    found = [(path, _EVENTS.fullmatch(path.name)) for path in sorted(events.glob("events.out.tfevents.*"))]
    files = [(path, match) for path, match in found if match and path.is_file()]
    for path, match in found:
        if not match:
            logger.warning("%s has no name that TensorBoard gives: it stays as it is", path)
    if any(int(match[1]) >= int(time.time()) for _, match in files):
        for place, (path, match) in enumerate(files):
            os.replace(path, events / f"events.out.tfevents.{place:010d}.{match[2]}")
