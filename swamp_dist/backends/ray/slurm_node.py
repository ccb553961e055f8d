"""One node of a Ray inside a SLURM allocation: `python -m swamp_dist.launch.ray_node STAGE_YAML RUN_DIR`, one task each.

The first node's task starts the head of the Ray and runs the stage on it; the others join and stay until the head has
gone. Addresses and port are those that srun's own ranks would meet at (`environment.py`), the key that keeps
strangers out is the batch script's. No dashboard. Nothing of Ray outlives its task.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

from swamp_dist.config import RayCluster, SlurmCluster
from swamp_dist.environment import Place, read_environment
from swamp_dist.launch.local import ExitCode, die_with_parent
from swamp_dist.launch.processes import marked, send
from swamp_dist.launch.ray_rank import end_ranks
from swamp_dist.launch.ray_size import OBJECT_STORE_BYTES, RayUnready, listens
from swamp_dist.launch.rundir import RunDir
from swamp_dist.loading import load
from swamp_dist.records import UserError

logger = logging.getLogger(__name__)
_HEAD_SECONDS = 120.0
"""How long nodes wait for the head to answer: importing Ray from a shared file system takes a while."""
_JOIN_SECONDS = 180.0
_POLL_SECONDS = 1.0
_END_SECONDS = 5.0
_MARK = "SWAMP_RAY_NODE"
"""Variable by which a node's processes are known."""


def start_command(cluster: SlurmCluster, place: Place, one_host: bool, folder: str) -> list[str]:
    """The command that starts this node's part of the Ray and stays until it ends.

    Args:
        place: of this task: rank 0 is the head, which listens at the place's port.
        one_host: all nodes are this machine: on the loopback interface, where nobody else hears it.
        folder: for sockets and logs, this node's own; a short path, because sockets allow no long ones.
    """
    head = ["--head", f"--port={place.port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
        *(head if place.rank == 0 else [f"--address={place.address}:{place.port}"]),
        f"--num-cpus={cluster.tasks_per_node * cluster.cpus_per_task}", f"--num-gpus={cluster.gpus_per_node}",
        f"--object-store-memory={OBJECT_STORE_BYTES}",
        # of the system's choice: two nodes of one host, or two jobs of one node, would claim the same ones
        "--min-worker-port=0", "--max-worker-port=0",
        *(["--node-ip-address=127.0.0.1"] if one_host else []),
    ]  # fmt: skip


def inner_cluster(cluster: SlurmCluster, address: str) -> RayCluster:
    """The Ray of an allocation as the settings of a Ray."""
    return RayCluster(
        address=address,
        workers=cluster.world_size,
        gpus_per_worker=int(cluster.on_gpu),
        cpus_per_worker=cluster.cpus_per_task,
        max_restarts=cluster.max_restarts,
        peer_seconds=cluster.peer_seconds,
    )


@contextlib.contextmanager
def _ray_node(
    command: Sequence[str], log: Path, run_dir: Path, seconds: float
) -> Iterator[subprocess.Popen[bytes]]:
    """This node's part of the Ray inside the block; nothing of it is left afterwards.

    `seconds`: ranks that still save get so long before they are killed.
    """
    token = uuid.uuid4().hex
    with log.open("ab") as out:
        node = subprocess.Popen(
            command,
            env={**os.environ, _MARK: token},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=_quiet,
        )
    try:
        yield node
    finally:
        node.terminate()
        deadline = time.monotonic() + _END_SECONDS
        # Without its head a part of Ray takes up to a minute to end by itself.
        while node.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS / 10)
        node.kill()
        end_ranks(run_dir, seconds)
        for mark in marked(_MARK, token):
            send(mark, signal.SIGKILL)
        node.wait()


def _quiet() -> None:
    """SLURM signals all processes of a job; the one before the time limit is for the ranks, and would end Ray."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    die_with_parent()


def _await_head(place: Place, node: subprocess.Popen[bytes] | None, log: Path) -> None:
    """Wait until the head answers.

    Raises:
        TimeoutError: it does not, or its process has ended.
    """
    deadline = time.monotonic() + _HEAD_SECONDS
    while not listens(place.address, place.port):
        if time.monotonic() > deadline or (node is not None and node.poll() is not None):
            raise TimeoutError(f"no Ray answers at {place.address}:{place.port}; see {log}")
        time.sleep(_POLL_SECONDS)


def _lead(arguments: Sequence[str], cluster: SlurmCluster, place: Place, log: Path, early: list[int]) -> int:
    """The first node: a head, and the stage on it."""
    folder = tempfile.mkdtemp(prefix="swamp-ray-")
    try:
        command = start_command(cluster, place, _one_host(place), folder)
        with _ray_node(command, log, Path(arguments[1]), cluster.peer_seconds) as node:
            _await_head(place, node, log)
            from swamp_dist.launch.ray_cluster import run_on_ray

            there = inner_cluster(cluster, f"{_address(place)}:{place.port}")
            stage_yaml, run_dir = map(Path, arguments)
            return run_on_ray(stage_yaml, run_dir, there, report=_say, early=early, patience=_JOIN_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _join(run_dir: Path, cluster: SlurmCluster, place: Place, log: Path) -> int:
    """Another node: part of the Ray for as long as its head is there."""
    _await_head(place, None, log)
    command = start_command(cluster, place, _one_host(place), "")
    with _ray_node(command, log, run_dir, cluster.peer_seconds) as node:
        while node.poll() is None and listens(place.address, place.port):
            time.sleep(_POLL_SECONDS)
    return ExitCode.DONE


def _one_host(place: Place) -> bool:
    """Whether all nodes of the step are this machine: the one farthest from this task has a loopback address."""
    if place.world_size == 1:
        return True
    nodes = os.environ["SLURM_STEP_NODELIST"]
    shown = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True
    )
    names = shown.stdout.split()
    return socket.gethostbyname(names[-1] if place.rank == 0 else names[0]).startswith("127.")


def _address(place: Place) -> str:
    return "127.0.0.1" if _one_host(place) else place.address


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """What srun starts on each node; the first one's exit code is the stage's."""
    early: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: early.append(received))
    given = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    run_dir = RunDir(Path(given[1]))
    try:
        cluster, place = load(run_dir.cluster_yaml, SlurmCluster), read_environment()
        log = run_dir.logs / f"ray-node-{place.rank}.log"
        if place.rank == 0:
            return _lead(given, cluster, place, log, early)
        return _join(run_dir.path, cluster, place, log)
    except RayUnready as error:  # a node that joins too slowly is nobody's mistake: the job is requeued
        logger.error(f"not all nodes of the job joined its Ray within {_JOIN_SECONDS:.0f} s: {error}")
        return ExitCode.FAILED
    except UserError as error:
        logger.error(f"error: {error}")
        return ExitCode.USER_MISTAKE
    except TimeoutError as error:
        logger.error(error)
        return ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
