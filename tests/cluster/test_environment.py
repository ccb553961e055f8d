"""On a real SLURM: the shell that submits changes nothing that the cluster file says, and its variables reach
the ranks only where it lets them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.played import played
from tests.cluster.slurm import slurm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]
SAYS = {
    "partition": "main",
    "environment": {"OF_THE_FILE": "two words, a 'quote' and $HOME"},
    "setup": ["export OF_THE_SETUP=$((6 * 7))"],
}
OVERRULES = {
    "SBATCH_TIMELIMIT": "1",
    "SBATCH_MEM_PER_NODE": "77",
    "SBATCH_NO_REQUEUE": "1",
    "SBATCH_SIGNAL": "KILL@5",
    "SBATCH_OUTPUT": "/dev/null",
    "SBATCH_JOB_NAME": "other",
    "SBATCH_PARTITION": "nowhere",
    "SBATCH_EXCLUSIVE": "user",
    "SBATCH_OPEN_MODE": "t",
    "SRUN_CPUS_PER_TASK": "2",
    "SLURM_KILL_BAD_EXIT": "1",
    "SLURM_MPI_TYPE": "none-such",
    "SLURM_EXPORT_ENV": "NONE",
    "SLURM_NNODES": "9",
    "SLURM_GRES": "gpu:1",
    "RANK": "5",
    "WORLD_SIZE": "7",
}
"""Variables that sbatch, srun or the ranks would follow."""


WORDS = " ".join(f"export {name}={value};" for name, value in OVERRULES.items())
IN_A_STEP = (
    "salloc", "--nodes=1", "--ntasks=1", "--mem=100M", "--time=5", "--job-name=outer",
    "srun", "--ntasks=1", "bash", "-c", f'{WORDS} exec "$@"', "bash",
)  # fmt: skip
IN_A_JOB = (
    "sh", "-c",
    "sbatch --wait --nodes=1 --ntasks=1 --time=5 --job-name=outer --output=$OUTER "
    f'--wrap="{WORDS} $*" >&2; cat $OUTER', "sh",
)  # fmt: skip


@pytest.mark.parametrize(
    ("around", "memory", "shown"),
    [
        (IN_A_STEP, {"memory_per": "none", "memory_gb": None}, "MinMemoryNode=0"),
        (IN_A_JOB, {"memory_per": "cpu", "memory_gb": 0.5}, "MinMemoryCPU=512M"),
    ],
    ids=["step of salloc", "batch job"],
)
def test_an_allocation_around_the_shell_stays_out_of_the_job(
    tmp_path: Path, around: tuple[str, ...], memory: dict[str, object], shown: str
) -> None:
    stage = played(tmp_path / "run", settings=SAYS | memory)
    job = stage.submit_by(*around, OF_THE_SHELL="yes", OUTER=str(tmp_path / "outer"))
    assert job.over() == "COMPLETED", job.story()
    told = set(slurm("scontrol", "--oneliner", "show", "job", job.number).split())
    asked_for = {"TimeLimit=00:30:00", "Requeue=1", "Restarts=0", "NumNodes=2", "NumTasks=2", "NumCPUs=2"}
    asked_for |= {"JobName=swamp-played-run", "Partition=main", "NodeList=n[1-2]", shown}
    asked_for |= {f"StdOut={job.run_dir}/logs/slurm/{job.number}_0_log.out"}
    assert asked_for <= told, (asked_for - told, job.story())
    for rank, node in enumerate(("n1", "n2")):
        seen = stage.variables(rank)
        assert (seen["SLURM_JOB_ID"], seen["SLURMD_NODENAME"]) == (job.number, node)
        assert seen["OF_THE_FILE"] == SAYS["environment"]["OF_THE_FILE"]  # type: ignore[index]
        assert (seen["OF_THE_SETUP"], seen["OF_THE_SHELL"]) == ("42", "yes")
        left = {k for k, v in OVERRULES.items() if seen.get(k) == v and k != "SLURM_KILL_BAD_EXIT"}
        assert left == set(), left
        assert seen["SLURM_JOB_NAME"] == "swamp-played-run"


def test_what_the_cluster_file_sets_reaches_ranks_of_a_shell_that_exports_nothing(tmp_path: Path) -> None:
    stage = played(tmp_path / "run", settings=SAYS)
    job = stage.submit_by(SBATCH_EXPORT="NONE", OF_THE_SHELL="yes")
    assert job.over() == "COMPLETED", job.story()
    for rank in (0, 1):
        seen = stage.variables(rank)
        assert seen["OF_THE_FILE"] == SAYS["environment"]["OF_THE_FILE"]  # type: ignore[index]
        assert (seen["OF_THE_SETUP"], seen.get("OF_THE_SHELL")) == ("42", None)
        assert seen["DS_ACCELERATOR"] == "cpu"
