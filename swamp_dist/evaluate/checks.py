"""What rules an evaluation out, told from settings and manifest alone: no tensors, so it answers at once."""

from __future__ import annotations

from swamp_dist.config import DataSettings, EvaluateSettings
from swamp_dist.data.manifest import Manifest
from swamp_dist.errors import UserError


def check_evaluation(manifest: Manifest, settings: EvaluateSettings, a: str, b: str) -> None:
    """Refuse what cannot be evaluated, from the manifest alone: worth a call before training starts.

    Raises:
        UserError: no such split or field, an empty split, class relevance without classes, or settings
            that contradict each other.
    """
    check_settings(settings)
    manifest.field(a), manifest.field(b)
    split = manifest.split(settings.split)
    if len(split) == 0:
        raise UserError(f"evaluate: split {settings.split!r} of {manifest.folder} has no entries.")
    folds = settings.folds
    if folds is not None and len(split) < folds.count * folds.entries:
        others = [name for name, each in manifest.record.splits.items()
                  if each.entries >= folds.count * folds.entries]  # fmt: skip
        raise UserError(
            f"evaluate.folds: {folds.count} blocks of {folds.entries:,} entries need "
            f"{folds.count * folds.entries:,}; split {settings.split!r} of {manifest.folder} has "
            f"{len(split):,}.\nFix: {_fold_fix(others)}"
        )
    unlabelled = int((split.labels < 0).sum()) if "class" in settings.relevance else 0
    if unlabelled:
        raise UserError(
            f"evaluate: relevance has class, but {unlabelled} of {len(split)} entries of split "
            f"{settings.split!r} in {manifest.folder} have no class.\nFix: relevance = [pair], or a shard "
            "set with classes."
        )


def _fold_fix(splits: list[str]) -> str:
    if splits:
        return f"evaluate on split {' or '.join(splits)}, or folds = null"
    return "folds = null; on MS-COCO the 1K protocol takes the 5,000 images of testall"


def check_single_pairing(data: DataSettings, split: str) -> None:
    """Refuse an evaluation on whole videos: their pairs are drawn, and retrieval needs fixed ones.

    Raises:
        UserError: `data.clips` is set.
    """
    if data.clips is not None:
        raise UserError(
            f"evaluate, train.validate_on: split {split!r} of a set read with data.clips holds whole videos, "
            "whose pairs are drawn anew in every epoch, so there is no one set of pairs to rank.\n"
            "Fix: evaluate = [], train.validate_on = null, and evaluate the weights in a stage of its own "
            "(weights, train = null) over a set of single clips."
        )


def check_settings(settings: EvaluateSettings) -> None:
    """Refuse settings of one evaluation that contradict each other.

    Raises:
        UserError: `ties: miech` or `precision_at` with a relevance that it is not defined for.
    """
    if settings.ties == "miech" and "class" in settings.relevance:
        raise UserError(
            "evaluate: ties = miech is defined for pair relevance only (the published code compares with "
            "the diagonal), found class among relevance.\nFix: relevance = [pair], or ties = pessimistic."
        )
    if settings.precision_at and "class" not in settings.relevance:
        raise UserError(
            f"evaluate: precision_at = {list(settings.precision_at)} needs class relevance, found relevance "
            f"= {list(settings.relevance)}.\nFix: add class to relevance, or remove precision_at."
        )
