from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from swamp_dist.backends import follow as following
from swamp_dist.backends.follow import JobExit, JobRunner, exit_from_folder, exit_from_queue, follow
from swamp_dist.backends.jobs import live_job
from swamp_dist.backends.protocols import JobBackend
from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.config import SlurmCluster, StageSettings
from swamp_dist.errors import ExitCode
from swamp_dist.loading import load
from swamp_dist.pipelines.task import StageExit, StageSpec, stage_task
from swamp_dist.records import JobState
from swamp_dist.runs.folder import RunDir
from tests.backends.slurm.played import Slurm, job
from tests.end_to_end.command import write_job
from tests.pipelines.small_pipelines import RESULT


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """A played scheduler on PATH that is asked without a pause."""
    played = Slurm(tmp_path / "slurm")
    monkeypatch.setenv("PATH", played.path)
    monkeypatch.setattr(following, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(following, "ASK_SECONDS", 0.01)
    return played


@pytest.fixture
def folder(tmp_path: Path, tiny_shards: Path) -> RunDir:
    """The run folder of a stage that may start."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.write_stage(load(write_job(tmp_path, tiny_shards), StageSettings))
    return run_dir


SLURM = SlurmBackend(SlurmCluster(nodes=2))


def ended(word: str, reason: str = "", code: int | None = None) -> JobState:
    return JobState("7", "ended", reason, code=code, word=word)


def runner(slurm: Slurm, **variables: str) -> JobRunner:
    return JobRunner(SlurmCluster(nodes=2), {"PATH": slurm.path, **variables}, ("swamp", "pipeline"))


def in_background(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(call()), daemon=True)
    thread.start()
    return thread, found


def until(happened: Callable[[], bool], thread: threading.Thread) -> None:
    while not happened():
        assert thread.is_alive(), "ended too early"
        thread.join(0.01)


def submitted(folder: RunDir, count: int = 1) -> bool:
    return sum(e["event"] == "submitted" for e in folder.read_events()) == count


def ends(thread: threading.Thread, found: list[object]) -> object:
    thread.join(60)
    assert not thread.is_alive()
    return found[0]


@pytest.mark.parametrize(
    ("known", "code", "said"),
    [
        (ended("CANCELLED", code=130), ExitCode.INTERRUPTED, "was cancelled"),
        (ended("NODE_FAIL", "NodeDown"), ExitCode.FAILED, "job 7 ended as NODE_FAIL (NodeDown)"),
        (ended("TIMEOUT", code=0), ExitCode.FAILED, "ended as TIMEOUT"),
        (ended("COMPLETED", code=0), ExitCode.FAILED, "ended as COMPLETED without a result"),
        (ended("FAILED", code=3), ExitCode.HELD, "held by another run"),
        (ended("FAILED", code=2), ExitCode.USER_MISTAKE, "refused its settings"),
        (None, ExitCode.FAILED, "unknown to the scheduler"),
    ],
)
def test_every_way_to_lose_a_job_has_its_name(known: JobState | None, code: ExitCode, said: str) -> None:
    found = exit_from_queue("7", known, [])
    assert found is not None
    assert found.code == code
    assert said in found.reason
    cancelled = exit_from_queue("7", known, [{"event": "cancelled", "job": "7"}])
    assert cancelled is not None
    assert cancelled.code == ExitCode.INTERRUPTED
    assert exit_from_queue("7", JobState("7", "waiting"), [{"event": "cancelled", "job": "7"}]) is None


def test_a_stage_is_submitted_once_and_followed_by_whoever_comes(slurm: Slurm, folder: RunDir) -> None:
    first, _ = in_background(lambda: runner(slurm, SEEN_BY_JOBS="mine")(folder.stage_yaml, folder.path, 1))
    until(lambda: submitted(folder), first)
    second, found = in_background(lambda: runner(slurm)(folder.stage_yaml, folder.path, 1))
    slurm.set("41", "RUNNING")
    until(lambda: "--jobs=41" in (slurm.commands / "squeue.calls").read_text(), second)
    folder.result_json.write_text("{}")
    assert ends(second, found) == ExitCode.DONE
    first.join(60)
    assert slurm.submissions == 1
    assert slurm.seen("41") == "mine"
    assert folder.cluster_yaml.is_file()
    assert folder.provenance_json.is_file()


def test_a_job_whose_submission_was_not_noted_is_found_by_its_comment(slurm: Slurm, folder: RunDir) -> None:
    first, _ = in_background(lambda: runner(slurm)(folder.stage_yaml, folder.path, 1))
    until(lambda: submitted(folder), first)
    folder.events_jsonl.unlink()  # as of a driver killed right after sbatch
    second, found = in_background(lambda: runner(slurm)(folder.stage_yaml, folder.path, 1))
    until(lambda: submitted(folder), second)
    folder.result_json.write_text("{}")
    assert ends(second, found) == ExitCode.DONE
    first.join(60)
    assert (job(folder.path), slurm.submissions) == ("41", 1)


def test_a_number_that_slurm_uses_again_inherits_no_end(slurm: Slurm, folder: RunDir) -> None:
    folder.append_event("submitted", job="41")
    folder.append_event("cancelled", job="41")
    folder.append_event("failed", job="41", reason="of before", code=1)
    assert exit_from_folder(folder, "41") is not None
    folder.append_event("submitted", job="41")
    assert exit_from_folder(folder, "41") is None
    found = exit_from_queue("41", None, folder.read_events())
    assert found is not None
    assert found.code == ExitCode.FAILED


def test_a_running_job_is_found_though_a_later_one_has_ended(slurm: Slurm, folder: RunDir) -> None:
    (slurm.jobs / "41").write_text(f"RUNNING|0:10|None|{folder.path.resolve()}|0\n")
    folder.append_event("submitted", job="41", after=["40"])
    folder.append_event("submitted", job="42")
    assert live_job(SLURM, folder) == JobState(
        "41", "running", seconds=10.0, word="RUNNING", owner=str(folder.path)
    )
    assert folder.read_events()[-1] | {"time": 0} == {
        "time": 0, "event": "submitted", "job": "41", "found": True, "after": ["40"],
    }  # fmt: skip
    folder.append_event("failed", job="41", reason="gave up", code=1)
    assert live_job(SLURM, folder) is None  # it only ends


def test_one_odd_answer_is_no_end(slurm: Slurm, folder: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    lost, waits, runs = ended("NODE_FAIL"), JobState("41", "waiting"), JobState("41", "running")
    answers = [lost, waits, None, runs, *[None] * 5]
    left = iter([*answers, runs])
    monkeypatch.setattr(following, "_ask", lambda *_: (next(left), True))
    folder.append_event("submitted", job="41")
    with pytest.raises(StopIteration):  # it runs out of answers, not of patience
        follow(SLURM, folder, "41")
    assert [e["event"] for e in folder.read_events()] == ["submitted"]


def test_a_job_that_the_scheduler_forgot_is_noted_as_lost(slurm: Slurm, folder: RunDir) -> None:
    thread, found = in_background(lambda: runner(slurm)(folder.stage_yaml, folder.path, 1))
    until(lambda: submitted(folder), thread)
    slurm.forget("41")
    assert ends(thread, found) == ExitCode.FAILED
    (noted,) = [e for e in folder.read_events() if e["event"] == "failed"]
    assert noted["reason"] == "job 41 is unknown to the scheduler and left no result"


def test_a_silent_scheduler_ends_nothing(slurm: Slurm, folder: RunDir) -> None:
    asked: list[str] = []

    def silent(_backend: JobBackend, _folder: RunDir, number: str) -> tuple[None, bool]:
        asked.append(number)
        if len(asked) == 20:
            folder.result_json.write_text("{}")
        return None, False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "_ask", silent)
        folder.append_event("submitted", job="41")
        assert follow(SLURM, folder, "41") == JobExit(ExitCode.DONE, "done")


def played(slurm: Slurm, folder: RunDir, retries: int) -> tuple[threading.Thread, list[object]]:
    spec = StageSpec("pre", str(folder.stage_yaml), str(folder.path), 2, retries, str(Path.cwd()), {})
    return in_background(lambda: stage_task(spec, runner(slurm)))


def test_a_lost_node_is_retried_by_a_new_job_and_a_cancelled_one_is_not(slurm: Slurm, folder: RunDir) -> None:
    thread, found = played(slurm, folder, retries=2)
    until(lambda: submitted(folder), thread)
    slurm.set("41", "NODE_FAIL", "NodeDown", 1)
    until(lambda: submitted(folder, 2), thread)
    slurm.set("42", "CANCELLED")
    assert ends(thread, found) == StageExit("pre", ExitCode.INTERRUPTED)
    assert [e.get("reason") for e in folder.read_events() if e["event"] == "failed"] == [
        "job 41 ended as NODE_FAIL (NodeDown) without a result"
    ]
    assert folder.read_events()[-1]["event"] == "cancelled"


def test_a_job_that_gave_up_is_replaced_though_it_is_still_ending(slurm: Slurm, folder: RunDir) -> None:
    thread, found = played(slurm, folder, retries=1)
    until(lambda: submitted(folder), thread)
    slurm.set("41", "RUNNING")
    folder.append_event("failed", job="41", reason="started 4 times from step 0", code=1)
    until(lambda: submitted(folder, 2), thread)
    folder.append_event("failed", job="42", reason="no such split", code=2)
    assert ends(thread, found) == StageExit("pre", ExitCode.USER_MISTAKE)


def test_a_mistake_is_found_before_submission_and_not_repeated(slurm: Slurm, folder: RunDir) -> None:
    folder.stage_yaml.write_text(folder.stage_yaml.read_text().replace("entries: 24", "entries: 23"))
    thread, found = played(slurm, folder, retries=3)
    assert ends(thread, found) == StageExit("pre", ExitCode.USER_MISTAKE)
    assert slurm.submissions == 0
    (noted,) = [e for e in folder.read_events() if e["event"] == "failed"]
    assert "23" in str(noted["reason"])


def test_a_job_that_ends_while_it_is_looked_for_is_not_submitted_again(
    slurm: Slurm, folder: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.append_event("submitted", job="7", ranks=2)

    def over_by_now(_backend: JobBackend, asked: RunDir) -> None:
        """The scheduler calls the job ended; its result was written a moment before."""
        asked.result_json.write_text(json.dumps(RESULT))

    monkeypatch.setattr(following, "live_job", over_by_now)
    assert runner(slurm)(folder.stage_yaml, folder.path, 1) == ExitCode.DONE
    assert submitted(folder, 1)


def test_a_job_that_can_never_start_is_told_once_while_it_is_waited_for(slurm: Slurm, folder: RunDir) -> None:
    (slurm.jobs / "41").write_text(f"PENDING|0:00|PartitionTimeLimit|{folder.path}|0\n")
    folder.append_event("submitted", job="41")
    asked: list[JobState | None] = []

    def once_more(backend: JobBackend, run_dir: RunDir, job: str) -> tuple[JobState | None, bool]:
        known = backend.jobs([job]).get(job)
        asked.append(known)
        if len(asked) == 3:
            folder.result_json.write_text("{}")
        return known, True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(following, "_ask", once_more)
        assert follow(SLURM, folder, "41").code == ExitCode.DONE
    (told,) = [e for e in folder.read_events() if e["event"] == "waits"]
    assert str(told["reason"]).startswith("job 41 can never start: PartitionTimeLimit; lower time_limit")
