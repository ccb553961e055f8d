"""What a command says when its stage has ended."""

from __future__ import annotations

from pathlib import Path

import pytest

from swamp_dist.cli.ending import say_ending
from swamp_dist.errors import ExitCode
from tests.report.made import finished


@pytest.mark.parametrize(("every", "is_told"), [(10, True), (2, False)])
def test_a_run_that_ended_before_its_first_validation_says_so(
    every: int, is_told: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validate = {"split": "validation", "every": every}
    changes = {"train__epochs": 2, "train__validate_on": validate, "train__select": "last"}
    say_ending(ExitCode.DONE, finished(tmp_path / "run", **changes))
    told = "validation:  none: every 10 epochs, and the run had 2\n"
    assert (told in capsys.readouterr().out) == is_told
