"""What a run folder tells, whole or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swamp_dist.errors import UserError
from swamp_dist.records import Alarm
from swamp_dist.report.facts import RaisedAlarm, read_run
from tests.report.made import begun, finished

ALARM = Alarm("ratio", "effective ratio above 1 since step 7", 7, 12, None, 1)


def test_a_finished_run_tells_its_cost_alarms_and_provenance(tmp_path: Path) -> None:
    run = finished(tmp_path / "run", steps=40, alarms=(ALARM,), provenance={"git": {"commit": "abc"}})
    found = read_run("run", run, False)
    assert found.alarms == (RaisedAlarm(ALARM.message, 12, None),)
    assert (found.cost.steps, found.cost.pairs, found.cost.ranks) == (40, 40 * 24, 2)
    assert (found.cost.seconds, found.cost.starts) == (60.0, 1)
    assert found.provenance["git.commit"] == "abc"
    assert found.provenance["selected_step"] == "40"
    assert "seconds" not in found.provenance
    assert found.cost.step is not None
    assert found.cost.step.model is None  # the width of an mlp's input stands in the data


def test_a_run_that_has_not_ended_tells_what_its_events_say(tmp_path: Path) -> None:
    run = begun(tmp_path / "run", 10)
    cleared = vars(ALARM) | {"cleared": 20}
    events = [
        {"time": 1.0, "event": "alarm", **vars(ALARM)},
        {"time": 2.0, "event": "alarm_cleared", **cleared},
    ]
    run.events_jsonl.write_text("".join(json.dumps(event) + "\n" for event in events))
    run.provenance_json.write_text('{"command": ["swamp", "submit"], "python": "3"}')
    found = read_run("run", run, False)
    assert found.alarms == (RaisedAlarm(ALARM.message, 12, 20),)
    assert (found.result, found.cost.steps) == (None, 10)
    assert found.provenance == {"command": '["swamp", "submit"]', "python": "3"}


def test_a_folder_without_settings_is_refused(tmp_path: Path) -> None:
    run = finished(tmp_path / "run")
    run.stage_yaml.unlink()
    with pytest.raises(UserError, match=r"there is no stage.yaml in it"):
        read_run("run", run, False)
