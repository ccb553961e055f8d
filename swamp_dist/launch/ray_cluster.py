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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig

from swamp_dist.config import RayCluster
from swamp_dist.environment import Place
from swamp_dist.launch.local import ExitCode
from swamp_dist.launch.ray_post import Console, News, Post, heard
from swamp_dist.launch.ray_rank import (
    RETURNED,
    STOPPED_FOR,
    RankOrder,
    end_left_behind,
    make_order,
    opening,
    outcome,
    run_rank,
)
from swamp_dist.launch.rundir import RunDir
from swamp_dist.records import UserError

_OBJECT_STORE_BYTES = 80 * 2**20
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


@dataclass
class _Fit:
    """The trainer's thread: `fit` blocks, and the driver's main thread has signals to hear."""

    error: BaseException | None = None


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
        UserError: no Ray at the address, or it stays too small.
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
            end_left_behind(order)  # Ray was ended by the same signal: the ranks here still save
    return _judged(folder, news, error, began, report)


def _fitted(
    order: RankOrder, cluster: RayCluster, storage: str, seen: list[int], report: Callable[[str], None]
) -> tuple[News, str]:
    """Run the trainer to its end; the last news, and Ray's words where it gave up."""
    post, fit = _here(ray.remote(Post)).remote(), _Fit()
    trainer = _trainer(order, cluster, post, storage)
    thread = threading.Thread(target=_fit, args=(trainer, fit), name="Ray Train", daemon=True)
    news = _follow(thread, post, seen, order.folder, report)
    return news, _first_line(fit.error)


def _judged(folder: RunDir, news: News, error: str, began: float, report: Callable[[str], None]) -> ExitCode:
    """The exit code, after saying what the console has not; `began`: seconds since 1970."""
    events = [e for e in folder.read_events() if float(str(e["time"])) >= began]
    if news.signals and any(e["event"] == "preempted" for e in events):
        return ExitCode.REQUEUE  # whatever became of Ray meanwhile
    told = [str(e["reason"]) for e in events if e.get("given_up")]
    code, said = outcome(folder.done, news, error, told)
    if said:
        report(said)
    if code == ExitCode.FAILED and not told:
        folder.append_event("failed", reason=said)
    return code


def _trainer(order: RankOrder, cluster: RayCluster, post: Any, storage: str) -> Any:
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

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


def _fit(trainer: Any, fit: _Fit) -> None:
    try:
        trainer.fit()
    except BaseException as error:  # judged by the main thread
        fit.error = error


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
    end_left_behind(order)
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
        UserError: no Ray answers at the address.
    """
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
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
            ray.init(address="local", _temp_dir=scratch, **_own_size(cluster), **quiet)
        yield storage
    except ConnectionError as error:
        raise UserError(
            f"no Ray answers at {address}: {str(error).splitlines()[0]}\n"
            "Start one (`ray start --head`), mend `address` or RAY_ADDRESS, or leave both out for a Ray of our own."
        ) from None
    finally:
        ray.shutdown()
        for path in (scratch, storage):
            shutil.rmtree(path, ignore_errors=True)


def _own_size(cluster: RayCluster) -> dict[str, Any]:
    """CPUs are promised, not counted; GPUs Ray counts itself."""
    gpus = {} if cluster.on_gpu else {"num_gpus": 0}
    return {
        "num_cpus": cluster.workers * cluster.cpus_per_worker, "include_dashboard": False,
        "object_store_memory": _OBJECT_STORE_BYTES, **gpus,
    }  # fmt: skip


def _await_resources(cluster: RayCluster, patience: float, seen: list[int]) -> None:
    """Wait until the Ray has room for all workers; Ray Train itself would wait for ever.

    Raises:
        UserError: it has not, for so many seconds.
    """
    wanted = {
        "CPU": cluster.workers * cluster.cpus_per_worker,
        "GPU": cluster.workers * cluster.gpus_per_worker,
    }
    deadline = time.monotonic() + patience
    while not seen:
        found = ray.cluster_resources()
        if all(found.get(name, 0) >= amount for name, amount in wanted.items()):
            return
        if not cluster.address and not os.environ.get("RAY_ADDRESS") or time.monotonic() > deadline:
            has = ", ".join(f"{found.get(name, 0):g} {name}s" for name in wanted)
            needs = ", ".join(f"{amount} {name}s" for name, amount in wanted.items())
            raise UserError(
                f"the Ray has {has}; {cluster.workers} workers need {needs}.\n"
                "Give the cluster file fewer workers, or the Ray more nodes."
            )
        time.sleep(_LOOK_SECONDS)


def _here(actor: Any) -> Any:
    """An actor that lives and dies with the driver's machine and takes no CPU from the workers."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return actor.options(num_cpus=0, scheduling_strategy=here)


def _first_line(error: BaseException | None) -> str:
    """Ray's words without its trace."""
    if error is None:
        return ""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"Ray Train gave up ({type(error).__name__}): {lines[0] if lines else ''}"
