"""How a rank's end is told: path and fix of what the system refused, and only what is there now."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from swamp_dist.distributed import alone
from swamp_dist.errors import ExitCode
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage import rank
from swamp_dist.stage.rank_log import configure_logging
from swamp_dist.stop_requests import StopRequest
from swamp_dist.train.checkpoint import commit
from swamp_dist.train.loop import Preempted
from tests.runs.written_runs import nobody_tells

STEP = {
    "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "0", "SLURM_JOB_ID": "41",
    "SLURM_STEP_NODELIST": "n[1-2]", "SLURMD_NODENAME": "n1",
}  # fmt: skip


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path / "run")
    folder.create()
    configure_logging(alone(), str(folder.log(0)))
    return folder


def refused(number: int, path: Path) -> OSError:
    return OSError(number, os.strerror(number), str(path))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EMFILE, errno.ENOSPC])
def test_any_error_of_the_system_is_a_message_with_its_path_and_no_trace(
    run_dir: RunDir, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(alone(), str(run_dir.log(0)))
    code = rank.log_failure(refused(number, run_dir.metrics_jsonl), run_dir, alone())
    said = capfd.readouterr().err
    assert code == ExitCode.USER_MISTAKE
    assert f"{run_dir.metrics_jsonl}: {os.strerror(number)}" in said
    assert "begins anew" in said
    assert "Traceback" not in said + run_dir.log(0).read_text()


def test_whole_checkpoints_that_are_there_are_promised_and_no_others(
    run_dir: RunDir, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(alone(), str(run_dir.log(0)))
    run_dir.checkpoints.mkdir()
    for step in (4, 12, 16):
        commit(run_dir.checkpoints, step, lambda folder: [], {}, alone(), keep=3)
    (run_dir.checkpoints / "step-16" / "MANIFEST.json").unlink()
    rank.log_failure(refused(errno.ENOSPC, run_dir.metrics_jsonl), run_dir, alone())
    assert "continues from checkpoint step-12" in capfd.readouterr().err


def test_nothing_is_promised_of_a_folder_that_is_being_removed(
    run_dir: RunDir, capfd: pytest.CaptureFixture[str]
) -> None:
    configure_logging(alone(), str(run_dir.log(0)))
    run_dir.checkpoints.mkdir()
    commit(run_dir.checkpoints, 12, lambda folder: [], {}, alone(), keep=3)
    rank.log_failure(refused(errno.ENOENT, run_dir.metrics_jsonl), run_dir, alone())
    shutil.rmtree(run_dir.path)
    rank.log_failure(refused(errno.EIO, run_dir.metrics_jsonl), run_dir, alone())
    said = capfd.readouterr().err
    assert f"Look at what is left of {run_dir.path}" in said
    assert "No checkpoint is in" in said
    assert "step-12" not in said
    assert not run_dir.path.exists()


def ending(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, error: Exception) -> int:
    """The code of a rank whose stage ends with `error` after its terminal was closed."""

    def run_stage(*_: object) -> None:
        raise error

    monkeypatch.setattr(rank, "run_stage", run_stage)
    monkeypatch.setattr(rank, "load_dumped", lambda *_: None)
    asked = StopRequest([1])
    with contextlib.ExitStack() as stack:
        return rank._run_guarded(run_dir.stage_yaml, run_dir, alone(), asked, nobody_tells, stack)


def test_a_stop_tells_what_asked_for_it(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert ending(run_dir, monkeypatch, Preempted(7)) == ExitCode.REQUEUE
    assert "committed at step 7 (SIGHUP: its terminal was closed); the same command" in capfd.readouterr().err
    event = json.loads(run_dir.events_jsonl.read_text().splitlines()[-1])
    assert (event["event"], event["step"]) == ("preempted", 7)
    assert event["reason"] == "SIGHUP: its terminal was closed"


def test_a_stop_that_cannot_be_noted_is_a_stop(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    append = RunDir.append_event

    def full(self: RunDir, event: str, **details: object) -> None:
        if event == "preempted":
            raise refused(errno.ENOSPC, self.events_jsonl)
        append(self, event, **details)

    monkeypatch.setattr(RunDir, "append_event", full)
    assert ending(run_dir, monkeypatch, Preempted(7)) == ExitCode.REQUEUE
    assert f"{run_dir.events_jsonl}: No space left" in capfd.readouterr().err


def test_a_folder_that_cannot_be_given_back_changes_no_ending(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    rank.logger.propagate = True
    with contextlib.ExitStack() as stack:
        stack.push(rank._say_release)
        stack.callback(lambda: Path("/proc/self/no-such-file").unlink())
    assert "the run folder is left as it is: /proc/self/no-such-file" in caplog.text
    assert not rank._say_release(KeyError, KeyError("a fault of ours"), None)


def test_a_rank_that_lacks_what_its_batch_script_sets_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    code = rank.run_rank(tmp_path / "stage.yaml", tmp_path / "run", [], nobody_tells)
    assert code == ExitCode.USER_MISTAKE
    assert "is missing on n1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
