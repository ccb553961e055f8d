import math

import pytest
import torch

from swamp_dist.config import ContrastiveSettings, ObjectiveSettings
from swamp_dist.distributed import alone
from swamp_dist.objective.objective import build_objective
from swamp_dist.objective.signs import WATCHED, Sign, equal_scores_loss, signs
from swamp_dist.records import BatchPlan, PairEmbeddings

PLAN = BatchPlan(entries=6, pairs_per_entry=2, lanes=6, world_size=1)


LABELS = torch.tensor([0, 0, 1, 1, 0, 0, 2, 2, 1, 1, 0, 0])
APART = {"similarity/positive": 0.9, "similarity/negative": 0.1}


def look(
    loss: float, figures: dict[str, float] | None = None, step: int = 0, **contrastive: object
) -> dict[str, Sign]:
    settings = ObjectiveSettings.model_validate({"contrastive": contrastive})
    losses = {"loss/contrastive": loss}
    return {sign.name: sign for sign in signs(settings, PLAN, step, losses, APART | (figures or {}))}


@pytest.mark.parametrize(
    "contrastive",
    [
        {"margin": 0.2},
        {"margin": 0.2, "in_entry_share": 0.9},
        {"margin": 0.2, "positives": "entry", "in_entry_share": None},
        {"margin": 0.3, "positives": "class", "in_entry_share": None, "reduction": "sum"},
        {"margin": 0.3, "form": "hardest"},
        {"margin": 0.3, "form": "hardest", "reduction": "sum", "positives": "class"},
        {"margin": 0.3, "form": "hardest", "all_negatives_steps": 5, "positives": "entry"},
        {"form": "infonce", "reduction": "sum"},
        {"form": "infonce", "positives": "class"},
        {"form": "infonce", "positives": "class", "multiple_positives": "mil_nce"},
        {"form": "sigmoid"},
        {"form": "sigmoid", "temperature": 0.5, "logit_bias": -1.0, "positives": "class"},
    ],
)
def test_the_loss_at_equal_scores_is_that_of_equal_embeddings(contrastive: dict[str, object]) -> None:
    settings = ObjectiveSettings.model_validate({"contrastive": contrastive, "swamp": {"weight": 0}})
    row = torch.nn.functional.normalize(torch.ones(1, 3, dtype=torch.float64)).expand(PLAN.pairs, 3)
    entries = torch.arange(PLAN.entries).repeat_interleave(PLAN.pairs_per_entry)
    objective = build_objective(settings, PLAN, 3, torch.device("cpu"), torch.float64)
    terms = objective(PairEmbeddings(row, row, None), torch.arange(12), entries, 0, alone(), labels=LABELS)
    figures = {tag: value.item() for tag, value in terms.diagnostics.items() if tag in WATCHED}
    loss = terms.total.item()
    factor = PLAN.pairs if contrastive.get("reduction") == "sum" else 1
    equal = equal_scores_loss(settings.contrastive, PLAN.pairs, 0, figures)
    assert loss == pytest.approx(factor * equal, rel=1e-12)
    assert look(loss, figures, **contrastive)["contrastive loss"].is_bad
    assert look(0.901 * loss, figures, **contrastive)["contrastive loss"].is_bad
    assert not look(0.899 * loss, figures, **contrastive)["contrastive loss"].is_bad


def test_scores_that_lie_close_are_a_sign_and_scores_that_do_not_are_none() -> None:
    def gap(positive: float) -> Sign:
        figures = {"similarity/positive": positive, "similarity/negative": 0.5}
        return look(0.01, figures, margin=0.2)["score gap"]

    assert gap(0.519).is_bad
    assert not gap(0.521).is_bad
    assert gap(0.3).is_bad  # the wrong way round
    assert (
        "0.5190, others 0.5000: they lie 0.019 apart, less than a tenth of the margin of 0.2"
        in gap(0.519).says
    )
    assert "score gap" not in look(0.01, form="infonce")


@pytest.mark.parametrize(
    ("ratio", "is_bad"), [(0.99, False), (1.01, True), (math.inf, True), (math.nan, False)]
)
def test_swamp_that_pulls_more_strongly_is_a_sign(ratio: float, is_bad: bool) -> None:
    assert look(0.01, {"swamp/effective_ratio": ratio})["effective ratio"].is_bad == is_bad


def test_a_term_that_is_off_has_no_sign() -> None:
    settings = ObjectiveSettings.model_validate({"contrastive": {"weight": 0}})
    assert signs(settings, PLAN, 0, {}, {}) == []


def test_the_fix_of_a_plateau_is_a_warm_up_where_there_is_none() -> None:
    assert "all_negatives_steps" in look(1.0, form="hardest")["contrastive loss"].fix
    assert "all_negatives_steps" not in look(1.0, form="all")["contrastive loss"].fix
    assert ContrastiveSettings().form == "all"


def look_at_triplets(losses: dict[str, float]) -> dict[str, bool]:
    given = {"contrastive": {"weight": 0}, "triplet": {"weight": 1, "margin": 0.5}, "swamp": {"weight": 0}}
    settings = ObjectiveSettings.model_validate(given)
    return {sign.name: sign.is_bad for sign in signs(settings, PLAN, 0, losses, {})}


def test_triplets_that_are_not_told_apart_and_a_domain_loss_without_bounds_are_signs() -> None:
    assert look_at_triplets({"loss/triplet": 0.44, "loss/domain": 6.9}) == {
        "triplet loss": False, "domain loss": False,
    }  # fmt: skip
    assert look_at_triplets({"loss/triplet": 0.46, "loss/domain": 7.0}) == {
        "triplet loss": True, "domain loss": True,
    }  # fmt: skip
    assert look_at_triplets({}) == {}, "terms that are off say nothing"


def test_equal_embeddings_have_the_triplet_loss_of_the_sign() -> None:
    rows = torch.ones(12, 3, dtype=torch.float64)
    hinge = torch.nn.TripletMarginLoss(margin=0.5)(rows, rows, rows).item()
    assert look_at_triplets({"loss/triplet": hinge})["triplet loss"]
