"""Distributed training for cross-modal retrieval with SwAMP (Kim, AISTATS 2023).

For programs of one's own: `Sample` and `ShardWriter` (or `RawSplit` and `BadEntry`, in a module that a recipe
names) make a shard set, `load_model` reads a trained model, `embed` runs it over a split. Nothing is imported
before it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swamp_dist.data.shard_writer import ShardWriter
    from swamp_dist.errors import BadEntry, UserError
    from swamp_dist.inference import TrainedModel, embed, load_model
    from swamp_dist.loss.module import SwampLoss
    from swamp_dist.loss.output import LossAndFigures
    from swamp_dist.records import RawSplit, Sample

__all__ = [
    "BadEntry",
    "LossAndFigures",
    "RawSplit",
    "Sample",
    "ShardWriter",
    "SwampLoss",
    "TrainedModel",
    "UserError",
    "embed",
    "load_model",
]

_MODULES = {
    "BadEntry": "errors",
    "LossAndFigures": "loss.output",
    "RawSplit": "records",
    "Sample": "records",
    "ShardWriter": "data.shard_writer",
    "SwampLoss": "loss.module",
    "TrainedModel": "inference",
    "UserError": "errors",
    "embed": "inference",
    "load_model": "inference",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
