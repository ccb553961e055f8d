"""Runs a stage on Ray Train workers and starts its ranks again from our own commits when one fails.

Ray Train places the workers, watches them and restarts the group; what a stage is stays with
`backends/rank.py`, which each worker starts as a child (`worker.py` says why). The trainer is Ray Train's
plain data-parallel one: TorchTrainer would make a process group and, on GPUs, a CUDA context in every
worker beside those of its rank. Checkpoints of Ray are not used: a start reads our newest checkpoint, and
result.json says that the stage is done.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.backend import Backend, BackendConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from swamp_dist.backends.ray.mailbox import (
    RETURNED,
    STOPPED_FOR,
    LogTail,
    Mailbox,
    MailboxState,
    first_line,
    note_stage_exit,
    recorded_signals,
)
from swamp_dist.backends.ray.resources import (
    listens,
)
from swamp_dist.backends.ray.train_session import await_resources, train_session
from swamp_dist.backends.ray.worker import (
    RankSpec,
    before_start,
    end_ranks,
    make_spec,
    run_rank,
)
from swamp_dist.config import RayCluster
from swamp_dist.environment import RankInfo
from swamp_dist.errors import ExitCode
from swamp_dist.runs.folder import RunDir

_LAST_WORDS_SECONDS = 1.0
"""A crash reaches its peers within milliseconds: so long a worker waits to hear which rank began it."""
_LOOK_SECONDS = 0.2
_LEAVE_SECONDS = 15.0
_ANSWER_SECONDS = 5.0


class _SharedGpus(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True


class _RanksBackend(BackendConfig):  # type: ignore[misc]
    """No process group in the workers; all workers of a node see all GPUs of its workers."""

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
        except BaseException as error:  # the main thread says what follows from it
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

    Signals are passed on to the ranks, which save and stop: code REQUEUE. A second SIGINT kills them: code
    INTERRUPTED.

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
        seen = stack.enter_context(recorded_signals(early if early is not None else []))
        storage = stack.enter_context(train_session(cluster, folder))
        stack.enter_context(
            recorded_signals(seen)
        )  # again: ray.init puts its own handler of SIGTERM in place, which aborts
        await_resources(cluster, patience, seen)
        if seen:
            report("stopped before the ranks were ready; nothing was begun")
            return ExitCode.REQUEUE
        spec = make_spec(stage_yaml, run_dir, cluster)
        state, error = _fit(spec, cluster, storage, seen, report)
        if state.signals and error:
            # Ray was ended by the same signal: the ranks here still save.
            end_ranks(spec.folder.path, spec.peer_seconds, state.signals[0])
    return note_stage_exit(folder, state, error, began, report)


def _fit(
    spec: RankSpec, cluster: RayCluster, storage: str, seen: list[int], report: Callable[[str], None]
) -> tuple[MailboxState, str]:
    """Run the trainer to its end; the last state, and Ray's words where it gave up."""
    mailbox = _here(ray.remote(Mailbox)).remote()
    fit = _Fit(_trainer(spec, cluster, mailbox, storage))
    state, lost = _follow(fit, mailbox, seen, spec.folder, report)
    return state, first_line(fit.error) or lost


def _trainer(spec: RankSpec, cluster: RayCluster, mailbox: Any, storage: str) -> DataParallelTrainer:
    resources = {"CPU": float(cluster.cpus_per_worker)} | ({"GPU": 1.0} if cluster.on_gpu else {})
    return DataParallelTrainer(
        work,
        train_loop_config={"spec": spec, "mailbox": mailbox},
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
    thread: threading.Thread, mailbox: Any, seen: list[int], folder: RunDir, report: Callable[[str], None]
) -> tuple[MailboxState, str]:
    """Pass signals on and rank 0's console through until the trainer has ended; the last state, and why it
    is none of the trainer's.

    A signal to the whole process group ends Ray's own processes too. A question to them would then wait, and
    after a minute Ray would end this process with a code of its own.
    """
    console, passed, leave = LogTail(folder.console_log), 0, float("inf")
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    thread.start()
    while thread.is_alive() and time.monotonic() < leave:
        thread.join(_LOOK_SECONDS)
        console.pass_on(report)
        if seen and not listens(host, int(port)):
            return MailboxState(signals=tuple(seen)), "Ray was ended by the same signal"
        for number in seen[passed:]:
            with contextlib.suppress(ray.exceptions.RayError):
                ray.get(mailbox.tell.remote(number), timeout=_ANSWER_SECONDS)
                begun = ray.get(mailbox.begun.remote(), timeout=_ANSWER_SECONDS)
                if seen.count(signal.SIGINT) > 1 or not begun:
                    leave = min(leave, time.monotonic() + _LEAVE_SECONDS)
        passed = len(seen)
    console.pass_on(report)
    try:
        last: MailboxState = ray.get(mailbox.state.remote(), timeout=10)
    except ray.exceptions.RayError:  # Ray itself was lost
        return MailboxState(signals=tuple(seen)), ""
    return last, ""


def work(config: Mapping[str, Any]) -> None:
    """What Ray Train runs on each worker: one start of one rank.

    Raises:
        RuntimeError: the rank failed; Ray starts all of them again.
    """
    from ray import train
    from ray.train.collective import barrier, broadcast_from_rank_zero

    spec, mailbox, context = config["spec"], config["mailbox"], train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    end_ranks(spec.folder.path, spec.peer_seconds)
    barrier()  # nobody starts a rank while another looks for old ones
    one_host = context.get_local_world_size() == size
    first = _agree_on_start(spec, mailbox, one_host) if rank == 0 else None
    code, address, port = broadcast_from_rank_zero(first)
    if code is not None:
        return
    info = RankInfo(rank, size, context.get_local_rank(), address, port, "torch", spec.job)
    rank_exit = run_rank(spec, info, MailboxReader(mailbox))
    ray.get(mailbox.ended.remote(rank_exit))
    if rank_exit.code in RETURNED:
        return
    time.sleep(_LAST_WORDS_SECONDS)
    state = ray.get(mailbox.state.remote())
    if not state.signals and not any(e.code in STOPPED_FOR for e in state.exits):
        raise RuntimeError(rank_exit.said)


def _agree_on_start(spec: RankSpec, mailbox: Any, one_host: bool) -> tuple[int | None, str, int]:
    """Whether the ranks start, and where they meet: a free port of rank 0's machine, which only that machine
    reaches where it is `one_host`."""
    code = before_start(spec, ray.get(mailbox.state.remote()))
    if code is None:
        ray.get(mailbox.begin.remote())
    address = "127.0.0.1" if one_host else ray.util.get_node_ip_address()
    with socket.socket() as sock:
        sock.bind((address, 0))
        return (None if code is None else int(code)), address, int(sock.getsockname()[1])


class MailboxReader:
    """Waits for changes of the mailbox with one question under way at a time."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox, self._known = mailbox, MailboxState()
        self._asked = mailbox.wait_for_change.remote(self._known)

    def __call__(self, seconds: float) -> MailboxState:
        """The state after so many seconds, or as soon as it is another one."""
        ready, _ = ray.wait([self._asked], timeout=seconds)
        if ready:
            self._known = ray.get(self._asked)
            self._asked = self._mailbox.wait_for_change.remote(self._known)
        return self._known


def _here(actor: Any) -> Any:
    """An actor that lives and dies with the driver's machine and takes no CPU from the workers."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return actor.options(num_cpus=0, scheduling_strategy=here)
