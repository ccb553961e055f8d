"""What a cluster file asks for, as sbatch is told; pairs that sbatch refuses are refused before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from swamp_dist.backends.slurm.backend import SlurmBackend
from swamp_dist.backends.slurm.batch_script import batch_script, command_script
from swamp_dist.backends.slurm.commands import ask
from swamp_dist.backends.slurm.queue import jobs
from swamp_dist.config import SlurmCluster
from swamp_dist.errors import UserError
from swamp_dist.runs.folder import RunDir
from tests.backends.slurm.test_script_text import asked
from tests.runs.written_runs import calls, fake_command, write

GPUS: dict[str, Any] = {"nodes": 2, "tasks_per_node": 4, "gpus_per_node": 4, "cpus_per_task": 8}
RESOURCES = ("mem", "mem-per-cpu", "mem-per-gpu", "gpus-per-node", "gpus-per-task", "gres", "ntasks")


def resources(**more: Any) -> dict[str, str | None]:
    found = asked(batch_script("s", SlurmCluster(**{**GPUS, **more}), RunDir(Path("run"))))
    return {name: found[name] for name in RESOURCES if name in found}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, {"mem": "0", "gpus-per-node": "4"}),
        ({"memory_gb": 1.5}, {"mem": "1536M", "gpus-per-node": "4"}),
        ({"memory_per": "cpu", "memory_gb": 2}, {"mem-per-cpu": "2048M", "gpus-per-node": "4"}),
        ({"memory_per": "gpu", "memory_gb": 60}, {"mem-per-gpu": "61440M", "gpus-per-node": "4"}),
        ({"memory_per": "none"}, {"gpus-per-node": "4"}),
        ({"memory_per": "none", "gpu_type": "h100"}, {"gpus-per-node": "h100:4"}),
        ({"memory_per": "none", "gpus_by": "gres", "gpu_type": "a100"}, {"gres": "gpu:a100:4"}),
        ({"memory_per": "none", "gpus_by": "gres"}, {"gres": "gpu:4"}),
        ({"memory_per": "none", "gpus_by": "task", "gpu_type": "h100"},
         {"gpus-per-task": "h100:1", "ntasks": "8"}),
        ({"memory_per": "none", "gpus_by": "task", "launcher": "ray"}, {"gpus-per-task": "4", "ntasks": "2"}),
    ],
)  # fmt: skip
def test_memory_and_gpus_in_the_words_of_a_site(said: dict[str, Any], expected: dict[str, str]) -> None:
    assert resources(**said) == expected


def test_what_sites_charge_and_reserve_by() -> None:
    said = {"account": "a", "qos": "q", "reservation": "r", "licenses": "fs1:2", "constraint": "h100&ib"}
    found = asked(batch_script("s", SlurmCluster(**said, cluster="big"), RunDir(Path("run"))))  # type: ignore[arg-type]
    assert said.items() <= found.items()
    assert found["clusters"] == "big"


def test_a_command_without_gpus_asks_for_no_memory_by_gpu() -> None:
    by_gpu = SlurmCluster(**GPUS, memory_per="gpu", memory_gb=60)
    found = asked(command_script("c", ["true"], by_gpu, RunDir(Path("set"))))
    assert not set(found) & set(RESOURCES)
    by_cpu = SlurmCluster(**GPUS, memory_per="cpu", memory_gb=2)
    assert asked(command_script("c", ["true"], by_cpu, RunDir(Path("set"))))["mem-per-cpu"] == "2048M"


@pytest.mark.parametrize(
    ("said", "fix"),
    [
        ({"memory_per": "none", "memory_gb": 4}, "give memory_gb: null"),
        ({"memory_per": "cpu"}, "needs a memory_gb: the GiB of one CPU"),
        ({"memory_per": "gpu", "memory_gb": 4}, "give memory_per: cpu or node"),
        ({"gpu_type": "h100"}, "give it, or no gpu_type"),
        ({"sbatch": ("mem-per-cpu=2G",)}, "have a setting here"),
        ({"sbatch": ("gpus-per-task=1",)}, "have a setting here"),
        ({"sbatch": ("cpus-per-gpu=4",)}, "have a setting here"),
        ({"sbatch": ("gres=gpu:2",)}, "gpus_by: gres"),
        ({"sbatch": ("reservation=a",), "reservation": "b"}, "leave one of them"),
        ({"sbatch": ("nice=1", "nice=2")}, "given twice"),
        ({"sbatch": ("ntasks-per-gpu=1",)}, "have a setting here"),
        ({"sbatch": ("core-spec=1", "thread-spec=1")}, "leave one of them out"),
        ({"sbatch": ("nodelist=n1,n2",), "exclude": "n2,n3"}, "both name n2"),
    ],
)
def test_what_sbatch_would_refuse_is_refused_with_the_fix(said: dict[str, Any], fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        SlurmCluster(**said)


def test_older_cluster_files_still_say_it_among_the_options() -> None:
    found = asked(
        batch_script(
            "s", SlurmCluster(sbatch=("reservation=spring", "gres=nvme:1", "exclusive")), RunDir(Path("run"))
        )
    )
    assert (found["reservation"], found["gres"], found["exclusive"]) == ("spring", "nvme:1", None)


def test_more_parts_than_an_array_may_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = tmp_path / "bin"
    for name in ("srun", "squeue"):
        fake_command(commands, name, "")
    fake_command(commands, "sbatch", "echo 41")
    fake_command(commands, "scontrol", "echo 'MaxArraySize            = 1001'; [ $2 = config ]")
    monkeypatch.setenv("PATH", f"{commands}:/usr/bin:/bin")
    backend, folder = SlurmBackend(SlurmCluster()), write(tmp_path / "set.jobs")
    with pytest.raises(
        UserError, match=r"(?s)--parts 1002: .*at most 1001 tasks \(MaxArraySize.*--parts 1001"
    ):
        backend.submit_parts("c", ["true"], folder, 1002)
    assert calls(commands, "sbatch") == []
    fake_command(commands, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert backend.submit_parts("c", ["true"], folder, 1002) == "41"  # nobody tells: sbatch has the last word


def test_commands_are_found_beside_srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On compute nodes srun is a link on PATH and the others are not."""
    real = tmp_path / "opt"
    for name, said in {"srun": "", "squeue": "echo '7|RUNNING|0:10|None|/x'", "scontrol": "echo y"}.items():
        fake_command(real, name, said)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").symlink_to(real / "srun")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}")
    assert jobs(["7"])["7"].phase == "running"
    assert ask("scontrol", "show").stdout == "y\n"
