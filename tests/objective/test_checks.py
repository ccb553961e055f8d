"""Contrastive settings that cannot count are refused before a rank starts, with the numbers and the fix."""

from __future__ import annotations

from typing import Any

import pytest

from swamp_dist.config import ContrastiveSettings, ObjectiveSettings
from swamp_dist.errors import UserError
from swamp_dist.objective.checks import check_positives
from swamp_dist.records import BatchPlan


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"form": "infonce", "temperature": 5e-5}, r"temperature = 5e-05: .* 20000 would be off by 0.0012"),
        ({"learn_temperature": True}, "Set form: infonce or sigmoid, or learn_temperature: false"),
        ({"multiple_positives": "mil_nce"}, "Set form: infonce and positives: entry or class"),
        ({"form": "infonce", "multiple_positives": "mil_nce"}, "positives = partner"),
        ({"targets": {"kind": "within_modality"}}, "form = all: it has no softmax; set form: infonce"),
        ({"form": "infonce", "targets": {"weight": 0.4}}, "weight = 0.4 with kind = partner"),
        (
            {"form": "infonce", "targets": {"kind": "pseudo_positives", "temperature": 0.3}},
            "temperature = 0.3 with kind = pseudo_positives: it would not count",
        ),
        (
            {"form": "infonce", "targets": {"kind": "within_modality", "epsilon": 0.1}},
            "epsilon = 0.1 with kind = within_modality: it would not count",
        ),
        (
            {"form": "infonce", "targets": {"kind": "balanced_plan", "epsilon": 5e-5}},
            "epsilon = 5e-05: .* off by 0.0048; expected at least 0.0001",
        ),
        (
            {"form": "infonce", "targets": {"kind": "pseudo_positives"}, "positives": "entry"},
            "set positives: partner, or targets.kind: partner",
        ),
        (
            {"form": "infonce", "targets": {"kind": "within_modality"}, "columns": "ring"},
            "set columns: auto, or targets.kind: partner",
        ),
        (
            {"negative_weights": "swapped_targets"},
            "with form = all: .* set form: infonce, or negative_weights: equal",
        ),
        (
            {"form": "infonce", "negative_weights": "swapped_targets", "positives": "class"},
            "with positives = class: .* set positives: partner",
        ),
        (
            {
                "form": "infonce",
                "negative_weights": "swapped_targets",
                "targets": {"kind": "balanced_plan"},
            },
            "with targets.kind = balanced_plan: .* set targets.kind: partner",
        ),
        (
            {"form": "infonce", "negative_weights": "swapped_targets", "columns": "ring"},
            "every rank needs the targets of the whole batch; set columns: auto",
        ),
    ],
)
def test_settings_that_cannot_count(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ContrastiveSettings.model_validate(asked)


def test_weights_of_negatives_need_targets() -> None:
    tree = {"contrastive": {"form": "infonce", "negative_weights": "swapped_targets"}, "swamp": {"weight": 0}}
    with pytest.raises(ValueError, match="swamp.weight = 0: without the SwAMP term there are no targets"):
        ObjectiveSettings.model_validate(tree)
    tree["swamp"] = {"weight": 0.1}
    assert ObjectiveSettings.model_validate(tree).contrastive.weighs_negatives


def test_a_hinge_has_no_temperature_to_refuse() -> None:
    assert ContrastiveSettings(form="hardest", temperature=1e-5).temperature == 1e-5


def test_classes_that_entries_lack() -> None:
    plan, asked = BatchPlan(8, 1, 8, 1), ContrastiveSettings(positives="class")
    check_positives(asked, plan, [0, 1, 2])
    check_positives(ContrastiveSettings(positives="entry"), plan, [-1, -1, -1])
    check_positives(ContrastiveSettings(positives="class", weight=0), plan, [-1])
    with pytest.raises(UserError, match="2 of 3 entries of the training split have no class label"):
        check_positives(asked, plan, [-1, 1, -1])


def test_weights_and_several_positives_of_an_entry() -> None:
    several, asked = BatchPlan(8, 4, 8, 1), ContrastiveSettings(positives="entry")
    with pytest.raises(UserError, match=r"in_entry_share = 0.5 and data.pairs_per_entry = 4: .*\n.*null"):
        check_positives(asked, several, [])
    check_positives(asked, BatchPlan(8, 1, 8, 1), [])
    check_positives(asked.model_copy(update={"in_entry_share": None}), several, [])
    check_positives(ContrastiveSettings(positives="entry", form="infonce"), several, [])
