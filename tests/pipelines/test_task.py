from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import pytest

from swamp_dist.errors import ExitCode
from swamp_dist.pipelines import task
from swamp_dist.pipelines.task import run_in_child
from swamp_dist.runs.folder import RunDir


def test_a_stage_without_its_server_is_started_and_its_log_says_so(tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "run")
    folder.create()
    assert run_in_child(folder.stage_yaml, folder.path, 0, str(tmp_path / "none")) == ExitCode.USER_MISTAKE
    said = folder.console_log.read_text().splitlines()
    assert said[0] == (
        "the process that stages are forked from has ended: the processes of this stage start as usual"
    )
    assert "--ranks: expected a number of at least 1" in said[-1]


def test_only_several_stages_on_this_machine_are_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(*_: object) -> int:
        return 0

    monkeypatch.setattr(task, "fork_server", lambda _: contextlib.nullcontext("address"))
    monkeypatch.setattr(task, "may_fork", lambda: True)
    for runner, stages in ((other, 5), (run_in_child, 1)):
        with task.forking(runner, {}, stages) as used:
            assert used is runner
    with task.forking(run_in_child, {}, 2) as used:
        assert isinstance(used, partial)
        assert used.keywords == {"server": "address"}
