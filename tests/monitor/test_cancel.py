from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from swamp_dist.errors import UserError
from swamp_dist.monitor.cancel import cancel
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.processes import own_mark
from tests.end_to_end.command import suspend
from tests.runs.written_runs import DEAD, ELSEWHERE, calls, fake_command, owned_by, sleeper, started, write


def events(run_dir: RunDir) -> list[object]:
    return [event["event"] for event in run_dir.read_events()]


def test_a_proven_process_is_asked_and_killed_only_when_told(tmp_path: Path) -> None:
    for now, ending in ((False, signal.SIGTERM), (True, signal.SIGKILL)):
        with sleeper() as (process, mark):
            run_dir = write(tmp_path / str(now), started(mark))
            (done,) = cancel(run_dir.path, now, wait=10)
            assert process.wait(10) == -ending
        assert done.stopped
        assert ("killed" if now else "asked to stop") in done.said
        assert str(mark.pid) in done.said
        assert events(run_dir) == ["started", "cancelled"]


def test_what_is_not_proven_is_left_alone(tmp_path: Path) -> None:
    with sleeper() as (process, mark):
        used_again = write(tmp_path / "again", started(replace(mark, born="boot:1")))
        owned_by(used_again, replace(mark, born="boot:1"))
        (done,) = cancel(used_again.path, now=True, wait=0)
        assert (done.said, done.stopped) == ("nothing works on this run", True)
        unproven = write(tmp_path / "unproven", started(replace(mark, born="")))
        (done,) = cancel(unproven.path, now=True, wait=0)
        assert "cannot be proven" in done.said
        assert not done.stopped
        away = write(tmp_path / "away", started(replace(mark, host="another-host")))
        (done,) = cancel(away.path, now=True, wait=0)
        assert f"process {mark.pid} on host another-host" in done.said
        assert not done.stopped
        assert process.poll() is None
    assert all("cancelled" not in events(run) for run in (used_again, unproven, away))


def test_done_and_unknown_folders(tmp_path: Path) -> None:
    run_dir = write(tmp_path / "run", started(own_mark()))
    run_dir.result_json.write_text("{}")
    (done,) = cancel(run_dir.path, now=True, wait=0)  # would have killed this very process
    assert "done already" in done.said
    with pytest.raises(UserError, match="neither a run folder"):
        cancel(tmp_path / "none", now=False, wait=0)


def test_a_suspended_run_is_woken_to_end(tmp_path: Path) -> None:
    with sleeper() as (process, mark):
        suspend(process.pid)
        run_dir = write(tmp_path, started(mark))
        (done,) = cancel(run_dir.path, now=False, wait=10)
        assert process.wait(10) == -signal.SIGTERM
    assert "ended" in done.said


def test_one_that_does_not_end_is_said_to_be_still_saving(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(15, lambda *_: None); print('x', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"x\n"
        from swamp_dist.runs.processes import born

        mark = replace(own_mark(), pid=process.pid, born=born(process.pid) or "")
        (done,) = cancel(write(tmp_path, started(mark)).path, now=False, wait=0.2)
        assert "still saving" in done.said
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def pipeline(folder: Path) -> RunDir:
    folder.mkdir()
    stages = [{"key": "seed-0/pre", "after": []}, {"key": "seed-0/post", "after": ["seed-0/pre"]}]
    (folder / "graph.json").write_text(json.dumps({"stages": stages}))
    return RunDir(folder)


def test_a_pipeline_ends_driver_first_and_its_stage_alone_is_refused(tmp_path: Path) -> None:
    whole = pipeline(tmp_path / "p")
    with sleeper() as (driver, driver_mark), sleeper() as (stage, stage_mark):
        owned_by(whole, driver_mark)
        run_dir = write(whole.path / "seed-0/pre", started(stage_mark))
        write(whole.path / "seed-0/post")
        with pytest.raises(UserError, match=f"swamp cancel {whole.path}"):
            cancel(run_dir.path, now=True, wait=0)
        assert stage.poll() is None
        done = cancel(whole.path, now=True, wait=10)
        assert driver.wait(10) == -signal.SIGTERM
        assert stage.wait(10) == -signal.SIGKILL
    assert [d.run_dir for d in done] == [whole.path, run_dir.path]
    assert all(d.stopped for d in done)
    owned_by(whole, DEAD)  # the driver was killed: its stages may be stopped by themselves
    assert cancel(run_dir.path, now=False, wait=0)[0].said == "nothing works on this run"


def test_an_unreachable_driver_keeps_its_stages(tmp_path: Path) -> None:
    whole = pipeline(tmp_path / "p")
    owned_by(whole, ELSEWHERE)
    with sleeper() as (stage, mark):
        write(whole.path / "seed-0/pre", started(mark))
        (done,) = cancel(whole.path, now=True, wait=0)
        assert not done.stopped
        assert "another-host" in done.said
        assert stage.poll() is None


def test_a_job_is_cancelled_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = tmp_path / "bin"
    fake_command(commands, "squeue", "echo '7|RUNNING|5:00|None'")
    fake_command(commands, "scontrol", "")
    fake_command(commands, "scancel", "")
    monkeypatch.setenv("PATH", str(commands))
    run_dir = write(tmp_path / "run", ("submitted", 1.0, {"job": "7"}), started(ELSEWHERE))
    (done,) = cancel(run_dir.path, now=False, wait=0)
    assert done.stopped
    assert "is not requeued" in done.said
    assert calls(commands, "scancel") == ["7"]
    assert events(run_dir)[-1] == "cancelled"
    fake_command(commands, "scancel", "echo 'Access denied' >&2; exit 1")
    kept = write(tmp_path / "kept", ("submitted", 1.0, {"job": "7"}), started(ELSEWHERE))
    (done,) = cancel(kept.path, now=False, wait=0)
    assert not done.stopped
    assert events(kept) == ["submitted", "started"]  # it goes on, and so says its folder


def test_a_job_that_ended_leaves_a_later_local_run_to_be_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    fake_command(commands, "squeue", "")
    fake_command(commands, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    fake_command(commands, "scancel", "")
    with sleeper() as (process, mark):
        run_dir = write(tmp_path / "run", ("submitted", 1.0, {"job": "7"}), started(mark))
        monkeypatch.setenv("PATH", str(commands))
        (done,) = cancel(run_dir.path, now=False, wait=10)
        assert process.wait(10) == -signal.SIGTERM
    assert done.stopped
    assert calls(commands, "scancel") == []


def test_a_silent_scheduler_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    run_dir = write(tmp_path / "run", ("submitted", 1.0, {"job": "7"}), started(DEAD))
    (done,) = cancel(run_dir.path, now=False, wait=0)
    assert not done.stopped
    assert "could not be cancelled" in done.said
