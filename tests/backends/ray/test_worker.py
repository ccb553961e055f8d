"""What a Ray Train worker does for its rank, and how the exits of ranks become the stage's; no Ray here."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from swamp_dist.backends.ray.mailbox import Mailbox, MailboxState, RankExit, stage_exit
from swamp_dist.backends.ray.worker import RankSpec, before_start, end_ranks, rank_environment, run_rank
from swamp_dist.environment import RankInfo
from swamp_dist.errors import ExitCode
from swamp_dist.runs.folder import RunDir

PLACE = RankInfo(1, 2, 1, "10.0.0.7", 4242, "torch")
LOST = RankExit(0, 1, "rank 0 on a ended with exit code 1.")


@pytest.fixture
def spec(tmp_path: Path) -> RankSpec:
    RunDir(tmp_path / "run").create()
    return RankSpec(
        command=(sys.executable, "-m", "played_rank", "stage.yaml", "run"),
        run_dir="run",
        working_folder=str(tmp_path),
        job="ray-1",
        counted=False,
        ranks=2,
        max_restarts=1,
        peer_seconds=0.5,
        on_gpu=False,
        environment={"A": "b"},
    )


@pytest.fixture
def play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: RankSpec
) -> Callable[[str, Callable[[float], MailboxState]], RankExit]:
    """Runs a rank with this body; `run` is its run folder."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.getcwd()}")
    start = "import os, pathlib, signal, sys, time\nrun = pathlib.Path(sys.argv[2])\n"

    def run(body: str, hear: Callable[[float], MailboxState]) -> RankExit:
        (tmp_path / "played_rank.py").write_text(start + body)
        return run_rank(spec, PLACE, hear)

    return run


def silence(seconds: float) -> MailboxState:
    time.sleep(min(seconds, 0.05))
    return MailboxState()


def events(spec: RankSpec, name: str) -> list[dict[str, object]]:
    return [e for e in spec.folder.read_events() if e["event"] == name]


def test_a_rank_finds_its_place_and_all_gpus_of_its_node(spec: RankSpec) -> None:
    own = {"CUDA_VISIBLE_DEVICES": "4,5", "RANK": "9", "A": "a", "DS_ACCELERATOR": "cuda"}
    found = rank_environment(replace(spec, on_gpu=True), PLACE, own)
    assert {name: found[name] for name in PLACE.variables()} == PLACE.variables()
    assert found["CUDA_VISIBLE_DEVICES"].split(",")[int(found["LOCAL_RANK"])] == "5"
    assert found["A"] == "b"
    assert rank_environment(spec, PLACE, {})["DS_ACCELERATOR"] == "cpu"


def test_a_rank_runs_in_the_drivers_folder_and_logs_beside_the_others(
    play: Callable[[str, Callable[[float], MailboxState]], RankExit], spec: RankSpec
) -> None:
    ended = play("print('rank', os.environ['RANK'], 'in', os.getcwd(), sys.argv[1:])", silence)
    assert ended == RankExit(1, 0, "")
    assert spec.folder.log(1).read_text() == f"rank 1 in {spec.working_folder} ['stage.yaml', 'run']\n"


def test_a_failed_rank_is_told_with_its_last_words(
    play: Callable[[str, Callable[[float], MailboxState]], RankExit], spec: RankSpec
) -> None:
    spec.folder.log(1).write_text("of yesterday\n")
    ended = play("sys.exit('the disk ate it')", silence)
    assert ended.code == 1
    assert "rank 1 on" in ended.said
    assert "| the disk ate it" in ended.said
    assert "yesterday" not in ended.said
    assert "was killed by SIGKILL" in play("os.kill(os.getpid(), signal.SIGKILL)", silence).said


def test_signals_reach_the_rank_once_and_ctrl_c_as_sigterm(
    play: Callable[[str, Callable[[float], MailboxState]], RankExit], spec: RankSpec
) -> None:
    body = (
        "got = []\n"
        "for n in (signal.SIGTERM, signal.SIGUSR2): signal.signal(n, lambda number, _: got.append(number))\n"
        "(run / 'ready').touch()\n"
        "while len(got) < 2: time.sleep(0.01)\n"
        "time.sleep(0.3); print(got); sys.exit(75)\n"
    )
    state = MailboxState((signal.SIGUSR2, signal.SIGINT))

    def hear(seconds: float) -> MailboxState:
        silence(seconds)
        return state if (spec.folder.path / "ready").exists() else MailboxState()

    assert play(body, hear).code == ExitCode.REQUEUE
    assert spec.folder.log(1).read_text() == f"[{int(signal.SIGUSR2)}, {int(signal.SIGTERM)}]\n"


def test_a_rank_that_hangs_after_its_peers_ended_is_killed(
    play: Callable[[str, Callable[[float], MailboxState]], RankExit],
) -> None:
    stuck = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)\n"
    assert play(stuck, lambda s: replace(silence(s), exits=(LOST,))).code == -signal.SIGKILL
    assert play(stuck, lambda s: replace(silence(s), signals=(2, 2))).code == -signal.SIGKILL


def test_a_rank_saves_where_its_worker_can_ask_nobody_any_more(
    play: Callable[[str, Callable[[float], MailboxState]], RankExit], spec: RankSpec
) -> None:
    """A killed driver takes the mailbox with it, often before Ray has ended the workers."""
    ready, saved = spec.folder.path / "ready", spec.folder.path / "saved"
    body = (
        "def save(*_):\n    time.sleep(0.3); (run / 'saved').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "(run / 'ready').touch()\n"
        "while True: time.sleep(0.05)\n"
    )

    def hear(seconds: float) -> MailboxState:
        if ready.exists():
            raise ConnectionError("the mailbox died")
        return silence(seconds)

    with pytest.raises(ConnectionError, match="the mailbox died"):
        play(body, hear)
    assert saved.exists()


