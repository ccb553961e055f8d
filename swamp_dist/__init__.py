"""Distributed training for cross-modal retrieval with SwAMP (Kim, AISTATS 2023).

For programs of one's own: `Sample` and `ShardWriter` (or `RawSplit` and `BadEntry`, in a module that a recipe
names) make a shard set, `train` and `evaluate` run a stage on this machine, `load_model` reads a trained
model, `embed` runs it over a split. For a loop of one's own: `ShardDataset` reads a set, `SwampLoss` is the
objective. Mistakes that a user can mend are a `UserError`. Nothing is imported before it is used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    __version__: str
    from swamp_dist.data.shard_dataset import ShardDataset
    from swamp_dist.data.shard_writer import ShardWriter
    from swamp_dist.errors import BadEntry, RunDirHeld, UserError
    from swamp_dist.inference import TrainedModel, embed, load_model
    from swamp_dist.local_stage import evaluate, train
    from swamp_dist.loss.module import SwampLoss
    from swamp_dist.loss.output import LossAndFigures
    from swamp_dist.records import RawSplit, Sample

__all__ = [
    "BadEntry",
    "LossAndFigures",
    "RawSplit",
    "RunDirHeld",
    "Sample",
    "ShardDataset",
    "ShardWriter",
    "SwampLoss",
    "TrainedModel",
    "UserError",
    "embed",
    "evaluate",
    "load_model",
    "train",
]

_MODULES = {
    "BadEntry": "errors",
    "LossAndFigures": "loss.output",
    "RawSplit": "records",
    "RunDirHeld": "errors",
    "Sample": "records",
    "ShardDataset": "data.shard_dataset",
    "ShardWriter": "data.shard_writer",
    "SwampLoss": "loss.module",
    "TrainedModel": "inference",
    "UserError": "errors",
    "embed": "inference",
    "evaluate": "local_stage",
    "load_model": "inference",
    "train": "local_stage",
}


class _Package(ModuleType):
    """Keeps `train` and `evaluate` the functions, although folders of these names lie below: importing a
    module from there would put the folder in their place. `from swamp_dist.train.loop import ...` works."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes longer than all the rest

        return version("swamp-dist")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
