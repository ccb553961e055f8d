"""When a training is said to go wrong: signs that stay bad for many steps in a row.

Signs are made of values that were reduced over ranks, so every rank comes to the same state without a word.
The state is part of a commit: a run that was killed raises its alarms at the steps at which it would have.
Nothing here touches what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from swamp_dist.config import AlarmSettings, ObjectiveSettings
from swamp_dist.objective.signs import Sign
from swamp_dist.records import Alarm, AlarmState


class StoppedByAlarm(Exception):
    """`train.alarms.action = stop`: everything up to `step` is committed."""

    def __init__(self, step: int, alarms: Sequence[Alarm]) -> None:
        told = "\n".join(alarm.message for alarm in alarms)
        super().__init__(
            f"stopped by train.alarms.action = stop; committed at step {step}.\n{told}\n"
            "The same command stops here again; with train.alarms.action=warn it goes on."
        )
        self.step = step


def in_grace(step: int, settings: AlarmSettings, objective: ObjectiveSettings) -> bool:
    """Whether signs of a step (counted from 1) do not count yet: the training, or its hardest negatives, have
    only begun."""
    contrastive, grace = objective.contrastive, settings.grace_steps
    change = contrastive.all_negatives_steps if contrastive.form == "hardest" else 0
    return step <= grace or change < step <= change + grace


def after_step(
    before: AlarmState, signs: Sequence[Sign], step: int, settings: AlarmSettings
) -> tuple[AlarmState, list[Alarm]]:
    """The state after a step (counted from 1), and the alarms that it raised or cleared.

    An alarm is raised by `settings.count` bad steps in a row and cleared by as many good ones.
    """
    against, alarms, changed = dict(before.against), dict(before.alarms), []
    for sign in signs:
        alarm = alarms.get(sign.name)
        stands = alarm is not None and alarm.cleared is None
        against[sign.name] = 0 if sign.is_bad == stands else against.get(sign.name, 0) + 1
        if against[sign.name] < settings.count:
            continue
        against[sign.name] = 0
        if alarm is not None and stands:
            alarms[sign.name] = replace(alarm, cleared=step)
        else:
            alarms[sign.name] = _raised(sign, step, settings.count, 0 if alarm is None else alarm.times)
        changed.append(alarms[sign.name])
    return AlarmState(against, alarms), changed


def _raised(sign: Sign, step: int, count: int, times: int) -> Alarm:
    since = step - count + 1
    message = f"{sign.name}, since step {since}: at step {step} {sign.says}. {sign.fix}."
    return Alarm(sign.name, message, since, step, None, times + 1)


def alarm_line(alarm: Alarm) -> str:
    """What a change of an alarm is told as."""
    if alarm.cleared is None:
        return f"alarm: {alarm.message}"
    return f"alarm cleared at step {alarm.cleared}: {alarm.name}, which stood since step {alarm.since}"
