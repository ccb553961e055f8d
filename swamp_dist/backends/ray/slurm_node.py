"""One node of a Ray inside a SLURM allocation, one task each.

`python -m swamp_dist.backends.ray.slurm_node STAGE_YAML RUN_DIR` on every node.

The first node's task starts the head of the Ray and runs the stage on it; the others join and stay until
the head has gone. Addresses and port are those that srun's own ranks would meet at (`environment.py`), the
key that keeps strangers out is the batch script's. No dashboard. Nothing of Ray outlives its task.
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

from swamp_dist.backends.protocols import SchedulerError
from swamp_dist.backends.rank_process import die_with_parent
from swamp_dist.backends.ray.resources import OBJECT_STORE_BYTES, RayUnready, listens
from swamp_dist.backends.ray.session import LOOPBACK_VARIABLES
from swamp_dist.backends.ray.worker import end_ranks
from swamp_dist.config import RayCluster, SlurmCluster
from swamp_dist.environment import (
    RankInfo,
    check_batch_mark,
    first_host,
    job_id,
    last_host,
    read_environment,
    step_nodes,
)
from swamp_dist.errors import ExitCode, UserError
from swamp_dist.loading import load
from swamp_dist.printable import log_lines_to, printable
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.processes import find_marked, send

logger = logging.getLogger(__name__)
_HEAD_SECONDS = 120.0
"""How long nodes wait for the head to answer: importing Ray from a shared file system takes a while."""
_JOIN_SECONDS = 180.0
_POLL_SECONDS = 1.0
_END_SECONDS = 5.0
_MARK = "SWAMP_RAY_NODE"
"""Variable by which a node's processes are known."""


def start_command(cluster: SlurmCluster, info: RankInfo, one_host: bool, folder: str) -> list[str]:
    """The command that starts this node's part of the Ray and stays until it ends.

    Args:
        info: of this task: rank 0 is the head, which listens at this port.
        one_host: all nodes are this machine: they speak over its loopback address.
        folder: for sockets and logs, this node's own; a short path, because sockets allow no long ones.
    """
    head = ["--head", f"--port={info.port}", "--include-dashboard=false", f"--temp-dir={folder}"]
    return [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats",
        *(head if info.rank == 0 else [f"--address={info.address}:{info.port}"]),
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
        for mark in find_marked(_MARK, token):
            send(mark, signal.SIGKILL)
        node.wait()


def _quiet() -> None:
    """SLURM signals all processes of a job; the signal before the time limit would end Ray."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    die_with_parent()


def _await_head(info: RankInfo, node: subprocess.Popen[bytes] | None, log: Path) -> None:
    """Wait until the head answers.

    Raises:
        TimeoutError: it does not, or its process has ended.
    """
    deadline = time.monotonic() + _HEAD_SECONDS
    while not listens(info.address, info.port):
        if time.monotonic() > deadline or (node is not None and node.poll() is not None):
            raise TimeoutError(f"no Ray answers at {info.address}:{info.port}; see {log}")
        time.sleep(_POLL_SECONDS)


def _lead(
    arguments: Sequence[str], cluster: SlurmCluster, info: RankInfo, log: Path, early: list[int]
) -> int:
    """The first node: a head, and the stage on it."""
    folder = tempfile.mkdtemp(prefix="swamp-ray-")
    _choose_interface(info)
    try:
        command = start_command(cluster, info, _one_host(info), folder)
        with _ray_node(command, log, Path(arguments[1]), cluster.peer_seconds) as node:
            _await_head(info, node, log)
            from swamp_dist.backends.ray.ray_train import run_on_ray

            there = inner_cluster(cluster, f"{_address(info)}:{info.port}")
            stage_yaml, run_dir = map(Path, arguments)
            return run_on_ray(stage_yaml, run_dir, there, report=_say, early=early, patience=_JOIN_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _choose_interface(info: RankInfo) -> None:
    """A Ray of one node is on the loopback interface; under that switch it would refuse a second node. To be
    called before ray is imported."""
    if info.world_size == 1:
        os.environ.update(LOOPBACK_VARIABLES)
    else:
        for name in LOOPBACK_VARIABLES:
            os.environ.pop(name, None)


def _join(run_dir: Path, cluster: SlurmCluster, info: RankInfo, log: Path) -> int:
    """Another node: part of the Ray for as long as its head is there."""
    _await_head(info, None, log)
    _choose_interface(info)
    command = start_command(cluster, info, _one_host(info), "")
    with _ray_node(command, log, run_dir, cluster.peer_seconds) as node:
        while node.poll() is None and listens(info.address, info.port):
            time.sleep(_POLL_SECONDS)
    return ExitCode.DONE


def _one_host(info: RankInfo) -> bool:
    """Whether all nodes of the step are this machine: the farthest one has a loopback address."""
    if info.world_size == 1:
        return True
    other = last_host(step_nodes()) if info.rank == 0 else first_host(step_nodes())
    return socket.gethostbyname(other).startswith("127.")


def _address(info: RankInfo) -> str:
    return "127.0.0.1" if _one_host(info) else info.address


def _say(text: str) -> None:
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """What srun starts on each node; the first one's exit code is the stage's."""
    early: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda received, _frame: early.append(received))
    given = sys.argv[1:] if arguments is None else arguments
    log_lines_to(None, logging.WARNING)
    run_dir = RunDir(Path(given[1]))
    run_dir.note_began(job_id())
    try:
        check_batch_mark()
        cluster, info = load(run_dir.cluster_yaml, SlurmCluster), read_environment()
        log = run_dir.logs / f"ray-node-{info.rank}.log"
        if info.rank == 0:
            return _lead(given, cluster, info, log, early)
        return _join(run_dir.path, cluster, info, log)
    except RayUnready as error:  # a node that joins too slowly is nobody's mistake: the job is requeued
        logger.error(f"not all nodes of the job joined its Ray within {_JOIN_SECONDS:.0f} s: {error}")
        return ExitCode.FAILED
    except UserError as error:
        logger.error(f"error: {error}")
        return ExitCode.USER_MISTAKE
    except (TimeoutError, SchedulerError) as error:
        logger.error(error)
        return ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
