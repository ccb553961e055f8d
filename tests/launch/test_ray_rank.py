"""What a Ray Train worker does for its rank, and how the endings of ranks become one of the stage; no Ray here."""

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

from swamp_dist.environment import Place
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.ray_outcome import outcome
from swamp_dist.launch.ray_post import Ending, News, Post
from swamp_dist.launch.ray_rank import (
    RankOrder,
    end_ranks,
    opening,
    rank_environment,
    run_rank,
)
from swamp_dist.launch.rundir import RunDir

PLACE = Place(1, 2, 1, "10.0.0.7", 4242, "torch")
LOST = Ending(0, 1, "rank 0 on a ended with exit code 1.")


@pytest.fixture
def order(tmp_path: Path) -> RankOrder:
    RunDir(tmp_path / "run").create()
    return RankOrder("stage.yaml", "run", str(tmp_path), "ray-1", False, 2, 1, 0.5, False, {"A": "b"})


@pytest.fixture
def play(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: RankOrder
) -> Callable[[str, Callable[[float], News]], Ending]:
    """Runs a rank with this body; `run` is its run folder."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.getcwd()}")
    start = "import os, pathlib, signal, sys, time\nrun = pathlib.Path(sys.argv[2])\n"

    def run(body: str, hear: Callable[[float], News]) -> Ending:
        (tmp_path / "played_rank.py").write_text(start + body)
        return run_rank(order, PLACE, hear, "played_rank")

    return run


def silence(seconds: float) -> News:
    time.sleep(min(seconds, 0.05))
    return News()


def events(order: RankOrder, name: str) -> list[dict[str, object]]:
    return [e for e in order.folder.read_events() if e["event"] == name]


def test_a_rank_finds_its_place_and_all_gpus_of_its_node(order: RankOrder) -> None:
    own = {"CUDA_VISIBLE_DEVICES": "4,5", "RANK": "9", "A": "a", "DS_ACCELERATOR": "cuda"}
    found = rank_environment(replace(order, on_gpu=True), PLACE, own)
    place = {name: found[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    assert place == PLACE.variables()
    assert found["CUDA_VISIBLE_DEVICES"].split(",")[int(found["LOCAL_RANK"])] == "5"
    assert found["A"] == "b"
    assert rank_environment(order, PLACE, {})["DS_ACCELERATOR"] == "cpu"


def test_a_rank_runs_in_the_drivers_folder_and_logs_beside_the_others(
    play: Callable[[str, Callable[[float], News]], Ending], order: RankOrder
) -> None:
    ended = play("print('rank', os.environ['RANK'], 'in', os.getcwd(), sys.argv[1:])", silence)
    assert ended == Ending(1, 0, "")
    assert order.folder.log(1).read_text() == f"rank 1 in {order.working_folder} ['stage.yaml', 'run']\n"


def test_a_failed_rank_is_told_with_its_last_words(
    play: Callable[[str, Callable[[float], News]], Ending], order: RankOrder
) -> None:
    order.folder.log(1).write_text("of yesterday\n")
    ended = play("sys.exit('the disk ate it')", silence)
    assert ended.code == 1
    assert "rank 1 on" in ended.said
    assert "| the disk ate it" in ended.said
    assert "yesterday" not in ended.said
    assert "was killed by SIGKILL" in play("os.kill(os.getpid(), signal.SIGKILL)", silence).said


def test_signals_reach_the_rank_once_and_ctrl_c_as_sigterm(
    play: Callable[[str, Callable[[float], News]], Ending], order: RankOrder
) -> None:
    body = (
        "got = []\n"
        "for n in (signal.SIGTERM, signal.SIGUSR2): signal.signal(n, lambda number, _: got.append(number))\n"
        "(run / 'ready').touch()\n"
        "while len(got) < 2: time.sleep(0.01)\n"
        "time.sleep(0.3); print(got); sys.exit(75)\n"
    )
    news = News((signal.SIGUSR2, signal.SIGINT))

    def hear(seconds: float) -> News:
        silence(seconds)
        return news if (order.folder.path / "ready").exists() else News()

    assert play(body, hear).code == ExitCode.REQUEUE
    assert order.folder.log(1).read_text() == f"[{int(signal.SIGUSR2)}, {int(signal.SIGTERM)}]\n"


def test_a_rank_that_hangs_after_its_peers_ended_is_killed(
    play: Callable[[str, Callable[[float], News]], Ending],
) -> None:
    stuck = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)\n"
    assert play(stuck, lambda s: replace(silence(s), endings=(LOST,))).code == -signal.SIGKILL
    assert play(stuck, lambda s: replace(silence(s), signals=(2, 2))).code == -signal.SIGKILL


def test_what_an_earlier_start_left_is_waited_for_and_then_killed(order: RankOrder) -> None:
    mine = {"SWAMP_RAY_RUN": str(order.folder.path.resolve())}
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={**os.environ, **mine})
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        end_ranks(order.folder.path, 0.5)
        assert left.wait(10) == -signal.SIGKILL
        assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_starts_without_progress_are_counted(order: RankOrder) -> None:
    assert opening(order, News()) is None
    assert opening(order, News(endings=(LOST,))) is None
    assert opening(order, News(endings=(LOST,))) == ExitCode.FAILED
    (said,) = events(order, "failed")
    assert said["reason"] == (
        "started 2 times from step 0 without committing another one (max_restarts = 1), "
        "the last time: rank 0 on a ended with exit code 1."
    )
    assert [e["step"] for e in events(order, "launched")] == [0, 0]
    assert opening(replace(order, job="ray-2"), News()) is None


def test_the_first_start_of_a_slurm_job_is_counted_by_its_batch_script(order: RankOrder) -> None:
    order = replace(order, job="41", counted=True, max_restarts=0)
    order.folder.append_event("launched", job="41", step=0, console_bytes=0)
    assert opening(order, News()) is None
    assert opening(order, News()) == ExitCode.FAILED
    order.folder.append_event("launched", job="41", step=0, console_bytes=0)  # the job was requeued
    assert opening(replace(order, max_restarts=1), News()) is None
    assert [e["step"] for e in events(order, "launched")] == [0, None, 0, None]


def test_nothing_is_started_that_is_done_stopped_or_wrong(order: RankOrder) -> None:
    assert opening(order, News(signals=(signal.SIGTERM,))) == ExitCode.REQUEUE
    assert opening(order, News(endings=(LOST, Ending(1, 2, "")))) == ExitCode.USER_MISTAKE
    assert opening(order, News(endings=(Ending(1, 3, ""),))) == ExitCode.HELD
    order.folder.result_json.write_text("{}")
    assert opening(order, News()) == ExitCode.DONE
    assert order.folder.read_events() == []


SAVED = (Ending(0, 75, ""), Ending(1, 75, ""))
TERM = (int(signal.SIGTERM),)


@pytest.mark.parametrize(
    ("done", "news", "error", "told", "expected", "said"),
    [
        (True, News(endings=(LOST,)), "", [], ExitCode.DONE, ""),
        (False, News(TERM, SAVED), "", [], ExitCode.REQUEUE, ""),
        (False, News((), SAVED), "", [], ExitCode.REQUEUE, ""),
        (False, News((), SAVED), "gave up", [], ExitCode.FAILED, "gave up"),
        (False, News(TERM), "", [], ExitCode.REQUEUE, "stopped before the ranks were ready"),
        (False, News(TERM, (Ending(0, -15, "killed"),)), "", [], ExitCode.REQUEUE, "stopped before"),
        (False, News((2, 2), (Ending(0, -9, "killed"),)), "", [], ExitCode.INTERRUPTED, "second Ctrl-C"),
        (False, News((), (LOST, Ending(1, 2, ""))), "", [], ExitCode.USER_MISTAKE, ""),
        (False, News((), (LOST, Ending(1, -9, "rank 1 killed"))), "", [], ExitCode.FAILED, "rank 1 killed"),
        (False, News((), (LOST,)), "gave up", [], ExitCode.FAILED, "rank 0 on a ended"),
        (False, News(), "Ray was lost", [], ExitCode.FAILED, "Ray was lost"),
        (False, News((), (LOST,)), "", ["started 9 times"], ExitCode.FAILED, "started 9 times; not started"),
        (False, News(), "", [], ExitCode.FAILED, "without a result"),
    ],
)  # fmt: skip
def test_endings_become_one(
    done: bool, news: News, error: str, told: list[str], expected: ExitCode, said: str
) -> None:
    code, found = outcome(done, news, error, told)
    assert code == expected
    assert (said in found) if said else found == ""


def test_the_post_tells_each_change_once() -> None:
    async def talk() -> None:
        post, first = Post(), News()
        asked = asyncio.create_task(post.hear(first))
        await asyncio.sleep(0)
        assert not asked.done()
        await post.tell(15)
        assert await asked == News((15,))
        await post.ended(LOST)
        assert await post.hear(News((15,))) == News((15,), (LOST,))
        await post.begin()
        assert (await post.news(), await post.begun()) == (News((15,)), 1)

    asyncio.run(talk())
