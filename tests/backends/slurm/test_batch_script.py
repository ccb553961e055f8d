from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from swamp_dist.backends.jobs import submit_stage
from swamp_dist.backends.protocols import StageRef
from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.backends.slurm.batch_script import batch_script
from swamp_dist.backends.slurm.submit import submit
from swamp_dist.config import SlurmCluster, StageSettings
from swamp_dist.costs.estimate import estimate, step_seconds
from swamp_dist.environment import BATCH_MARK
from swamp_dist.errors import UserError
from swamp_dist.monitor.status import look
from swamp_dist.runs.folder import RunDir
from swamp_dist.stage.resolve import resolve

GPUS = SlurmCluster(nodes=4, tasks_per_node=8, gpus_per_node=8, cpus_per_task=12, time_limit=1440)
CPUS = SlurmCluster(nodes=2, memory_gb=1.5, time_limit=20)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path, for programs that play SLURM; with srun, so submitit finds a cluster."""
    folder = tmp_path / "commands"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for name in ("srun", "scancel", "sinfo"):  # all that a test may come to ask: never the machine's own
        program(folder, name, "exit 1")
    program(folder, "squeue", "exit 0")
    program(folder, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    return folder


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def options(script: str) -> set[str]:
    return {line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH")}


def test_script_asks_for_what_the_cluster_file_says(tmp_path: Path) -> None:
    asked = {
        "partition": "gpu", "account": "us", "qos": "high", "constraint": "h100", "exclude": "gpu[07,12]",
        "sbatch": ("exclusive", "reservation=spring"),
    }  # fmt: skip
    cluster = GPUS.model_copy(update=asked)
    assert options(batch_script("a stage/b", cluster, RunDir(tmp_path))) == {
        f"job-name=swamp-a-stage-b-{tmp_path.name}", "nodes=4", "ntasks-per-node=8",
        "gpus-per-node=8", "cpus-per-task=12",
        "mem=0",
        "time=1440", "signal=USR2@120", "requeue", "open-mode=append", f"chdir={Path.cwd()}", "partition=gpu",
        "account=us", "qos=high", "constraint=h100", "exclude='gpu[07,12]'", "exclusive",
        "reservation=spring",
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
    inherited["SLURM_JOB_ID"] = "7"
    subprocess.run(["bash", "-c", script], env=inherited, check=True, cwd=commands)
    return log.read_text().splitlines()


def test_script_counts_starts_and_hands_over_how_the_ranks_ended(tmp_path: Path, commands: Path) -> None:
    folder = RunDir(tmp_path / "my run")
    calls = run_script(commands, folder, CPUS, code=137)
    assert calls[0] == f"-u -m swamp_dist.backends.slurm.restart begin {folder.path}"
    assert calls[1].endswith(f"-u -m swamp_dist.backends.rank {folder.stage_yaml} {folder.path}")
    assert {"--open-mode=append", "--kill-on-bad-exit=0", "--wait=15"} <= set(calls[1].split())
    assert calls[2] == f"-u -m swamp_dist.backends.slurm.restart end {folder.path} 137"


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


def test_srun_hands_on_what_the_script_sets_though_the_shell_exports_nothing(
    tmp_path: Path, commands: Path
) -> None:
    cluster = CPUS.model_copy(update={"launcher": "ray", "setup": ("export SLURM_EXPORT_ENV=NONE",)})
    calls = run_script(commands, RunDir(tmp_path), cluster, code=0)
    assert "--export=ALL" in next(call for call in calls if call.startswith("srun")).split()
    seen = (commands / "env").read_text()
    assert f"{BATCH_MARK}=7\n" in seen
    assert "RAY_AUTH_TOKEN=" in seen


def test_ranks_on_gpus_are_not_told_to_use_the_cpu(tmp_path: Path, commands: Path) -> None:
    run_script(commands, RunDir(tmp_path), GPUS, code=0)
    assert "DS_ACCELERATOR" not in (commands / "env").read_text()


def test_submission_gives_the_script_of_the_dry_run_and_notes_the_job(tmp_path: Path, commands: Path) -> None:
    program(commands, "sbatch", f'cp "$2" {commands}/submitted; echo 41')
    folder = RunDir(tmp_path / "run")
    folder.create()
    assert submit_stage(SlurmBackend(CPUS), StageRef("s", folder)) == "41"
    assert (commands / "submitted").read_text() == batch_script("s", CPUS, folder)
    assert folder.read_events()[-1] | {"time": 0} == {
        "time": 0,
        "event": "submitted",
        "job": "41",
        "ranks": 2,
        "owner": str(folder.path),
    }


def test_what_sbatch_says_is_passed_on_once_and_the_run_does_not_look_as_if_it_waited(
    tmp_path: Path, commands: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    program(commands, "sbatch", "echo 'sbatch: error: invalid partition specified: gup' >&2; exit 1")
    program(commands, "sinfo", "echo gpu; echo cpu")
    folder = RunDir(tmp_path / "run")
    folder.create()
    folder.stage_yaml.write_text("name: s\n")
    said = (
        "sbatch refused the job:\nsbatch: error: invalid partition specified: gup\n"
        "Fix: change partition in the cluster file. This cluster has: gpu; cpu"
    )
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        submit_stage(SlurmBackend(CPUS), StageRef("s", folder))
    assert capfd.readouterr() == ("", "")
    status = look(folder)
    assert status.state == "failed"
    assert "Fix: change partition" in status.reason
    program(commands, "sbatch", "echo 41")
    assert submit_stage(SlurmBackend(CPUS), StageRef("s", folder)) == "41"


@pytest.mark.parametrize(
    ("name", "folder", "job"),
    [
        ("tiny", "runs/tiny", "swamp-tiny"),
        ("tiny", "runs/mine", "swamp-tiny-mine"),
        ("tiny", "runs/rates/seed-1/lr-0.001", "swamp-tiny-rates-seed-1-lr-0.001"),
        ("tiny", "runs/rates/seed-2/lr-0.001", "swamp-tiny-rates-seed-2-lr-0.001"),
        ("fine tune", "runs/graph/fine@0", "swamp-fine-tune-graph-fine-0"),
    ],
)
def test_jobs_of_stages_and_seeds_have_names_of_their_own(
    tmp_path: Path, name: str, folder: str, job: str
) -> None:
    assert f"job-name={job}" in options(batch_script(name, CPUS, RunDir(tmp_path / folder)))


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
    resolved = resolve(settings, folder, 2)
    training = resolved.training
    assert training is not None
    assert (training.batches.local_pairs, training.steps_per_epoch, training.total_steps) == (12, 8, 24)
    lines = dict(estimate(resolved, CPUS, folder))
    assert lines["ranks"] == "2 (2 nodes x 1, one per CPU)"
    assert lines["batch"] == "24 pairs, 12 per rank"
    assert lines["steps"] == "24 (3 epochs of 8)"
    assert "measured" not in lines
    folder.metrics_jsonl.write_text(
        '{"step": 1, "perf/step_seconds": 9}\n{"step": 2, "perf/step_seconds": 2.0, "perf/data_seconds": '
        '0.5}\n{"st'
    )
    assert step_seconds(folder.metrics_jsonl) == 2.5
    assert dict(estimate(resolved, CPUS, folder))["measured"] == (
        "2.5 s per step in this folder so far: 60 s for all steps"
    )


def test_a_stage_that_only_evaluates_has_no_steps(tiny_shards: Path, tmp_path: Path) -> None:
    settings = stage(tiny_shards, train=None, random_weights=True)
    resolved = resolve(settings, RunDir(tmp_path), 2)
    assert dict(estimate(resolved, CPUS, RunDir(tmp_path)))["steps"] == "none: the stage only evaluates"
