"""Which Ray a stage runs on, and whether it has room for its workers. Imports no ray."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from swamp_dist.config import RayCluster
from swamp_dist.errors import UserError

OBJECT_STORE_BYTES = 80 * 2**20
"""Of a node's object store: nothing but messages passes through Ray."""


class RayUnready(UserError):
    """A Ray that does not answer, or has less room than the stage needs.

    The user's to mend, except inside an allocation, whose nodes may join too slowly: there it is tried again.
    """


def wanted_address(cluster: RayCluster) -> str | None:
    """Address of the Ray to use; None for one of our own."""
    return cluster.address or os.environ.get("RAY_ADDRESS") or None


def check_answers(address: str) -> None:
    """Ask whether a Ray listens at `host:port`; Ray itself tries for two minutes and then ends the process.

    Raises:
        RayUnready: it does not.
        UserError: the address is none.
    """
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "://" in address or not host or not port.isdecimal():
        raise UserError(f"address of the Ray: expected host:port or auto, found {address!r}")
    if not listens(host, int(port)):
        raise RayUnready(no_ray_at(address))


def no_ray_at(address: str) -> str:
    """What to do where no Ray answers."""
    return (
        f"no Ray answers at {address}.\n"
        "Start one (`ray start --head`), mend `address` or RAY_ADDRESS, or leave both out for a Ray of the "
        "stage's own."
    )


def listens(host: str, port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


def own_size(cluster: RayCluster) -> dict[str, Any]:
    """Arguments of `ray.init` for a Ray of our own: CPUs are promised, not counted; Ray counts GPUs."""
    return {"num_cpus": cluster.workers * cluster.cpus_per_worker} | (
        {} if cluster.on_gpu else {"num_gpus": 0}
    )


def shortage(cluster: RayCluster, found: Mapping[str, float]) -> str:
    """What a Ray with these resources lacks for all workers; empty where it has room."""
    needed = {
        "CPU": cluster.workers * cluster.cpus_per_worker,
        "GPU": cluster.workers * cluster.gpus_per_worker,
    }
    if all(found.get(name, 0) >= amount for name, amount in needed.items()):
        return ""
    has = ", ".join(f"{found.get(name, 0):g} {name}s" for name in needed)
    needs = ", ".join(f"{amount} {name}s" for name, amount in needed.items())
    return (
        f"the Ray has {has}; {cluster.workers} workers need {needs}.\n"
        "Give the cluster file fewer workers, or the Ray more nodes."
    )
