"""Where a stage runs: one module per backend, found by its name; nothing about what is trained."""

from __future__ import annotations

import importlib
import pkgutil
from abc import abstractmethod

from swamp_dist.settings import Settings


class ClusterSettings(Settings):
    """What the settings of every backend say; `backend` is the name of the module that holds the class."""

    backend: str

    @property
    @abstractmethod
    def world_size(self) -> int:
        """Ranks of a stage."""


class SizedCluster(ClusterSettings):
    """Settings that also say what a rank gets, so that a stage's cost can be estimated beforehand."""

    @property
    @abstractmethod
    def on_gpu(self) -> bool:
        """Whether a rank drives a GPU."""

    @property
    @abstractmethod
    def cpus_per_rank(self) -> int:
        """CPU cores of a rank."""

    @property
    def memory_per_rank(self) -> int | None:
        """Bytes of a machine's memory that the settings give to a rank; None where they do not say."""
        return None

    @property
    @abstractmethod
    def layout(self) -> str:
        """How the ranks lie over machines, for people."""


def backend_names() -> list[str]:
    """Every value that `backend` may have, in alphabetical order: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def cluster_class(backend: str) -> type[ClusterSettings]:
    """The class of a backend's settings: the one that its module defines.

    Raises:
        KeyError: there is no such backend.
    """
    if backend not in backend_names():
        raise KeyError(backend)
    module = importlib.import_module(f"{__name__}.{backend}")
    defined = [value for value in vars(module).values() if isinstance(value, type)]
    (found,) = [c for c in defined if issubclass(c, ClusterSettings) and c.__module__ == module.__name__]
    return found
