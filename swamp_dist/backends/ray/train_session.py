"""The Ray that a stage runs on: connected to, and with room for all workers."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator

import ray

from swamp_dist.backends.ray.resources import (
    RayUnready,
    check_answers,
    no_ray_at,
    own_size,
    shortage,
    wanted_address,
)
from swamp_dist.backends.ray.session import ray_session
from swamp_dist.config import RayCluster
from swamp_dist.runs.folder import RunDir

_LOOK_SECONDS = 0.2


@contextlib.contextmanager
def train_session(cluster: RayCluster, folder: RunDir) -> Iterator[str]:
    """Be connected to the Ray of the settings inside the block; yields a folder that Ray Train may write to.

    That one lies in the run folder, which all nodes see, and is gone afterwards.

    Raises:
        RayUnready: no Ray answers at the address.
    """
    address = wanted_address(cluster)
    if address:
        check_answers(address)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # A worker that ends would kill its children at once; a rank hears of its end by SIGTERM, and saves.
    os.environ.setdefault("RAY_kill_child_processes_on_worker_exit", "0")
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    storage = tempfile.mkdtemp(prefix=".ray-", dir=folder.path.resolve())
    try:
        with ray_session(address, tasks_wait=True, **own_size(cluster)):
            yield storage
    except ConnectionError:
        raise RayUnready(no_ray_at(address or "this machine")) from None
    finally:
        shutil.rmtree(storage, ignore_errors=True)


def await_resources(cluster: RayCluster, patience: float, seen: list[int]) -> None:
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
