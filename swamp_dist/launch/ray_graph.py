"""A Ray of our own on this machine: it holds the graph of a pipeline, and its tasks only wait."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

STAGE_SLOT = "stage"
"""Ray resource that a stage's task takes one of: tasks that only wait take no CPU."""
_OBJECT_STORE_BYTES = 80 * 2**20


@contextlib.contextmanager
def own_ray(slots: int) -> Iterator[Any]:
    """A Ray on the loopback interface, without dashboard, that lets `slots` stages run at a time.

    One that this process has started already is used as it is.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")  # tasks only wait; killing them helps nobody
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's switch for the loopback address
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():
        yield ray
        return
    scratch = tempfile.mkdtemp(prefix="swamp-ray-")
    try:
        ray.init(
            address="local",
            num_cpus=1,
            num_gpus=0,
            resources={STAGE_SLOT: slots},
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=scratch,
        )
        with _terminated_as_interrupted():
            yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends the pipeline like Ctrl-C: workers go, and with them their stages, which save first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
