from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swamp_dist.config import StageSettings
from swamp_dist.errors import RunDirHeld, UserError
from swamp_dist.loading import load
from swamp_dist.records import EvaluationResult, RetrievalMetrics, StageResult
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.holder import this_process
from tests.runs.written_runs import nobody_tells

HOLD = """
import sys, time
from pathlib import Path
from swamp_dist.runs.folder import RunDir
with RunDir(Path(sys.argv[1])).hold(lambda _: None):
    print("held", flush=True)
    time.sleep(60)
"""


def settings(**changes: object) -> StageSettings:
    return StageSettings.model_validate(
        {"name": "tiny", "data": {"shards": "x"}, "evaluate": [{"split": "test"}], **changes}
    )


def result(run_dir: Path) -> StageResult:
    metrics = RetrievalMetrics("a->b", "pair", 10.0, 20.0, 30.0, 4.5, 100, 100, precision_at={5: 1.5})
    evaluation = EvaluationResult("test", {"pair/a_to_b": metrics}, {})
    return StageResult("tiny", run_dir, run_dir / "weights.safetensors", 3, 5, (evaluation,), {"seed": 0})


def test_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunDirHeld) as error, RunDir(tmp_path).hold(nobody_tells):
            pass
        assert f"process {holder.pid} on {os.uname().nodename}" in str(error.value)
    finally:
        holder.kill()
        holder.wait()
    with RunDir(tmp_path).hold(
        nobody_tells
    ):  # the lock of a killed process is gone, though its side file stayed
        assert json.loads(RunDir(tmp_path).owner_json.read_text())["pid"] == os.getpid()
    assert not RunDir(tmp_path).owner_json.exists()


def test_hold_refuses_within_one_process_too(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    with folder.hold(nobody_tells), pytest.raises(RunDirHeld, match="by process"), folder.hold(nobody_tells):
        pass


def test_result_comes_back_equal(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    assert folder.read_result() is None
    folder.write_result(result(tmp_path))
    assert folder.done
    assert folder.read_result() == result(tmp_path)
    folder.result_json.write_text("{")
    with pytest.raises(UserError, match=r"result\.json"):
        folder.read_result()


def test_stage_yaml_is_written_and_updated(tmp_path: Path) -> None:
    folder = RunDir(tmp_path / "runs" / "x")
    folder.write_stage(settings())
    assert load(folder.stage_yaml, StageSettings) == settings()
    folder.write_stage(settings(seed=3))
    assert load(folder.stage_yaml, StageSettings).seed == 3


def test_events_are_lines_and_a_torn_one_is_left_out(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    assert folder.read_events() == []
    folder.append_event("started", world_size=2)
    folder.append_event("done")
    with folder.events_jsonl.open("a") as file:
        file.write('{"event": "hal')
    assert [e["event"] for e in folder.read_events()] == ["started", "done"]
    assert folder.read_events()[0]["world_size"] == 2


def test_a_file_in_the_way_is_a_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made"):
        RunDir(tmp_path / "file" / "run").create()


def test_names_are_those_of_the_documentation(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    names = [
        folder.stage_yaml, folder.result_json, folder.metrics_jsonl, folder.events_jsonl, folder.weights,
        folder.log(3), folder.checkpoints,
    ]  # fmt: skip
    assert [str(n.relative_to(tmp_path)) for n in names] == [
        "stage.yaml", "result.json", "metrics.jsonl", "events.jsonl", "weights.safetensors",
        "logs/rank-003.log", "checkpoints",
    ]  # fmt: skip


OWN_BOOT = json.dumps(this_process().boot)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"[1]",
        b'{"host": 1}',
        b'{"host": [], "boot": %s, "pid": "x", "job": "", "since": "", "token": ""}' % OWN_BOOT.encode(),
        b'{"host": "h", "boot": %s, "pid": 1, "job": "", "since": "", "token": "../x"}' % OWN_BOOT.encode(),
    ],
    ids=lambda content: str(content[:30]),
)
def test_a_damaged_owner_file_is_nobody(tmp_path: Path, content: bytes) -> None:
    run_dir = RunDir(tmp_path)
    run_dir.owner_json.write_bytes(content)
    run_dir.refuse_if_held(nobody_tells)
    with run_dir.hold(nobody_tells):
        assert run_dir.read_holder()["pid"] == os.getpid()
    assert isinstance(run_dir.read_holder(), dict)
