"""What every logger does, and what it is told of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor


Value: TypeAlias = "str | int | float | bool"


@dataclass(frozen=True)
class RunAbout:
    """What a run is, for people who look at its curves."""

    folder: Path
    """The run folder: loggers keep their files in it."""
    name: str = "run"
    """Of the stage."""
    settings: str = ""
    """The resolved job as YAML."""
    chosen: Mapping[str, Value] = field(default_factory=dict)
    """Settings that are not the default, by dotted key: what runs differ in."""
    provenance: Mapping[str, object] = field(default_factory=dict)
    """Versions, hashes and world size."""


class Logger(ABC):
    """One program that shows figures. Only rank 0 has one."""

    @abstractmethod
    def about(self, run: RunAbout) -> None:
        """Show what the run is. Called once, before the first figure of a run that begins or goes on."""

    @abstractmethod
    def figures(self, figures: Mapping[str, float], step: int) -> None:
        """Show figures by tag, taken after `step` updates; they may be no numbers (nan, inf)."""

    @abstractmethod
    def histogram(self, tag: str, values: Tensor, step: int) -> None:
        """Show the distribution of `values` (any shape) where the program has such pictures."""

    @abstractmethod
    def result(self, run: RunAbout, figures: Mapping[str, float], step: int) -> None:
        """Show the final figures of a run beside what was chosen for it."""

    @abstractmethod
    def flush(self) -> None:
        """Force everything out: a resume keeps what a commit covers."""

    @abstractmethod
    def close(self) -> None:
        """End; the logger is unusable after."""
