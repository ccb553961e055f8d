"""The only place that connects to a Ray: one that runs already, or one of our own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from swamp_dist.backends.ray.resources import OBJECT_STORE_BYTES, RayUnready
from swamp_dist.long_work import told_while
from swamp_dist.stop_requests import listen

logger = logging.getLogger(__name__)
STAGE_SLOT = "stage"
"""Ray resource that a stage's task takes one of: tasks that only wait take no CPU."""
_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOOPBACK_VARIABLES = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Of a Ray of one node: Ray's switch for the loopback interface. Whatever else is asked of it, Ray puts the
host's outward address in the place of 127.0.0.1, and all its processes listen on every interface."""
_WAITING_VARIABLES = {"RAY_memory_monitor_refresh_ms": "0"}
"""Of a Ray of our own whose tasks only wait: ending them would free no memory."""
_STARTS = 3
_TOO_LATE = "timed out during startup"
"""In the words of Ray's exception for a node that was not up in time."""


@contextlib.contextmanager
def ray_session(address: str | None, *, tasks_wait: bool, **size: Any) -> Iterator[Any]:
    """Be connected to a Ray inside the block; yields the module `ray`.

    A connection that this process has made already is used as it is.

    Args:
        address: of the Ray; None for one of our own on the loopback interface, without dashboard.
        tasks_wait: of a Ray of our own: its tasks need no memory to speak of.
        size: of a Ray of our own: `num_cpus`, `num_gpus`, `resources`; what is left out Ray counts itself.

    Raises:
        ConnectionError: no Ray answers.
        RayUnready: a Ray of our own does not start.
    """
    variables = _VARIABLES | (
        {} if address else LOOPBACK_VARIABLES | (_WAITING_VARIABLES if tasks_wait else {})
    )
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield ray
        return
    scratch = tempfile.mkdtemp(prefix="swamp-ray-")  # short: sockets allow no long paths
    own = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "_temp_dir": scratch,
        **size,
    }
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, scratch, ignore_errors=True)
        stack.callback(ray.shutdown)
        if not address:
            stack.enter_context(_on_loopback())
        with told_while(logger, "starting Ray" if not address else f"connecting to the Ray at {address}"):
            _start(ray, address, {} if address else own)
        yield ray


def _start(ray: Any, address: str | None, own: Mapping[str, Any]) -> None:
    """Connect to a Ray, or start one of our own.

    Ray gives a node of its own half a minute, and a busy machine may need longer: then it is tried again.

    Raises:
        RayUnready: it did not start at all.
    """
    for _ in range(_STARTS):
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
            return
        except Exception as error:  # Ray raises no class of its own
            if _TOO_LATE not in str(error):
                raise
            ray.shutdown()
    raise RayUnready(
        f"Ray did not start on this machine in {_STARTS} tries of half a minute: the machine is too busy.\n"
        "Run the command again when it is less so; what is done is not repeated."
    )


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """What `LOOPBACK_VARIABLES` say, for this process too: Ray reads them once, when it is first imported,
    which may have been before they were set."""
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def graph_session(slots: int) -> Iterator[Any]:
    """A Ray of our own that holds the graph of a pipeline and lets `slots` stages run at a time."""
    resources = {STAGE_SLOT: slots}
    with (
        ray_session(None, tasks_wait=True, num_cpus=1, num_gpus=0, resources=resources) as ray,
        _terminated_as_interrupted(),
    ):
        yield ray


@contextlib.contextmanager
def build_session() -> Iterator[Any]:
    """The Ray at RAY_ADDRESS, or one of our own with all CPUs of this machine, to build shards on."""
    address = os.environ.get("RAY_ADDRESS")
    logger.info("building on the Ray at %s", address or "this machine")
    with ray_session(address, tasks_wait=False, num_gpus=0) as ray:
        yield ray


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Stop signals end the pipeline like Ctrl-C: workers go, and with them their stages, which save first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int) -> None:
        raise KeyboardInterrupt

    before = listen(interrupt, signal.SIGTERM, signal.SIGHUP)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
