"""Runs a stage on Ray Train workers and starts its ranks again from our own commits when one fails.

Ray Train places the workers, watches them and restarts the group; what a stage is stays with `launch/rank.py`, which each
worker starts as a child (`ray_rank.py` says why). The trainer is Ray Train's plain data-parallel one: TorchTrainer
would make a process group and, on GPUs, a CUDA context in every worker beside those of its rank. Checkpoints of
Ray are not used: a start reads the newest commit, and result.json says that the stage is done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from swamp_dist.config import RayCluster
from swamp_dist.environment import Place
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.ray_outcome import first_line, judged
from swamp_dist.launch.ray_post import Console, News, Post, heard
from swamp_dist.launch.ray_rank import (
    RETURNED,
    STOPPED_FOR,
    RankOrder,
    end_ranks,
    make_order,
    opening,
    run_rank,
)
from swamp_dist.launch.ray_size import (
    RayUnready,
    check_answers,
    no_ray_at,
    own_size,
    shortage,
    wanted_address,
)
from swamp_dist.launch.rundir import RunDir

_LAST_WORDS_SECONDS = 1.0
"""A crash reaches its peers within milliseconds: so long a worker waits to hear which rank began it."""
_LOOK_SECONDS = 0.2
_LEAVE_SECONDS = 15.0


class _SharedGpus(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True


class _RanksBackend(BackendConfig):  # type: ignore[misc]
    """No process group in the workers; all workers of a node see all their GPUs, as the ranks of a node do elsewhere."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _SharedGpus


class _Fit(threading.Thread):
    """The trainer's thread: `fit` blocks, and the driver's main thread has signals to hear."""

    def __init__(self, trainer: DataParallelTrainer) -> None:
        super().__init__(name="Ray Train", daemon=True)
        self._trainer = trainer
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:  # judged by the main thread
            self.error = error


def run_on_ray(
    stage_yaml: Path,
    run_dir: Path,
    cluster: RayCluster,
    *,
    report: Callable[[str], None],
    early: list[int] | None = None,
    patience: float = 60.0,
) -> int:
    """Run a stage on the workers of a Ray until it has ended; the exit code, as `run_ranks`.

    Args:
        report: where rank 0's console and messages to the user go.
        early: signals that came before; the list goes on being read.
        patience: seconds to wait for a Ray with enough CPUs and GPUs.

    Signals are passed on to the ranks, which save and stop: code REQUEUE. A second SIGINT kills them: INTERRUPTED.

    Raises:
        RayUnready: no Ray at the address, or it stays too small.
    """
    folder = RunDir(run_dir)
    if folder.done:
        report(f"{run_dir} is done already ({folder.result_json} is there): nothing to run")
        return ExitCode.DONE
    folder.create()
    began = time.time()
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(heard(early if early is not None else []))
        storage = stack.enter_context(_ray(cluster, folder))
        stack.enter_context(
            heard(seen)
        )  # again: ray.init puts its own handler of SIGTERM in place, which aborts
        _await_resources(cluster, patience, seen)
        if seen:
            report("stopped before the ranks were ready; nothing was begun")
            return ExitCode.REQUEUE
        order = make_order(stage_yaml, run_dir, cluster)
        news, error = _fitted(order, cluster, storage, seen, report)
        if news.signals and error:
            end_ranks(
                order.folder.path, order.peer_seconds
            )  # Ray was ended by the same signal: the ranks here still save
    return judged(folder, news, error, began, report)


def _fitted(
    order: RankOrder, cluster: RayCluster, storage: str, seen: list[int], report: Callable[[str], None]
) -> tuple[News, str]:
    """Run the trainer to its end; the last news, and Ray's words where it gave up."""
    post = _here(ray.remote(Post)).remote()
    fit = _Fit(_trainer(order, cluster, post, storage))
    news = _follow(fit, post, seen, order.folder, report)
    return news, first_line(fit.error)


