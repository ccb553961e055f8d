from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from swamp_dist.config import SlurmCluster, StageSettings
from swamp_dist.data.manifest import load_manifest
from swamp_dist.launch.cluster import (
    batch_script,
    plan_stage,
    submit,
)
from swamp_dist.launch.estimate import estimate, step_seconds
from swamp_dist.launch.rundir import RunDir
from swamp_dist.records import UserError

GPUS = SlurmCluster(nodes=4, tasks_per_node=8, gpus_per_node=8, cpus_per_task=12, time_limit=1440)
CPUS = SlurmCluster(nodes=2, memory_gb=1.5, time_limit=20)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path, for programs that play SLURM; srun is there, so submitit finds a cluster."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    program(folder, "srun", "exit 1")
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def options(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}


def test_script_asks_for_what_the_cluster_file_says(tmp_path: Path) -> None:
    cluster = GPUS.model_copy(update={"partition": "gpu", "account": "us", "qos": "high", "constraint": "h100",
                                      "exclude": "gpu[07,12]", "sbatch": ("exclusive", "reservation=spring")})  # fmt: skip
    assert options(batch_script("a stage/b", cluster, RunDir(tmp_path))) == {
        "job-name=swamp-a-stage-b", "nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=12", "mem=0",
        "time=1440", "signal=USR2@120", "requeue", "open-mode=append", f"chdir={Path.cwd()}", "partition=gpu",
        "account=us", "qos=high", "constraint=h100", "exclude='gpu[07,12]'", "exclusive", "reservation=spring",
        f"output={tmp_path}/logs/slurm/%j_0_log.out", f"comment={tmp_path}",
    }  # fmt: skip


def test_what_is_not_asked_for_is_left_to_slurm(tmp_path: Path) -> None:
    named = {option.split("=")[0] for option in options(batch_script("s", CPUS, RunDir(tmp_path)))}
    assert not named & {"partition", "account", "qos", "constraint", "exclude", "gpus-per-node", "wckey"}
    assert "mem=1536M" in options(batch_script("s", CPUS, RunDir(tmp_path)))


def run_script(
    commands: Path, run_dir: RunDir, cluster: SlurmCluster, code: int, begins: int = 0
) -> list[str]:
    """Run the batch script with programs that play srun and Python; what they were called with."""
    log = commands / "log"
    program(commands, "srun", f'echo "srun $@" >> {log}; env > {commands}/env; exit {code}')
    program(commands, "python", f'echo "$@" >> {log}; case "$*" in *begin*) exit {begins};; esac')
    script = batch_script("s", cluster, run_dir).replace(os.sys.executable, str(commands / "python"))  # type: ignore[attr-defined]
    inherited = {"RANK": "0", "MASTER_ADDR": "x", "PYTHONDONTWRITEBYTECODE": "1", "PATH": os.environ["PATH"]}
    subprocess.run(["bash", "-c", script], env=inherited, check=True, cwd=commands)
    return log.read_text().splitlines()


def test_script_counts_starts_and_hands_over_how_the_ranks_ended(tmp_path: Path, commands: Path) -> None:
    folder = RunDir(tmp_path / "my run")
    calls = run_script(commands, folder, CPUS, code=137)
    assert calls[0] == f"-u -m swamp_dist.launch.attempt begin {folder.path}"
    assert calls[1].endswith(f"-u -m swamp_dist.launch.rank {folder.stage_yaml} {folder.path}")
    assert "--kill-on-bad-exit=0 --wait=15 --open-mode=append" in calls[1]
    assert calls[2] == f"-u -m swamp_dist.launch.attempt end {folder.path} 137"


