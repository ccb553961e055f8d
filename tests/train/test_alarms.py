from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.config import AlarmSettings, ObjectiveSettings
from swamp_dist.objective.signs import Sign
from swamp_dist.records import AlarmState
from swamp_dist.train.alarms import after_step, alarm_line, in_grace
from swamp_dist.train.commit_meta import _alarms

SETTINGS = AlarmSettings(count=3)


def sign(is_bad: bool, name: str = "score gap") -> Sign:
    return Sign(name, is_bad, "the scores lie 0.001 apart", "Lower the rate")


def play(course: list[bool], start: AlarmState | None = None, first: int = 1) -> tuple[AlarmState, list[str]]:
    """The state after steps that were bad or not, and what was said."""
    state, said = start or AlarmState(), []
    for step, is_bad in enumerate(course, first):
        state, changed = after_step(state, [sign(is_bad)], step, SETTINGS)
        said += [alarm_line(alarm) for alarm in changed]
    return state, said


def test_an_alarm_is_raised_once_and_cleared_once() -> None:
    state, said = play([True] * 2 + [False] + [True] * 9 + [False] * 2 + [True] + [False] * 8)
    assert said == [
        "alarm: score gap, since step 4: at step 6 the scores lie 0.001 apart. Lower the rate.",
        "alarm cleared at step 18: score gap, which stood since step 4",
    ]
    assert state.standing == []
    state, again = play([True] * 3, state, 24)
    assert len(again) == 1
    assert [(a.since, a.raised, a.cleared, a.times) for a in state.standing] == [(24, 26, None, 2)]


def test_alarms_count_each_for_itself() -> None:
    state = AlarmState()
    for step in range(1, 4):
        state, changed = after_step(state, [sign(True, "a"), sign(step > 1, "b")], step, SETTINGS)
    assert [alarm.name for alarm in changed] == ["a"]
    state, changed = after_step(state, [sign(True, "b")], 4, SETTINGS)  # a step that shows nothing of a
    assert [alarm.name for alarm in changed] == ["b"]
    assert [alarm.name for alarm in state.standing] == ["a", "b"]


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 40))
def test_a_run_that_was_killed_says_what_one_that_was_not_says(course: list[bool], cut: int) -> None:
    whole, said = play(course)
    first, before = play(course[:cut])
    committed = _alarms(json.loads(json.dumps(asdict(first))))
    assert committed == first
    again, after = play(course[cut:], committed, len(course[:cut]) + 1)
    assert (again, before + after) == (whole, said)
    assert all(a.startswith("alarm:") != b.startswith("alarm:") for a, b in pairwise(said))


def test_the_grace_is_that_of_the_start_and_of_the_hardest_negatives() -> None:
    def ends(**contrastive: object) -> list[int]:
        objective = ObjectiveSettings.model_validate({"contrastive": contrastive})
        settings = AlarmSettings(grace_steps=10)
        found = [in_grace(step, settings, objective) for step in range(1, 60)]
        return [step for step, (now, then) in enumerate(pairwise(found), 1) if now != then]

    assert ends() == [10]
    assert ends(all_negatives_steps=30) == [10]  # it does not count for `all`
    assert ends(form="hardest", all_negatives_steps=30) == [10, 30, 40]
    assert ends(form="hardest", all_negatives_steps=5) == [15]
