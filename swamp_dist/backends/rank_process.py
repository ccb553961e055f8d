"""The process of a rank, whoever starts it: its environment, its end with its parent, and how it ends."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from swamp_dist.environment import RankInfo

_libc = ctypes.CDLL(None)  # opened here: between fork and exec is no place to load libraries
RANK_MODULE = "swamp_dist.backends.rank"
"""What every backend starts on every rank: `python -m RANK_MODULE STAGE_YAML RUN_DIR`."""
RANK_DEFAULTS = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "PYTHONUNBUFFERED": "1"}
"""Variables of every rank."""
CPU_DEFAULTS = {
    "DS_ACCELERATOR": "cpu",
    # Keep freed arrays of a step's size for the next step: giving them back to the system and
    # faulting their pages in again doubled the time of a step on a CPU.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}
"""Variables of ranks without a GPU, where the user sets no others."""
PLACE_VARIABLES = tuple(RankInfo(0, 1, 0, "127.0.0.1", 0, "none").variables())
"""What differs from rank to rank."""


def rank_command(stage_yaml: Path | str, run_dir: Path | str, module: str | None = None) -> list[str]:
    """What starts a rank, in the working folder that the paths are relative to; `module`: not RANK_MODULE."""
    return python_command(module or RANK_MODULE, [str(stage_yaml), str(run_dir)])


def python_command(module: str, arguments: Sequence[str]) -> list[str]:
    """What starts a module in this Python."""
    return [sys.executable, "-u", "-m", module, *arguments]


def rank_environment(
    info: RankInfo, on_gpu: bool, own: Mapping[str, str], more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The environment of a rank's process.

    Args:
        own: of the process that starts it; comes before the defaults of ranks without a GPU.
        more: what the user sets for the ranks; comes before `own`.
    """
    defaults = {} if on_gpu else CPU_DEFAULTS
    return {**defaults, **own, **(more or {}), **RANK_DEFAULTS, **info.variables()}


def on_cpu(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a rank without a GPU, but for its place."""
    return {**CPU_DEFAULTS, **own, **RANK_DEFAULTS}


def local_environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The environment of one of the ranks that share this machine and nothing else."""
    threads = max(1, (os.cpu_count() or 1) // ranks)
    info = RankInfo(rank, ranks, rank, "127.0.0.1", port, "torch", start=f"{os.getpid()}.{port}")
    return rank_environment(info, has_gpu(), {"OMP_NUM_THREADS": str(threads), **os.environ})


def has_gpu() -> bool:
    """Whether a GPU device node is there and not hidden; importing torch to ask would take a second."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists()


def free_port() -> int:
    """A port of the loopback interface that nothing listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def die_with_parent() -> None:
    """Ask Linux to send this process SIGTERM when its parent dies, so that no rank is orphaned."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        _libc.prctl(pr_set_pdeathsig, signal.SIGTERM)


def exit_at_once(code: int) -> NoReturn:
    """End the process without tearing down native libraries.

    Everything is written and closed by now. A normal exit destroys the threads of torch and DeepSpeed
    in no certain order, and once in a while one of them aborts the process after all work was done.
    """
    with contextlib.suppress(OSError):  # whoever listened may be gone: the code is the answer
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