def _trainer(order: RankOrder, cluster: RayCluster, post: Any, storage: str) -> DataParallelTrainer:
    resources = {"CPU": float(cluster.cpus_per_worker)} | ({"GPU": 1.0} if cluster.on_gpu else {})
    return DataParallelTrainer(
        work,
        train_loop_config={"order": order, "post": post},
        backend_config=_RanksBackend(),
        scaling_config=ScalingConfig(
            num_workers=cluster.workers, use_gpu=cluster.on_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="stage",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )


def _follow(
    thread: threading.Thread, post: Any, seen: list[int], folder: RunDir, report: Callable[[str], None]
) -> News:
    """Pass signals on and rank 0's console through until the trainer has ended; the last news."""
    console, passed, leave = Console(folder.console_log), 0, float("inf")
    thread.start()
    while thread.is_alive() and time.monotonic() < leave:
        thread.join(_LOOK_SECONDS)
        console.pass_on(report)
        for number in seen[passed:]:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(post.tell.remote(number))
                if seen.count(signal.SIGINT) > 1 or not ray.get(post.begun.remote()):
                    leave = min(leave, time.monotonic() + _LEAVE_SECONDS)
        passed = len(seen)
    console.pass_on(report)
    try:
        last: News = ray.get(post.news.remote(), timeout=10)
    except ray.exceptions.RayError:  # Ray itself was lost
        return News(signals=tuple(seen))
    return last


def work(config: Mapping[str, Any]) -> None:
    """What Ray Train runs on each worker: one start of one rank.

    Raises:
        RuntimeError: the rank failed; Ray starts all of them again.
    """
    from ray import train
    from ray.train.collective import barrier, broadcast_from_rank_zero

    order, post, context = config["order"], config["post"], train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    end_ranks(order.folder.path, order.peer_seconds)
    barrier()  # nobody starts a rank while another looks for old ones
    first = _meeting(order, post, size) if rank == 0 else None
    code, address, port = broadcast_from_rank_zero(first)
    if code is not None:
        return
    place = Place(rank, size, context.get_local_rank(), address, port, "torch")
    ending = run_rank(order, place, _Ear(post))
    ray.get(post.ended.remote(ending))
    if ending.code in RETURNED:
        return
    time.sleep(_LAST_WORDS_SECONDS)
    news = ray.get(post.news.remote())
    if not news.signals and not any(e.code in STOPPED_FOR for e in news.endings):
        raise RuntimeError(ending.said)


def _meeting(order: RankOrder, post: Any, size: int) -> tuple[int | None, str, int]:
    """Whether the ranks start, and where they meet: a free port of rank 0's machine."""
    code = opening(order, ray.get(post.news.remote()))
    if code is None:
        ray.get(post.begin.remote())
    address = ray.util.get_node_ip_address()
    with socket.socket() as sock:
        sock.bind(("", 0))
        return (None if code is None else int(code)), address, int(sock.getsockname()[1])


class _Ear:
    """Waits for news of the post with one question under way at a time."""

    def __init__(self, post: Any) -> None:
        self._post, self._known = post, News()
        self._asked = post.hear.remote(self._known)

    def __call__(self, seconds: float) -> News:
        ready, _ = ray.wait([self._asked], timeout=seconds)
        if ready:
            self._known = ray.get(self._asked)
            self._asked = self._post.hear.remote(self._known)
        return self._known


@contextlib.contextmanager
def _ray(cluster: RayCluster, folder: RunDir) -> Iterator[str]:
    """Be connected to the Ray of the settings inside the block; yields a folder that Ray Train may write to.

    That one lies in the run folder, which all nodes see, and is gone afterwards.

    Raises:
        RayUnready: no Ray answers at the address.
    """
    address = wanted_address(cluster)
    if address:
        check_answers(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # A worker that ends would kill its children at once; a rank hears of its end by SIGTERM, and saves.
    os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    scratch = tempfile.mkdtemp(prefix="swamp-ray-")  # short: sockets allow no long paths
    storage = tempfile.mkdtemp(prefix=".ray-", dir=folder.path.resolve())
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's switch for loopback
            os.environ.setdefault(
                "RAY_memory_monitor_refresh_ms", "0"
            )  # workers only wait: ending them frees nothing
            ray.init(address="local", _temp_dir=scratch, **own_size(cluster), **quiet)
        yield storage
    except ConnectionError:
        raise RayUnready(no_ray_at(address or "this machine")) from None
    finally:
        ray.shutdown()
        for path in (scratch, storage):
            shutil.rmtree(path, ignore_errors=True)


def _await_resources(cluster: RayCluster, patience: float, seen: list[int]) -> None:
    """Wait until the Ray has room for all workers; Ray Train itself would wait for ever.

    Raises:
        RayUnready: it has not, for so many seconds.
    """
    deadline = time.monotonic() + (patience if wanted_address(cluster) else 0.0)
    while not seen:
        said = shortage(cluster, ray.cluster_resources())
        if not said:
            return
        if time.monotonic() > deadline:
            raise RayUnready(said)
        time.sleep(_LOOK_SECONDS)


def _here(actor: Any) -> Any:
    """An actor that lives and dies with the driver's machine and takes no CPU from the workers."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return actor.options(num_cpus=0, scheduling_strategy=here)
