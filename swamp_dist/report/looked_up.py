"""What a report reads data and weights for: examples of retrieval, and a sheet of prototypes."""

from __future__ import annotations

from dataclasses import dataclass, field

from swamp_dist.config import EvaluateSettings
from swamp_dist.errors import UserError
from swamp_dist.inference import load_model
from swamp_dist.prototypes.sheet import draw_sheet
from swamp_dist.prototypes.study import study
from swamp_dist.report.beside import Beside, find_beside
from swamp_dist.report.examples import Examples, find_examples
from swamp_dist.report.facts import RunFacts
from swamp_dist.report.sheets_part import Sheet

EACH = 4
"""Queries of each kind and direction."""
_EXAMPLES, _SHEET = "retrieval examples", "the sheet of prototypes"


@dataclass
class LookedUp:
    """What was asked of one run, as far as it was there."""

    examples: Examples | None = None
    sheet: Sheet | None = None
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """What, and why."""


def look_up(run: RunFacts, split: str | None, examples: bool, prototypes: bool) -> LookedUp:
    """Examples and sheet of one run; one that cannot be made is left out, with the reason.

    Raises:
        UserError: the shard set has no such split.
    """
    found = LookedUp()
    try:
        model, settings = load_model(run.folder.path), _evaluation(run, split)
    except UserError as error:
        asked = [name for name, wanted in ((_EXAMPLES, examples), (_SHEET, prototypes)) if wanted]
        found.left_out = [(name, _told(error)) for name in asked]
        return found
    if split is not None:
        model.manifest.split(split)  # one that was named and is not there is a mistake, not a part left out
    if examples:
        try:
            found.examples = find_examples(run.key, model, settings, EACH)
        except UserError as error:
            found.left_out.append((_EXAMPLES, _told(error)))
    if prototypes:
        try:
            drawn = draw_sheet(study(model, settings.split), "nearest")
            found.sheet = Sheet(f"{run.key}, {settings.split}", drawn)
        except UserError as error:
            found.left_out.append((_SHEET, _told(error)))
    return found


def look_beside(run: RunFacts, other: str, split: str | None) -> Beside:
    """Drawn queries of a run and of another one.

    Args:
        other: run folder, RUN@STEP, or weights inside a run.

    Raises:
        UserError: as `load_model` and `find_beside`.
    """
    models = load_model(run.folder.path), load_model(other)
    return find_beside((run.key, other), models, _evaluation(run, split))


def _told(error: UserError) -> str:
    return " ".join(str(error).split())


def _evaluation(run: RunFacts, split: str | None) -> EvaluateSettings:
    evaluations, train = run.settings.evaluate, run.settings.train
    named = [each for each in evaluations if split in (None, each.split)]
    if named:
        return named[0]
    if split is None and train is not None and train.validate_on is not None:
        split = train.validate_on.split
    if split is None:
        raise UserError(f"{run.folder.path}: its stage evaluates nothing.\nFix: name a split with --split")
    return EvaluateSettings(split=split)
