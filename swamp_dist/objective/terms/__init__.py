"""The terms of the total loss, a module each: its equation, what it gives for a step, and `TAGS`."""

from __future__ import annotations

import importlib
import pkgutil


def described_tags() -> dict[str, str]:
    """Every metric tag that a term logs, with what it says: the `TAGS` of all modules of this folder."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return {tag: text for module in modules for tag, text in module.TAGS.items()}
