"""Runs a test function on several ranks, processes or threads, with a time limit."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from tests.thread_ranks import run_on_threads

_context = multiprocessing.get_context("forkserver")
# The first optimiser imports torch._dynamo: seconds of every rank otherwise.
_context.set_forkserver_preload(["torch", "deepspeed", "swamp_dist.distributed", "torch._dynamo"])


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _rank_main(
    pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...], env: dict[str, str]
) -> None:
    os.environ.update(env)
    import torch

    from swamp_dist import distributed

    torch.set_num_threads(1)
    try:
        world = distributed.join(timeout_seconds=60)
        # Pickled here: multiprocessing would share a tensor's memory with a process that is about to end.
        pipe.send((pickle.dumps(function(world, *args)), None))
        distributed.leave()
    except BaseException:
        pipe.send((None, traceback.format_exc()))
        os._exit(1)


def run_on_ranks(
    function: Callable[..., Any],
    size: int,
    *args: Any,
    timeout: float = 120,
    how: Literal["processes", "threads"] = "processes",
) -> list[Any]:
    """`function(world, *args)` on `size` ranks; results in rank order.

    Processes talk over gloo, as jobs on CPUs do, and share nothing; a machine carries about 8 of them.
    `function` must be importable (defined at the top of its test module).

    Threads make hundreds of ranks cheap. Their collectives are real, in backward passes too. But they share
    `args`, modules and torch's random numbers: no `torch.manual_seed`, no patched module, no DeepSpeed.

    Raises:
        AssertionError: with the number and traceback of the first rank that failed.
        TimeoutError: with the ranks that kept the others waiting.
    """
    if how == "threads":
        return run_on_threads(function, size, args, timeout)
    return _run_on_processes(function, size, args, timeout)


def _run_on_processes(
    function: Callable[..., Any], size: int, args: tuple[Any, ...], timeout: float
) -> list[Any]:
    env = {
        "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = _context.Pipe(duplex=False)
        rank_env = env | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = _context.Process(target=_rank_main, args=(theirs, function, args, rank_env), daemon=False)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    results: dict[int, Any] = {}
    failed: list[str] = []
    waiting = dict(zip(pipes, range(size), strict=True))
    try:
        while waiting:
            # Peers of a rank that failed lose their connection, and may say so before it does.
            ready = wait(list(waiting), timeout=2 if failed else timeout)
            if not ready and not failed:
                raise TimeoutError(f"ranks {sorted(waiting.values())} did not answer within {timeout} s")
            for pipe in ready:
                rank = waiting.pop(pipe)
                try:
                    result, error = pipe.recv()
                except EOFError:
                    raise AssertionError(f"rank {rank} died without an answer") from None
                if error is None:
                    results[rank] = pickle.loads(result)
                else:
                    failed.append(f"rank {rank} failed:\n{error}")
            if failed and (not waiting or not ready or "onnection" not in failed[-1]):
                raise AssertionError(next((said for said in failed if "onnection" not in said), failed[0]))
    finally:
        for process in processes:
            process.join(timeout=0 if waiting else 10)
            if process.is_alive():
                process.kill()
    return [results[rank] for rank in range(size)]
