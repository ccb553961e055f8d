from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from swamp_dist.distributed import World, alone, on_main
from swamp_dist.errors import RunDirHeld, RunDirLost
from swamp_dist.runs import lock
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.holder import LockHolder, holder_file
from swamp_dist.stage import ownership
from swamp_dist.stage.ownership import PredecessorStays, note_loss, take_folder
from tests.ranks import run_on_ranks

BEFORE = LockHolder("gpu7", "another kernel", 4242, "77", "2026-01-02 03:04:05+00:00", "theirs", restart=0)


@pytest.fixture(autouse=True)
def second_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the second start of job 77, and looks often."""
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.3)
    monkeypatch.setattr(ownership, "_PAUSE", 0.01)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Callable[[], None]]:
    """The start before works in the folder, on another host; a call lets it end."""
    file, over = holder_file(tmp_path), threading.Event()
    file.write_text(json.dumps(asdict(BEFORE)))

    def renew() -> None:
        while not over.wait(0.02):
            with contextlib.suppress(FileNotFoundError):
                os.utime(file)

    thread = threading.Thread(target=renew)
    thread.start()

    def end() -> None:
        over.set()
        thread.join()
        file.unlink(missing_ok=True)

    yield end
    end()


def nobody(_job: str) -> bool | None:
    return None


def test_the_start_before_is_waited_for(tmp_path: Path, works: Callable[[], None]) -> None:
    looks: list[int] = []

    def looked() -> bool:
        looks.append(1)
        if len(looks) == 3:
            works()
        return False

    with contextlib.ExitStack() as stack:
        owned = take_folder(RunDir(tmp_path), alone(), stack, looked, nobody)
        owned.check()
        assert not owned.lost()
        assert len(looks) == 3
    assert not RunDir(tmp_path).read_events()


@pytest.mark.parametrize("why", ["time", "signal"])
@pytest.mark.usefixtures("works")
def test_one_that_stays_is_left_alone_and_the_queue_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    monkeypatch.setattr(ownership, "PREDECESSOR_SECONDS", 0.1 if why == "time" else 60.0)
    said = r"4242 on gpu7.*00: an earlier.*queued again"
    with contextlib.ExitStack() as stack, pytest.raises(PredecessorStays, match=said):
        take_folder(RunDir(tmp_path), alone(), stack, lambda: why == "signal", nobody)
    (event,) = RunDir(tmp_path).read_events()
    assert (event["event"], event["job"], event["restart"]) == ("waited", "77", 1)
    assert json.loads(holder_file(tmp_path).read_text())["token"] == "theirs"


@pytest.mark.usefixtures("works")
def test_another_job_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "78")
    with contextlib.ExitStack() as stack, pytest.raises(RunDirHeld, match="gpu7"):
        take_folder(RunDir(tmp_path), alone(), stack, lambda: False, nobody)


def _loses(world: World, folder: Path) -> tuple[str, str]:
    """What a rank hears while the folder is its own, and after another has taken it over."""
    run_dir = RunDir(folder)

    def asked() -> str:
        try:
            on_main(world, owned.check)
        except RunDirLost as lost:
            note_loss(run_dir, lost, world)
            return f"lost to another: {lost.attempt}"
        return "owns"

    with contextlib.ExitStack() as stack:
        owned = take_folder(run_dir, world, stack, lambda: False, nobody)
        before = asked()
        on_main(world, lambda: holder_file(folder).write_text(json.dumps(asdict(BEFORE))) and None)
        return before, asked()


def test_all_ranks_hear_of_a_loss(tmp_path: Path) -> None:
    heard = run_on_ranks(_loses, 3, tmp_path, how="threads")
    assert heard == [("owns", "lost to another: True")] * 3
    (event,) = RunDir(tmp_path).read_events()
    assert (event["event"], event["restart"]) == ("superseded", 1)
    assert "now held by process 4242 on gpu7" in str(event["reason"])
