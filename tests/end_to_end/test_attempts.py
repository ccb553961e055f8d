"""A run that another attempt has taken over stops before it writes, and harms nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from swamp_dist.runs.holder import LockHolder, holder_file
from tests.end_to_end.command import committed, ended, refused, start, swamp, until, write_job

LONG = ("train.epochs=40", "train.checkpoint.every=16", "train.validate_on.every=10")
SUCCESSOR = LockHolder("gpu7", "another kernel", 4242, "", "2026-01-02 03:04:05+00:00", "theirs")


@pytest.mark.slow
def test_a_former_owner_stops_before_its_next_commit(tiny_shards: Path, tmp_path: Path) -> None:
    job, run_dir, console = write_job(tmp_path, tiny_shards), tmp_path / "run", tmp_path / "console"
    process = start("run", job, *LONG, "--ranks", 2, "--run-dir", run_dir, console=console)
    until(lambda: any((run_dir / "checkpoints").glob("step-*")), process, console)
    taken = tmp_path / "taken"
    taken.write_text(json.dumps(asdict(SUCCESSOR)))
    taken.rename(holder_file(run_dir))
    refused(ended(process, console), "is now held by process 4242 on gpu7", "before it writes", code=3)
    left = committed(run_dir)
    events = [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]
    names = [e["event"] for e in events]
    assert names[-1] == "superseded"
    assert not (run_dir / "result.json").exists()
    assert json.loads(holder_file(run_dir).read_text())["token"] == "theirs"

    holder_file(run_dir).unlink()  # the successor ends
    newest = max(int(name.split("/")[0].removeprefix("step-")) for name in left)
    done = swamp("run", job, *LONG, "--ranks", 2, "--run-dir", run_dir)
    assert done.code == 0, done.said
    assert f"step-{newest}" in done.said.split("continuing from")[1]
