"""Pairs per second of a training step on one rank and on several of this machine: the same batch, shared out.

    OMP_NUM_THREADS=1 python tools/bench_ranks.py [--ranks 2] [--embedding-dim 512] [--rounds 5]

The step is that of `bench_step.py`, contrastive + SwAMP at the paper's video sizes with a smaller E. Ranks
are processes of one thread, each held to a core of its own, that exchange over loopback. Programs take turns,
seconds of the clock, medians; the efficiency is the rate per rank over that of one rank. Loading is left out.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time

from bench_step import training_step

from swamp_dist.distributed import join, leave


def train(chosen: argparse.Namespace) -> None:
    """One rank: the median time of a step, printed by rank 0."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ["RANK"])]})
    world = join()
    step = training_step(world, chosen.embedding_dim, 0.25, chosen.entries, chosen.pairs_per_entry)
    found = []
    for _ in range(chosen.steps + 2):
        began = time.perf_counter()
        step()
        found.append(time.perf_counter() - began)
    if world.is_main:
        print(statistics.median(found[2:]))
    leave()


def measure(ranks: int) -> float:
    """Seconds of a step on so many ranks, as new processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_WORLD_SIZE": ranks}
    processes = []
    for rank in range(ranks):
        own = {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, "--as-rank", *sys.argv[1:]],
                env=os.environ | own,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
    said = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a rank failed")
    return float(said[0].split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--embedding-dim", type=int, default=512, help="E; the paper's is 4096")
    parser.add_argument("--entries", type=int, default=32, help="videos of the whole batch")
    parser.add_argument("--pairs-per-entry", type=int, default=64, help="clips of a video")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.as_rank:
        train(chosen)
        return
    pairs = chosen.entries * chosen.pairs_per_entry
    print(
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {pairs} pairs, E = {chosen.embedding_dim}"
    )
    found: dict[int, list[float]] = {1: [], chosen.ranks: []}
    for _ in range(chosen.rounds):
        for ranks, values in found.items():
            values.append(measure(ranks))
    one = statistics.median(found[1])
    for ranks, values in found.items():
        seconds = statistics.median(values)
        print(
            f"{ranks} ranks: {1e3 * seconds:8.1f} ms, {pairs / seconds:8,.0f} pairs/s, "
            f"{pairs / seconds / ranks:8,.0f} per core, efficiency {one / seconds / ranks:.0%}"
        )


if __name__ == "__main__":
    main()
