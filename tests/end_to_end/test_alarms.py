"""A training that goes wrong says so: on the console, in the events, in `swamp status` and in the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from swamp_dist.config import StageSettings
from swamp_dist.distributed import World
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.run import run_stage
from swamp_dist.train.alarms import StoppedByAlarm
from swamp_dist.train.loop import Preempted
from tests.end_to_end.command import swamp, write_job
from tests.ranks import run_on_ranks
from tests.train.tiny import StopAfter, tiny_stage

QUICK = {"grace_steps": 8, "count": 3}
STUCK = 1e-12
"""A learning rate at which nothing is learned."""


def stage(shards: Path, rate: float = 1e-2, **changes: Any) -> StageSettings:
    settings = {"objective__swamp__weight": 0, "train__validate_on": None, "train__select": "last"}
    settings |= {"train__optimizer__lr": rate, "train__alarms": QUICK, "evaluate": []}
    return tiny_stage(shards, **settings | changes)


def run(world: World, settings: list[StageSettings], folders: list[Path], stop: int | None = None) -> None:
    """Run stages one after the other, each through one interruption where `stop` says at which step."""
    for each, folder in zip(settings, folders, strict=True):
        if stop is not None:
            with pytest.raises(Preempted):
                run_stage(each, RunDir(folder), world, StopAfter(stop))
        run_stage(each, RunDir(folder), world)


def told(folder: Path) -> list[tuple[object, ...]]:
    events = RunDir(folder).read_events()
    return [(e["name"], e["since"], e["raised"]) for e in events if e["event"] == "alarm"]


def test_a_run_that_learns_is_silent_and_one_that_does_not_is_told_of(
    tiny_shards: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in ("learns", "stuck", "unwatched", "ruled")]
    unwatched = stage(tiny_shards, STUCK, train__alarms={"grace_steps": 10**6})
    swamp = {"weight": 50.0, "measure_every": 1, "queue": {"start_when_filled": 0}}
    ruled = stage(tiny_shards, objective__swamp=swamp, train__epochs=2)
    run_on_ranks(run, 1, [stage(tiny_shards), stage(tiny_shards, STUCK), unwatched, ruled], folders)
    learns, stuck = (RunDir(folder).read_result() for folder in folders[:2])
    assert learns is not None
    assert (told(folders[0]), learns.alarms, told(folders[2])) == ([], (), [])
    assert stuck is not None
    assert ("contrastive loss", 9, 11) in told(folders[1])
    assert [(a.name, a.raised, a.cleared, a.times) for a in stuck.alarms][0] == (
        "contrastive loss",
        11,
        None,
        1,
    )
    assert ("effective ratio", 9, 11) in told(folders[3])
    # Watching moves no bit.
    weights = [load_file(folder / "weights.safetensors") for folder in folders]
    assert all(torch.equal(value, weights[2][name]) for name, value in weights[1].items())


@pytest.mark.parametrize("form", ["infonce", "sigmoid"])
def test_forms_with_logits_are_told_of_too(tiny_shards: Path, tmp_path: Path, form: str) -> None:
    folders = [tmp_path / name for name in ("learns", "stuck")]
    contrastive = {"form": form, "learn_temperature": True}
    settings = [stage(tiny_shards, rate, objective__contrastive=contrastive) for rate in (2e-2, STUCK)]
    run_on_ranks(run, 1, settings, folders)
    assert told(folders[0]) == []
    assert told(folders[1]) == [("contrastive loss", 9, 11)]


def test_a_killed_run_raises_its_alarms_where_it_would_have(tiny_shards: Path, tmp_path: Path) -> None:
    settings = [stage(tiny_shards, STUCK)]
    run_on_ranks(run, 1, settings, [tmp_path / "whole"])
    run_on_ranks(run, 1, settings, [tmp_path / "parts"], 10)  # between the first bad step and the third
    assert told(tmp_path / "parts") == told(tmp_path / "whole") != []
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "parts")]
    assert results[0]["alarms"] == results[1]["alarms"]


def stopped(world: World, settings: StageSettings, folder: Path) -> tuple[int, str]:
    with pytest.raises(StoppedByAlarm) as caught:
        run_stage(settings, RunDir(folder), world)
    return caught.value.step, str(caught.value)


def test_ranks_stop_together_by_an_alarm_of_all(tiny_shards: Path, tmp_path: Path) -> None:
    settings = stage(tiny_shards, STUCK, train__alarms=QUICK | {"action": "stop"})
    first, second = run_on_ranks(stopped, 2, settings, tmp_path)
    assert first == second
    assert first[0] == 11
    assert (tmp_path / "checkpoints" / "step-11" / "MANIFEST.json").is_file()


@pytest.mark.slow
def test_the_command_stops_with_code_1_and_goes_on_when_told_to(tiny_shards: Path, tmp_path: Path) -> None:
    job, folder = write_job(tmp_path, tiny_shards), tmp_path / "run"
    quick = ["objective.swamp.weight=0", "train.optimizer.lr=1e-12", "train.validate_on=null"]
    quick += ["train.alarms.grace_steps=8", "train.alarms.count=3", "train.alarms.action=stop"]
    ended = swamp("run", job, *quick, "--run-dir", folder)
    assert ended.code == 1, ended.said
    for text in ("alarm: contrastive loss, since step 9", "committed at step 11", "Lower train.optimizer.lr"):
        assert text in ended.said
    assert "Traceback" not in ended.said
    assert [e["event"] for e in RunDir(folder).read_events()].count("failed") == 1
    shown = " ".join(swamp("status", folder).said.split())
    assert "failed" in shown
    assert "alarm: contrastive loss, since step 9" in shown

    ended = swamp("run", job, *quick, "train.alarms.action=warn", "--run-dir", folder)
    assert ended.code == 0, ended.said
    assert "alarm:       contrastive loss, since step 9: at step 11 the contrastive loss is" in ended.said
    (alarm,) = json.loads(swamp("status", folder, "--json").said)["groups"][0]["runs"][0]["alarms"]
    assert "its value where all scores are equal" in alarm
