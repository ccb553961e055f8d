"""What may well go wrong with a stage: a validation that comes after its last epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.stage.advice import stage_warnings
from tests.train.tiny import tiny_stage


@pytest.mark.parametrize(("epochs", "is_warned"), [(9, True), (10, False), (25, False)])
def test_a_run_too_short_for_its_first_validation_is_warned_of(epochs: int, is_warned: bool) -> None:
    validate = {"split": "validation", "every": 10}
    changes = {"train__epochs": epochs, "train__validate_on": validate, "train__select": "last"}
    told = [text for text in stage_warnings(tiny_stage(Path("absent"), **changes)) if "validate" in text]
    expected = "train.validate_on.every = 10 is more than train.epochs = 9: the run never validates.\n"
    assert [text.startswith(expected) for text in told] == [True] * is_warned
    known = tiny_stage(Path("absent"), **changes, known_warnings={"no_validation": "a trial"})
    assert not [text for text in stage_warnings(known) if "validate" in text]