def test_script_that_may_not_begin_starts_no_rank(tmp_path: Path, commands: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run_script(commands, RunDir(tmp_path), CPUS, code=0, begins=1)
    assert len((commands / "log").read_text().splitlines()) == 1


def test_ranks_inherit_no_other_world_and_get_what_they_need(tmp_path: Path, commands: Path) -> None:
    cluster = CPUS.model_copy(
        update={"setup": ("export LOADED=module",), "environment": {"A": "two words", "OMP_NUM_THREADS": "7"}}
    )
    run_script(commands, RunDir(tmp_path), cluster, code=0)
    seen = dict(line.split("=", 1) for line in (commands / "env").read_text().splitlines() if "=" in line)
    assert not seen.keys() & {"RANK", "MASTER_ADDR", "PYTHONDONTWRITEBYTECODE"}
    assert (seen["LOADED"], seen["A"], seen["OMP_NUM_THREADS"]) == ("module", "two words", "7")
    assert (seen["DS_ACCELERATOR"], seen["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]) == ("cpu", "1")


def test_ranks_on_gpus_are_not_told_to_use_the_cpu(tmp_path: Path, commands: Path) -> None:
    run_script(commands, RunDir(tmp_path), GPUS, code=0)
    assert "DS_ACCELERATOR" not in (commands / "env").read_text()


def test_submission_gives_the_script_of_the_dry_run_and_notes_the_job(tmp_path: Path, commands: Path) -> None:
    program(commands, "sbatch", f'cp "$1" {commands}/submitted; echo "Submitted batch job 41"')
    folder = RunDir(tmp_path / "run")
    folder.create()
    assert submit("s", CPUS, folder) == "41"
    assert (commands / "submitted").read_text() == batch_script("s", CPUS, folder)
    assert folder.read_events()[-1] | {"time": 0} == {
        "time": 0,
        "event": "submitted",
        "job": "41",
        "ranks": 2,
    }


def test_what_sbatch_says_is_passed_on(tmp_path: Path, commands: Path) -> None:
    program(commands, "sbatch", "echo 'sbatch: error: invalid partition specified: gup' >&2; exit 1")
    with pytest.raises(
        UserError, match="sbatch refused the job:\nsbatch: error: invalid partition specified: gup$"
    ):
        submit("s", CPUS, RunDir(tmp_path / "run"))


def test_without_slurm_a_submission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="srun is not on PATH"):
        submit("s", CPUS, RunDir(tmp_path / "run"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tasks_per_node": 4, "gpus_per_node": 8}, "a rank drives one GPU"),
        ({"time_limit": 2, "signal_seconds": 120}, "asked to save at once"),
        ({"sbatch": ("requeue",)}, "restarts rely on"),
        ({"sbatch": ("--exclusive",)}, "without leading dashes"),
    ],
)
def test_cluster_files_that_cannot_work_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SlurmCluster(**changes)  # type: ignore[arg-type]


def stage(shards: Path, **changes: object) -> StageSettings:
    data = {"shards": str(shards), "a": "a", "b": "b", "entries": 24}
    values = {"name": "s", "data": data, "train": {"epochs": 3}, "evaluate": [{"split": "test"}]} | changes
    return StageSettings.model_validate_json(json.dumps(values))


def test_plan_and_estimate(tiny_shards: Path, tmp_path: Path) -> None:
    settings, folder = stage(tiny_shards), RunDir(tmp_path)
    plan = plan_stage(settings, load_manifest(tiny_shards, None), 2)
    assert (plan.ranks, plan.local_pairs, plan.steps_per_epoch, plan.steps) == (2, 12, 8, 24)
    lines = dict(estimate(settings, CPUS, plan, folder))
    assert lines["ranks"] == "2 (2 nodes x 1, one a CPU)"
    assert lines["batch"] == "24 pairs, 12 a rank"
    assert lines["steps"] == "24 (3 epochs of 8)"
    assert "measured" not in lines
    folder.metrics_jsonl.write_text(
        '{"step": 1, "perf/step_seconds": 9}\n{"step": 2, "perf/step_seconds": 2.0, "perf/data_seconds": 0.5}\n{"st'
    )
    assert step_seconds(folder.metrics_jsonl) == 2.5
    assert dict(estimate(settings, CPUS, plan, folder))["measured"] == (
        "2.5 s a step in this folder so far: 60 s for all steps"
    )


def test_a_stage_that_only_evaluates_has_no_steps(tiny_shards: Path, tmp_path: Path) -> None:
    settings = stage(tiny_shards, train=None)
    plan = plan_stage(settings, load_manifest(tiny_shards, None), 2)
    assert dict(estimate(settings, CPUS, plan, RunDir(tmp_path)))["steps"] == "none: the stage only evaluates"
