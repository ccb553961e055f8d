"""timm and transformers: extras, imported late, kept from the network and from code in weights."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType
from typing import cast

from swamp_dist.errors import UserError

EXTRA = "encoders"
"""Name of the extra of `setup.py` that holds both libraries."""
_TORCHVISION_OPERATORS = ("nms", "qnms")
_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def library_problem(library: str, kind: str) -> str | None:
    """Why an encoder of this kind cannot use its library, with the fix; None where it can."""
    if importlib.util.find_spec(library) is not None:
        return None
    return (
        f"encoder {kind!r} needs the package {library}, which is not installed.\n"
        f"Fix: pip install 'swamp-dist[{EXTRA}]' torch==VERSION, with the version of torch that is there, in "
        "the environment of the command and of the ranks."
    )


def need_library(library: str, kind: str) -> None:
    """Ask `library_problem`.

    Raises:
        UserError: there is one.
    """
    if (problem := library_problem(library, kind)) is not None:
        raise UserError(problem)


def import_timm() -> ModuleType:
    """timm; it never downloads here, because nothing asks it for pretrained weights."""
    _import_torchvision()
    import timm

    return cast(ModuleType, timm)


def import_transformers() -> ModuleType:
    """transformers, told to read local files alone."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # loader processes are forked beside it
    _import_torchvision()  # a model of texts may import it too
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return cast(ModuleType, transformers)


def _import_torchvision() -> None:
    """torchvision, also where its compiled part was built for another build of torch.

    PyPI's torchvision belongs to the CUDA builds of torch. Beside a CPU build its operators cannot be loaded,
    and its import then stops at two declarations of their shapes. No encoder calls an operator of it: timm
    takes layers and transforms written in Python. So the two names are declared and the import is made again.
    """
    if importlib.util.find_spec("torchvision") is None:
        return
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise UserError(
                f"torchvision cannot be imported: {error}.\n"
                "Fix: install the release of torchvision that belongs to the release of torch."
            ) from error
        import torch

        for name in _TORCHVISION_OPERATORS:
            torch.library.define(f"torchvision::{name}", _SIGNATURE)
        import torchvision  # noqa: F401
