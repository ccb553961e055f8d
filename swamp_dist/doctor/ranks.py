"""How fast ranks talk and whether their clocks agree. `python -m swamp_dist.doctor.ranks` on each."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from swamp_dist.backends.rank_process import free_port, local_environment
from swamp_dist.doctor.finding import Subject
from swamp_dist.records import Finding

if TYPE_CHECKING:
    from swamp_dist.distributed import World  # brings torch, which the command line does without

_BYTES = 16 * 2**20
_ROUNDS = 3
_SMALL_ROUNDS = 20
_BUSY = 2.0
"""Processes per core that want to run; two ranks may then need longer than this to import torch."""
SECONDS = 24.0
"""For two ranks to start, measure and end."""
SLOW_BANDWIDTH, SLOW_LATENCY, SKEW = 0.1e9, 5e-3, 2.0
"""Bytes per second, seconds, seconds: what is worse than these is warned about."""


@dataclass(frozen=True)
class Measured:
    """All-reduce between the ranks, and their clocks."""

    ranks: int
    bandwidth: float
    """Bytes per second through each rank's link: 2 (n - 1) / n times the size over the time of 16 MiB."""
    latency: float
    """Seconds of an all-reduce of 4 bytes, median."""
    skew: float
    """Seconds between the earliest and the latest clock."""


def measure(world: World) -> Measured:
    """Measure between the ranks of `world`; all call, all get the same."""
    import torch

    from swamp_dist.distributed import barrier, gather_objects, sum_over_ranks

    def seconds(values: torch.Tensor) -> float:
        barrier(world)
        began = time.perf_counter()
        sum_over_ranks(values, world)[0].item()
        return time.perf_counter() - began

    small, large = (torch.zeros(n, device=world.device) for n in (1, _BYTES // 4))
    seconds(large)  # connections are made at the first use
    latency = statistics.median(seconds(small) for _ in range(_SMALL_ROUNDS))
    moved = 2 * (world.size - 1) / world.size * _BYTES
    bandwidth = moved / statistics.median(seconds(large) for _ in range(_ROUNDS))
    spreads = []
    for _ in range(_ROUNDS):
        barrier(world)
        clocks = gather_objects(time.time(), world)
        spreads.append(max(clocks) - min(clocks))
    return Measured(*gather_objects((world.size, bandwidth, latency, min(spreads)), world)[0])


def judge(measured: Measured) -> Iterator[Finding]:
    """Findings of a measurement."""
    rate, call = measured.bandwidth / 1e9, measured.latency * 1e3
    said = f"{measured.ranks} ranks: {rate:.2f} GB/s, {call:.2f} ms per call"
    if measured.bandwidth < SLOW_BANDWIDTH or measured.latency > SLOW_LATENCY:
        fix = "look for busy cores, or choose the fast network (GLOO_SOCKET_IFNAME, NCCL_SOCKET_IFNAME)"
        yield Finding("all-reduce", "warning", said, fix)
    else:
        yield Finding("all-reduce", "ok", said)
    if measured.skew > SKEW:
        fix = "let the hosts take their time from one server (chrony, ntp)"
        yield Finding("clocks", "warning", f"clocks of the ranks differ by {measured.skew:.1f} s", fix)
    else:
        yield Finding("clocks", "ok", f"clocks of the ranks agree to {measured.skew * 1e3:.0f} ms")


def two_here(_subject: Subject) -> Iterator[Finding]:
    """Measure between two ranks that are started for it on this machine."""
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", __spec__.name if __spec__ else __name__],
            env=local_environment(rank, 2, port) | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        yield from _collect(ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def _collect(ranks: Sequence[subprocess.Popen[str]]) -> Iterator[Finding]:
    deadline = time.monotonic() + SECONDS
    try:
        out, error = ranks[0].communicate(timeout=deadline - time.monotonic())
    except subprocess.TimeoutExpired:
        busy = os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1)
        said = f"two ranks did not meet within {SECONDS:.0f} s" + (" (the machine is busy)" if busy else "")
        fix = "try again on an idle machine; then look at firewall rules of the loopback interface"
        yield Finding("all-reduce", "warning" if busy else "problem", said, fix)
        return
    if ranks[0].returncode != 0:
        said = (error.strip().splitlines() or ["no word"])[-1]
        yield Finding("all-reduce", "problem", f"two ranks could not talk: {said}", "mend what it names")
        return
    yield from judge(Measured(**json.loads(out.splitlines()[-1])))


def main() -> None:
    """What each of two ranks runs; rank 0 says what was measured."""
    from swamp_dist.distributed import join, leave, on_main

    world = join(timeout_seconds=SECONDS)
    measured = measure(world)
    on_main(world, lambda: sys.stdout.write(json.dumps(asdict(measured)) + "\n"))
    sys.stdout.flush()
    leave()


if __name__ == "__main__":
    main()
