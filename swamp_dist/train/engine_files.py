"""The files that DeepSpeed writes of a checkpoint: which they are, and why the system refused one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from swamp_dist.atomic_files import write_through


@contextmanager
def recorded_writes(deepspeed_engine: Any) -> Iterator[list[Path]]:
    """Files that DeepSpeed writes on this rank inside the block; a failed write is raised at its end.

    `save_checkpoint` has barriers between its writes: a rank that raised at once would leave the others
    waiting in one. So a failed write is remembered and the rank stays in step until the block ends. Nothing
    else is: what a signal handler raises in the middle (torch's, when a loader process was killed) goes on.
    The recovery scripts that DeepSpeed copies beside a checkpoint are left out.
    """
    backend = deepspeed_engine.checkpoint_engine
    save = backend.save
    files: list[Path] = []
    errors: list[OSError] = []

    def recorded_save(state_dict: Any, path: str) -> None:
        try:
            write_through(Path(path), lambda sink: save(state_dict, sink))
            files.append(Path(path))
        except OSError as error:
            errors.append(error)

    def recorded_makedirs(path: str, exist_ok: bool = False) -> None:
        try:
            Path(path).mkdir(exist_ok=exist_ok)  # and none above it: a folder that was removed stays so
        except OSError as error:
            errors.append(error)

    backend.save, backend.makedirs = recorded_save, recorded_makedirs
    deepspeed_engine._copy_recovery_script = lambda save_path: None
    try:
        yield files
    finally:
        del backend.save, backend.makedirs, deepspeed_engine._copy_recovery_script
    if errors:
        raise errors[0]