def test_what_an_earlier_start_left_is_waited_for_and_then_killed(spec: RankSpec) -> None:
    mine = {"SWAMP_RAY_RUN": str(spec.folder.path.resolve())}
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, **mine})
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        end_ranks(spec.folder.path, 0.5)
        assert left.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
while True:  # a signal between a test for it and a sleep is noticed after the sleep
    time.sleep(0.05)
"""


def test_ranks_whose_workers_may_live_are_told_to_save(spec: RankSpec) -> None:
    mine = os.environ | {"SWAMP_RAY_RUN": str(spec.folder.path.resolve())}
    rank = subprocess.Popen([sys.executable, "-c", SAVES], env=mine, stdout=subprocess.PIPE)
    try:
        assert rank.stdout is not None
        assert rank.stdout.readline() == b"ready\n"
        end_ranks(spec.folder.path, 20.0, signal.SIGINT)
        assert rank.wait(10) == 75
    finally:
        rank.kill()
        rank.wait()


def test_starts_without_progress_are_counted(spec: RankSpec) -> None:
    assert before_start(spec, MailboxState()) is None
    assert before_start(spec, MailboxState(exits=(LOST,))) is None
    assert before_start(spec, MailboxState(exits=(LOST,))) == ExitCode.FAILED
    (said,) = events(spec, "failed")
    assert said["reason"] == (
        "started 2 times from step 0 without committing another one (max_restarts = 1), "
        "the last time: rank 0 on a ended with exit code 1."
    )
    assert [e["step"] for e in events(spec, "launched")] == [0, 0]
    assert before_start(replace(spec, job="ray-2"), MailboxState()) is None


def test_the_first_start_of_a_slurm_job_is_counted_by_its_batch_script(spec: RankSpec) -> None:
    spec = replace(spec, job="41", counted=True, max_restarts=0)
    spec.folder.append_event("launched", job="41", step=0, console_bytes=0)
    assert before_start(spec, MailboxState()) is None
    assert before_start(spec, MailboxState()) == ExitCode.FAILED
    spec.folder.append_event("launched", job="41", step=0, console_bytes=0)  # the job was requeued
    assert before_start(replace(spec, max_restarts=1), MailboxState()) is None
    assert [e["step"] for e in events(spec, "launched")] == [0, None, 0, None]


def test_nothing_is_started_that_is_done_stopped_or_wrong(spec: RankSpec) -> None:
    assert before_start(spec, MailboxState(signals=(signal.SIGTERM,))) == ExitCode.REQUEUE
    assert before_start(spec, MailboxState(exits=(LOST, RankExit(1, 2, "")))) == ExitCode.USER_MISTAKE
    assert before_start(spec, MailboxState(exits=(RankExit(1, 3, ""),))) == ExitCode.HELD
    spec.folder.result_json.write_text("{}")
    assert before_start(spec, MailboxState()) == ExitCode.DONE
    assert spec.folder.read_events() == []


SAVED = (RankExit(0, 75, ""), RankExit(1, 75, ""))
TERM = (int(signal.SIGTERM),)


@pytest.mark.parametrize(
    ("done", "state", "error", "told", "expected", "said"),
    [
        (True, MailboxState(exits=(LOST,)), "", [], ExitCode.DONE, ""),
        (False, MailboxState(TERM, SAVED), "", [], ExitCode.REQUEUE, ""),
        (False, MailboxState((), SAVED), "", [], ExitCode.REQUEUE, ""),
        (False, MailboxState((), SAVED), "gave up", [], ExitCode.FAILED, "gave up"),
        (False, MailboxState(TERM), "", [], ExitCode.REQUEUE, "stopped before the ranks were ready"),
        (False, MailboxState(TERM, (RankExit(0, -15, "killed"),)), "", [], ExitCode.REQUEUE,
         "stopped before"),
        (False, MailboxState((2, 2), (RankExit(0, -9, "killed"),)), "", [], ExitCode.INTERRUPTED,
         "second Ctrl-C"),
        (False, MailboxState((), (LOST, RankExit(1, 2, ""))), "", [], ExitCode.USER_MISTAKE, ""),
        (False, MailboxState((), (LOST, RankExit(1, -9, "rank 1 killed"))), "", [], ExitCode.FAILED,
         "rank 1 killed"),
        (False, MailboxState((), (LOST,)), "gave up", [], ExitCode.FAILED, "rank 0 on a ended"),
        (False, MailboxState(), "Ray was lost", [], ExitCode.FAILED, "Ray was lost"),
        (False, MailboxState((), (LOST,)), "", ["started 9 times"], ExitCode.FAILED,
         "started 9 times; not started"),
        (False, MailboxState(), "", [], ExitCode.FAILED, "without a result"),
    ],
)  # fmt: skip
def test_endings_become_one(
    done: bool, state: MailboxState, error: str, told: list[str], expected: ExitCode, said: str
) -> None:
    code, found = stage_exit(done, state, error, told)
    assert code == expected
    assert (said in found) if said else found == ""


def test_the_post_tells_each_change_once() -> None:
    async def talk() -> None:
        mailbox, first = Mailbox(), MailboxState()
        asked = asyncio.create_task(mailbox.wait_for_change(first))
        await asyncio.sleep(0)
        assert not asked.done()
        await mailbox.tell(15)
        assert await asked == MailboxState((15,))
        await mailbox.ended(LOST)
        assert await mailbox.wait_for_change(MailboxState((15,))) == MailboxState((15,), (LOST,))
        await mailbox.begin()
        assert (await mailbox.state(), await mailbox.begun()) == (MailboxState((15,)), 1)

    asyncio.run(talk())
