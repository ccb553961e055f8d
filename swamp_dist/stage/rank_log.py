"""Where a rank's log goes: its own file, and for the main rank the console."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from swamp_dist.distributed import World
from swamp_dist.printable import PrintableFormatter


def configure_logging(world: World, log_file: str | None = None) -> None:
    """Package log: everything to this rank's file, messages of the main rank to the console too."""
    logger = logging.getLogger("swamp_dist")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.handlers.clear()
    line = PrintableFormatter(f"%(asctime)s rank {world.rank} %(levelname)s %(name)s: %(message)s")
    if log_file is not None:
        to_file = logging.FileHandler(log_file, encoding="utf-8")  # whatever the locale can write
        to_file.setFormatter(line)
        logger.addHandler(to_file)
    if world.is_main:
        to_console = _Console()
        to_console.setFormatter(_Brief("%(asctime)s %(message)s", "%H:%M:%S"))
        logger.addHandler(to_console)


class _Console(logging.StreamHandler[TextIO]):
    """Writes to what stderr is when a line comes: while a bar is drawn, above it."""

    @property
    def stream(self) -> TextIO:
        """stderr of now."""
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        """The base class sets the stderr of its beginning, which is not kept."""


class _Brief(PrintableFormatter):
    """Leaves traces to the log file: the console says what happened in one screen."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(logging.makeLogRecord(vars(record) | {"exc_info": None, "exc_text": None}))
