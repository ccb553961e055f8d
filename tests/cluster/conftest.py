from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from tests.cluster.slurm import LONG, Job, slurm_is_up, start_slurm, submit
from tests.end_to_end.command import ROOT, write_job


@pytest.fixture(scope="session", autouse=True)
def cluster() -> Iterator[None]:
    """The SLURM of two nodes, for the time of the tests."""
    if os.geteuid() != 0 or not (shutil.which("slurmctld") or shutil.which("apt-get")):
        pytest.fail(
            "these tests start a SLURM: they need root, and slurmctld or apt-get (see tools/slurm/README.md)"
        )
    with FileLock(
        Path(tempfile.gettempdir()) / "swamp-slurm-tests.lock"
    ):  # one SLURM a host: sessions take turns
        found_up = slurm_is_up()
        if found_up:
            _refuse_unfit()
        try:
            start_slurm()
            yield
        finally:
            if not found_up:  # what somebody else started is not ours to stop
                subprocess.run([str(ROOT / "tools/slurm/stop.sh")], check=True, timeout=120)


def _refuse_unfit() -> None:
    """A SLURM of another size would be started anew, its jobs lost; one with jobs has no room."""
    sizes = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%N %c"], capture_output=True, text=True, timeout=30
    )
    jobs = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, timeout=30)
    if sizes.stdout.split() != ["n1", "2", "n2", "2"] or jobs.stdout.strip():
        pytest.fail(
            "a SLURM runs on this host that is not ours to use: expected n1 and n2 with 2 CPUs each and no "
            "jobs, found\n"
            f"{sizes.stdout}{jobs.stdout}End it with tools/slurm/stop.sh, or wait until its jobs are done."
        )


@pytest.fixture(scope="session")
def job_file(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_job(tmp_path_factory.mktemp("cluster"), tiny_shards)


@pytest.fixture(scope="session")
def uninterrupted(cluster: None, job_file: Path) -> Job:
    """The long stage on two nodes without any interruption: what all others are compared with."""
    job = submit(job_file, job_file.parent / "whole", *LONG)
    assert job.over() == "COMPLETED", job.story()
    return job
