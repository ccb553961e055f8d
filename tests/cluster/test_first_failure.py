"""On a real SLURM: the rank that failed first is named, and attempts of one job are told apart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swamp_dist.monitor.status import look
from tests.cluster.played import played
from tests.cluster.slurm import slurm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
LOG = """\
import os, pathlib, signal, sys, time
def log(said):
    with folder.log(rank).open("a") as file:
        file.write(f"2026-01-02 03:04:05,6 rank {rank} ERROR swamp_dist.stage.rank: {said}\\n")
def both():
    (folder.path / f"there-{rank}").touch()
    while not all((folder.path / f"there-{r}").exists() for r in (0, 1)):
        time.sleep(0.02)
both()
"""
LOST = "lost its connection to another rank and stopped"
FAILS = f"""{LOG}
if rank == 0:
    log("an error before, which was overcome")
    log("shard-3.tar: cannot be decoded")
    time.sleep(0.5)
else:
    log("rank 1 {LOST}")
sys.exit(1)
"""
KILLED = f"""{LOG}
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.3)
log("rank 0 {LOST}")
sys.exit(1)
"""
MISTAKE = f"""{LOG}
if rank == 1:
    log("shard-3.tar: damaged\\nFix: copy it again")
    sys.exit(2)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(300)
"""
"""Rank 0 waits in a collective until srun kills it, and ends with 137."""


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        (FAILS, 1, "rank 0 on node n1: exited with exit code 1 (shard-3.tar: cannot be decoded)"),
        (KILLED, 1, "rank 1 on node n2: killed"),
        (MISTAKE, 2, "rank 1 on node n2: shard-3.tar: damaged. Fix: copy it again"),
    ],
    ids=["fails", "killed", "mistake"],
)
def test_the_rank_that_failed_first_is_named_with_its_last_words(
    tmp_path: Path, text: str, code: int, named: str
) -> None:
    """A mistake is not repeated, though srun had to kill the other; the others may start again once."""
    once = 0 if code == 2 else 1
    stage = played(tmp_path / "run", text, {"max_restarts": 1})
    job = stage.submit()
    assert job.over() == "FAILED", job.story()
    assert (job.exit_code(), job.restarts()) == (code, once), job.story()
    assert [e["reason"] for e in job.events("requeued")] == [named] * once
    assert str(job.events("failed")[-1]["reason"]).endswith(named)
    assert named in job.console()
    assert look(stage.folder).reason.endswith(named)
    if code == 2:
        assert "srun: error: n1: task 0: Killed" in job.console()


FORMER = f"""{LOG}
import json, subprocess
from swamp_dist.errors import PredecessorHolds
def nobody_tells(job):
    return None
def holds():
    with folder.hold(nobody_tells):
        (folder.path / "former-holds").touch()
        while not (folder.path / "let-go").exists():
            time.sleep(0.05)
    words = [sys.executable, "-m", "swamp_dist.backends.slurm.restart", "end", str(folder.path), "137"]
    done = subprocess.run(words, capture_output=True, text=True)
    (folder.path / "former-said").write_text(json.dumps([done.returncode, done.stdout + done.stderr]))
if restart == 0:
    if rank == 0 and os.fork() == 0:  # out of sight of SLURM: a session and a parent of its own
        os.setsid()
        if os.fork() == 0:
            holds()
        os._exit(0)
    time.sleep(300)
if rank == 0:
    while True:
        try:
            with folder.hold(nobody_tells):
                break
        except PredecessorHolds as held:
            said = folder.path / "waits"
            if not said.exists():  # later ones may be of a holder that is just letting go
                (folder.path / "waits-part").write_text(str(held))
                (folder.path / "waits-part").rename(said)
            time.sleep(0.1)
while not (folder.path / "former-said").exists():
    time.sleep(0.05)
"""
"""The first start goes on in the folder after SLURM has lost sight of it; the second waits for its end."""


def test_a_start_that_slurm_lost_sight_of_is_waited_for_and_ends_no_later_one(tmp_path: Path) -> None:
    stage = played(tmp_path / "run", FORMER)
    job, path = stage.submit(), stage.folder.path
    try:
        job.until((path / "former-holds").exists, "first start")
        slurm("scontrol", "requeue", job.number)
        job.until((path / "waits").exists, "second start that waits")
        assert (job.state(), job.restarts()) == ("RUNNING", 1)
    finally:
        (path / "let-go").touch()
    assert job.over() == "COMPLETED", job.story()
    assert f"(job {job.number})" in (path / "waits").read_text()
    code, said = json.loads((path / "former-said").read_text())
    assert (code, "was started again elsewhere and goes on there" in said) == (3, True), said
    assert job.restarts() == 1
    assert [(e["event"], e.get("restart")) for e in job.events()] == [
        ("submitted", None),
        ("launched", 0),
        ("launched", 1),
    ]
