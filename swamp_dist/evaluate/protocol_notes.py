"""What a reader must know of figures on a split that looks like a published protocol and is another.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swamp_dist.records import EvaluationResult

_FIRST_THOUSAND = (
    "Split {split} of MS-COCO is the first 1,000 images of testall: its figures are higher than those of "
    "the published 1K protocol, the mean over five folds of 1,000 images of testall, and are not comparable "
    "with them."
)
"""Issue 7 of Paranioar/SGRAF calls such figures "higher but unfair"; SCAN's files hold both splits."""


def protocol_note(source: Mapping[str, Any], split: str) -> str:
    """The note on a split of a set made by a source with these settings; empty for most."""
    if source.get("kind") == "scan" and source.get("data") == "coco" and split == "test":
        return _FIRST_THOUSAND.format(split=split)
    return ""


def with_note(result: EvaluationResult, source: Mapping[str, Any]) -> EvaluationResult:
    """The result with the note on its split, for tables and for the end of a run."""
    return replace(result, note=protocol_note(source, result.split))
