"""A stage on Ray Train workers: whatever dies, it ends with the weights that `swamp run` gives."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.command import (
    Ended,
    ended,
    listening,
    refused,
    running,
    sha256,
    start,
    swamp,
    until,
    write_job,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

LONG = ("train.epochs=60", "train.checkpoint.every=40", "train.validate_on.every=20", "train.log_every=10")
STEPS = 480
PATIENCE = 200.0
"""Seconds: a Ray, its workers and their ranks take long to start on a busy machine."""


@pytest.fixture(scope="module")
def job_file(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("ray"), tiny_shards)


@pytest.fixture(scope="module")
def local(job_file: Path) -> str:
    """Weights of the long stage as `swamp run` makes them."""
    run_dir = job_file.parent / "local"
    done = swamp("run", job_file, *LONG, "--ranks", "2", "--run-dir", run_dir)
    assert done.code == 0, done.said
    return sha256(run_dir / "weights.safetensors")


class OnRay:
    """A stage that was submitted to a Ray of its own."""

    def __init__(self, job_file: Path, folder: Path, *overrides: str, more: str = "") -> None:
        self.run_dir, self.console = folder / "run", folder / "console"
        cluster = folder / "cluster.yaml"
        cluster.write_text(f"backend: ray\nworkers: 2\npeer_seconds: 5\n{more}")
        self.process = start(
            "submit",
            job_file,
            *overrides,
            "--cluster",
            cluster,
            "--run-dir",
            self.run_dir,
            console=self.console,
        )

    def until(self, happened: Callable[[], bool]) -> None:
        """Wait until `happened`; the command must not end before."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            if self.process.poll() is not None or time.monotonic() > deadline:
                until(happened, self.process, self.console)  # fails, and says why
            time.sleep(0.05)

    def events(self, name: str) -> list[dict[str, object]]:
        """Events of one name."""
        path = self.run_dir / "events.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        return [e for e in map(json.loads, lines) if e["event"] == name]

    def ranks(self) -> list[int]:
        """Process numbers of the ranks that started last, in rank order."""
        marks = self.events("started")[-1]["ranks"]
        assert isinstance(marks, list)
        return [int(mark["pid"]) for mark in marks]

    def over(self) -> Ended:
        """How the command ended."""
        return ended(self.process, self.console, PATIENCE)


