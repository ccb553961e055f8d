import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from swamp_dist.config import ObjectiveSettings, SwampSettings
from swamp_dist.objective.advice import loss_floor, objective_warnings


def warned(items: int | None = 10**6, steps: int | None = 50, **settings: Any) -> list[str]:
    good = {"swamp": {"temperature": 0.1}}
    return objective_warnings(ObjectiveSettings.model_validate(good | settings), 128, items, steps)


def test_good_settings_give_no_warning() -> None:
    assert warned() == []
    assert warned(contrastive={"form": "hardest", "all_negatives_steps": 1}) == []
    assert warned(items=10, swamp={"weight": 0, "temperature": 0.25}) == []
    assert warned(contrastive={"weight": 0, "form": "hardest"}) == []


def test_hardest_without_a_warm_up_names_the_plateau_and_the_steps() -> None:
    (told,) = warned(contrastive={"form": "hardest", "margin": 0.2})
    assert "plateau at twice the margin, 0.4," in told
    assert "all_negatives_steps=500 (10 epochs)" in told
    assert "the steps of 10 epochs" in warned(steps=None, contrastive={"form": "hardest"})[0]


@pytest.mark.parametrize("counts_batch", [True, False])
def test_a_queue_of_more_than_half_of_the_items_names_both_and_its_fix_is_silent(counts_batch: bool) -> None:
    def queue(size: int, items: int | None) -> list[str]:
        swamp = {"temperature": 0.1, "queue": {"size": size, "counts_batch": counts_batch}}
        return warned(items, swamp=swamp)

    (told,) = queue(2048, 712)
    held = 2048 if counts_batch else 2176
    assert f"holds {held} rows with the batch, more than half of the 712 items" in told
    size = 356 if counts_batch else 228
    assert f"objective.swamp.queue.size={size}" in told
    assert queue(size, 712) == []
    assert queue(size + 1, 712) != []
    assert queue(2048, None) == []
    assert "a smaller batch" in queue(2048, 200)[0]


def test_a_high_floor_is_named_and_its_fix_is_silent() -> None:
    (told,) = warned(swamp={"temperature": 0.25, "prototypes": 500})
    assert "= 4.63:" in told  # facts of measured runs
    assert "objective.swamp.temperature=0.15 or below" in told
    assert warned(swamp={"temperature": 0.15, "prototypes": 500}) == []
    assert warned(swamp={"temperature": 0.25, "prototypes": 500, "normalize_prototypes": False}) == []


@given(st.integers(1, 40), st.floats(0.02, 5))
def test_the_floor_is_the_loss_of_perfect_rows(prototypes: int, temperature: float) -> None:
    floor = loss_floor(SwampSettings(prototypes=prototypes, temperature=temperature))
    basis = torch.eye(prototypes, dtype=torch.float64)
    loss = 2 * functional.cross_entropy(basis / temperature, torch.arange(prototypes))
    assert floor is not None
    assert math.isclose(floor, loss.item(), rel_tol=1e-9, abs_tol=1e-12)
