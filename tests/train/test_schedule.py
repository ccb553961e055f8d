"""Learning rates, exactly and as properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.config.training import ScheduleSettings
from swamp_dist.train.schedule import learning_rate


def rate(step: int, **changes: Any) -> float:
    lengths: dict[str, Any] = {"steps_per_epoch": 10, "total_steps": 100, "lr": 0.5}
    lengths |= {name: changes.pop(name) for name in list(changes) if name in lengths}
    peak, schedule = lengths.pop("lr"), ScheduleSettings(**({"decay": 0.9} | changes))
    return learning_rate(step, peak=peak, schedule=schedule, **lengths)


def test_constant() -> None:
    assert [rate(step) for step in (0, 50, 99)] == [0.5, 0.5, 0.5]


def test_warm_up_rises_from_lr_over_warmup_to_lr() -> None:
    assert [rate(step, warmup_steps=4) for step in range(6)] == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]


def test_step_decays_at_epoch_edges() -> None:
    assert [rate(s, kind="step", decay=0.5) for s in (0, 9, 10, 19, 20)] == [0.5, 0.5, 0.25, 0.25, 0.125]
    assert [rate(s, kind="step", decay=0.5, decay_every=2) for s in (19, 20, 39, 40)] == [
        0.5,
        0.25,
        0.25,
        0.125,
    ]


def test_cosine_falls_from_lr_to_its_floor() -> None:
    values = [rate(step, kind="cosine", floor=0.2) for step in (0, 25, 50, 100, 120)]
    quarter = 0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2
    assert values == pytest.approx([0.5, 0.5 * quarter, 0.3, 0.1, 0.1], rel=1e-12)


def test_cosine_begins_after_the_warm_up() -> None:
    values = [rate(step, kind="cosine", warmup_steps=20) for step in (9, 19, 20, 60, 100)]
    assert values == pytest.approx([0.25, 0.5, 0.5, 0.25, 0.0], abs=1e-12)


@pytest.mark.parametrize(
    "wrong", [{"step": -1}, {"steps_per_epoch": 0}, {"total_steps": 0}, {"decay_every": 0}], ids=str
)
def test_impossible_lengths_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        rate(**({"step": 0} | wrong))


schedules = st.fixed_dictionaries(
    {
        "steps_per_epoch": st.integers(1, 50),
        "total_steps": st.integers(1, 300),
        "lr": st.floats(1e-6, 10),
        "kind": st.sampled_from(["constant", "step", "cosine"]),
        "warmup_steps": st.integers(0, 400),
        "decay": st.floats(0.1, 1),
        "decay_every": st.integers(1, 5),
        "floor": st.floats(0, 1),
    }
)


@given(schedules, st.integers(0, 400))
def test_never_above_the_peak_nor_below_the_floor(settings: dict[str, Any], step: int) -> None:
    value = rate(step, **settings)
    assert 0 <= value <= settings["lr"] * (1 + 1e-12)
    if settings["kind"] == "cosine" and step >= settings["warmup_steps"]:
        assert value >= settings["lr"] * settings["floor"] * (1 - 1e-12)


@given(schedules, st.integers(1, 400))
def test_no_jump_where_the_warm_up_ends(settings: dict[str, Any], warmup: int) -> None:
    settings |= {"warmup_steps": warmup, "total_steps": warmup + settings["total_steps"]}
    last, first = rate(warmup - 1, **settings), rate(warmup, **settings)
    if settings["kind"] == "step":  # an epoch edge may fall there, and is a factor of its own
        edges = [
            step // settings["steps_per_epoch"] // settings["decay_every"] for step in (warmup - 1, warmup)
        ]
        last *= settings["decay"] ** (edges[1] - edges[0])
    else:
        assert last == settings["lr"]
    assert first == pytest.approx(last, rel=1e-12)


@given(schedules)
def test_monotone_on_both_sides_of_the_warm_up(settings: dict[str, Any]) -> None:
    warmup = settings["warmup_steps"] = settings["warmup_steps"] % 7
    settings["steps_per_epoch"] = max(8, settings["steps_per_epoch"])
    values = [rate(step, **settings) for step in range(60)]
    rising, falling = values[:warmup], values[warmup:]
    assert rising == sorted(rising)
    assert all(b <= a * (1 + 1e-12) for a, b in zip(falling, falling[1:], strict=False))