@pytest.fixture
def submit(job_file: Path, tmp_path: Path) -> Iterator[Callable[..., OnRay]]:
    """Submits to a Ray, and takes the command away with the test."""
    started: list[OnRay] = []

    def go(*overrides: str, more: str = "") -> OnRay:
        started.append(OnRay(job_file, tmp_path, *overrides, more=more))
        return started[-1]

    yield go
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            if each.process.poll() is None:
                os.kill(each.process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    each.process.wait(60)
            os.kill(each.process.pid, signal.SIGKILL)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def ends_like(stage: OnRay, local: str, starts: int) -> Ended:
    """Done after so many starts, every step logged once, nothing left behind."""
    done = stage.over()
    assert done.code == 0, done.said
    assert sha256(stage.run_dir / "weights.safetensors") == local
    assert len(stage.events("launched")) == starts
    lines = [json.loads(line) for line in (stage.run_dir / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in lines if "loss/total" in r] == list(range(10, STEPS + 1, 10))
    assert not list(stage.run_dir.glob(".ray-*"))
    return done


def test_weights_are_those_of_swamp_run(submit: Callable[..., OnRay], local: str) -> None:
    stage = submit(*LONG)
    stage.until(lambda: bool(stage.events("training")))
    assert {address.rpartition(":")[2] for address in listening(stage.process)} == {"127.0.0.1"}
    done = ends_like(stage, local, starts=1)
    assert f"step {STEPS} of {STEPS}" in done.said
    assert "next:        swamp table" in done.said
    again = submit(*LONG)
    assert (again.over().code, len(again.events("launched"))) == (0, 1)


@pytest.mark.parametrize("whom", ["rank", "worker"])
def test_killed_in_the_middle_it_goes_on_from_the_last_commit(
    submit: Callable[..., OnRay], local: str, whom: str
) -> None:
    stage = submit(*LONG)
    stage.until(lambda: bool(stage.events("committed")))
    ranks = stage.ranks()
    os.kill(ranks[1] if whom == "rank" else parent(ranks[1]), signal.SIGKILL)
    ends_like(stage, local, starts=2)
    assert not any(map(running, ranks))
    first, second = stage.events("training")
    committed = [e["step"] for e in stage.events("committed")]
    assert (first["step"], second["step"] in committed) == (0, True)
    assert stage.events("launched")[1]["step"] == second["step"]


def test_failures_without_progress_are_given_up(submit: Callable[..., OnRay]) -> None:
    stage = submit(*LONG, "train.checkpoint.every=100000", more="max_restarts: 1\n")
    for count in (1, 2):
        stage.until(lambda n=count: len(stage.events("training")) == n)  # type: ignore[misc]
        os.kill(stage.ranks()[1], signal.SIGKILL)
    done = stage.over()
    assert done.code == 1, done.said
    reason = "started 2 times from step 0 without committing another one (max_restarts = 1)"
    assert reason in done.said
    assert "rank 1 on" in done.said
    assert "was killed by SIGKILL" in done.said
    assert len(stage.events("launched")) == 2


def test_a_users_mistake_is_not_repeated(submit: Callable[..., OnRay]) -> None:
    stage = submit(*LONG)
    stage.until(lambda: bool(stage.events("launched")))
    (stage.run_dir / "stage.yaml").write_text("name: [")
    done = stage.over()
    assert done.code == 2, done.said
    assert "is not valid YAML" in done.said
    assert len(stage.events("launched")) == 1


@pytest.mark.parametrize(
    ("number", "to"),
    [(signal.SIGTERM, os.kill), (signal.SIGINT, os.kill), (signal.SIGTERM, os.killpg)],
    ids=["SIGTERM", "SIGINT", "SIGTERM to its group, which ends Ray too"],
)
def test_a_signal_to_the_command_saves(
    submit: Callable[..., OnRay], local: str, number: int, to: Callable[[int, int], None]
) -> None:
    stage = submit(*LONG)
    stage.until(lambda: bool(stage.events("committed")))
    ranks = stage.ranks()
    to(stage.process.pid, number)
    done = stage.over()
    assert done.code == 75, done.said
    assert "stopped with its progress saved; the same command continues" in done.said
    (saved,) = stage.events("preempted")
    assert (stage.run_dir / "checkpoints" / f"step-{saved['step']}").is_dir()
    assert not any(map(running, ranks))
    ends_like(submit(*LONG), local, starts=2)


def test_more_workers_than_the_ray_has_room_for_are_refused(job_file: Path, tmp_path: Path) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("backend: ray\nworkers: 2\ngpus_per_worker: 1\n")
    refused(
        swamp("submit", job_file, "--cluster", cluster, "--run-dir", tmp_path / "run"),
        "0 GPUs; 2 workers need 2 CPUs, 2 GPUs",
    )


def test_workers_of_a_node_see_all_its_gpus(
    submit: Callable[..., OnRay], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray is told of two GPUs; the ranks compute on the CPU."""
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2, "GPU": 2}')
    stage = submit(*LONG, more="gpus_per_worker: 1\nenvironment: {DS_ACCELERATOR: cpu}\n")
    stage.until(lambda: bool(stage.events("committed")))
    for rank, pid in enumerate(stage.ranks()):
        pairs = (v.partition("=") for v in Path(f"/proc/{pid}/environ").read_text().split("\0"))
        variables = {name: value for name, _, value in pairs}
        assert (variables["CUDA_VISIBLE_DEVICES"], variables["LOCAL_RANK"]) == ("0,1", str(rank))
    stage.process.send_signal(signal.SIGTERM)
    assert stage.over().code == 75


def test_ranks_of_a_killed_command_save(submit: Callable[..., OnRay]) -> None:
    stage = submit(*LONG, "train.checkpoint.every=100000")
    stage.until(lambda: bool(stage.events("training")))
    metrics = stage.run_dir / "metrics.jsonl"
    stage.until(lambda: metrics.is_file() and "loss/total" in metrics.read_text())  # some steps
    stage.process.kill()
    stage.process.wait()
    deadline = time.monotonic() + PATIENCE
    while any(map(running, stage.ranks())):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (saved,) = stage.events("preempted")
    assert (stage.run_dir / "checkpoints" / f"step-{saved['step']}").is_dir()
