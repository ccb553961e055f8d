"""Runs a test function on several gloo ranks, each a process, with a time limit on the whole."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

_context = multiprocessing.get_context("forkserver")
# deepspeed.initialize imports the last one, and with it torch's compiler: 10 s in every rank otherwise.
_context.set_forkserver_preload(
    ["torch", "deepspeed", "swamp_dist.distributed", "deepspeed.runtime.zero.muon.muon_optimizer"]
)


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


def run_on_ranks(function: Callable[..., Any], size: int, *args: Any, timeout: float = 120) -> list[Any]:
    """`function(world, *args)` on `size` ranks; results in rank order, or the first traceback.

    `function` must be importable (defined at the top of its test module).
    """
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
    waiting = dict(zip(pipes, range(size), strict=True))
    try:
        while waiting:
            ready = wait(list(waiting), timeout=timeout)
            if not ready:
                raise TimeoutError(f"ranks {sorted(waiting.values())} did not answer within {timeout} s")
            for pipe in ready:
                rank = waiting.pop(pipe)
                try:
                    result, error = pipe.recv()
                except EOFError:
                    raise AssertionError(f"rank {rank} died without an answer") from None
                if error is not None:
                    raise AssertionError(f"rank {rank} failed:\n{error}")
                results[rank] = pickle.loads(result)
    finally:
        for process in processes:
            process.join(timeout=0 if waiting else 10)
            if process.is_alive():
                process.kill()
    return [results[rank] for rank in range(size)]
