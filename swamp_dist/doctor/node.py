"""The checks of one compute node: `python -m swamp_dist.doctor.node`, once on each node of an allocation."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from swamp_dist.doctor.examine import HERE
from swamp_dist.doctor.finding import Check, Subject, run_checks
from swamp_dist.environment import node_name
from swamp_dist.errors import UserError
from swamp_dist.records import Finding
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.stage_file import load_stage

MARK = "swamp-doctor-node "
"""How the line begins that a node prints; modules and shells may print others."""
_LONGEST = 350
"""Letters of a text: srun passes lines of up to 1024 bytes on as they are, and mixes parts of longer ones."""
_TEMPORARY = 2**30
"""Bytes that compilers, Ray and loader processes may take."""
_LOGIN_ALONE = ("job",)
"""Checks that do not depend on the machine."""


def temporary(_subject: Subject) -> Iterator[Finding]:
    """Room for temporary files."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    said = f"{folder} has {free / 2**30:.1f} GiB free"
    if free < _TEMPORARY:
        fix = "empty it, or set TMPDIR under `environment` in the cluster file"
        yield Finding("temporary", "warning", said, fix)
    else:
        yield Finding("temporary", "ok", said)


def gpus(wanted: int, _subject: Subject) -> Iterator[Finding]:
    """Whether torch sees as many GPUs as the cluster file asks for."""
    if not wanted:
        return
    import torch

    seen = torch.cuda.device_count()
    said = f"torch {torch.__version__} sees {seen} of {wanted} GPUs"
    if seen < wanted:
        fix = "look at nvidia-smi there, at CUDA_VISIBLE_DEVICES, and whether torch is built for the GPUs"
        yield Finding("gpus", "problem", said, fix)
    else:
        yield Finding("gpus", "ok", said)


def shared_folder(file: Path, token: str, _subject: Subject) -> Iterator[Finding]:
    """Whether the node sees, and may write, the folder in which runs are: `file` was just written there."""
    try:
        seen = file.read_text() == token
    except OSError:
        seen = False
    if not seen:
        fix = "give --run-dir a folder on a file system that all nodes mount under the same path"
        yield Finding("run folder", "problem", f"{file.parent} is not the one of the login node", fix)
    elif not os.access(file.parent, os.W_OK):
        fix = f"let the node write there (mount options, permissions of {file.parent})"
        yield Finding("run folder", "problem", f"{file.parent} cannot be written", fix)
    else:
        yield Finding("run folder", "ok", f"{file.parent} is the one of the login node")


def examine_node(chosen: argparse.Namespace) -> list[Finding]:
    """All findings of this node."""
    checks: dict[str, tuple[Check, float]] = {k: v for k, v in HERE.items() if k not in _LOGIN_ALONE}
    checks |= {
        "temporary": (temporary, 10.0),
        "gpus": (partial(gpus, chosen.gpus), 60.0),
        "run folder": (partial(shared_folder, chosen.shared, chosen.token), 20.0),
    }
    found: list[Finding] = []
    try:
        job = load_stage(chosen.job) if chosen.job is not None else None
    except UserError as error:
        job, said = None, " ".join(str(error).split())
        found.append(Finding("job", "problem", said, "the job file has to be where all nodes see it"))
    run_dir = RunDir(chosen.run_dir) if chosen.run_dir is not None else None
    return [*run_checks(checks, Subject(job, run_dir, None, chosen.ranks)), *found]


def read_answers(printed: str) -> dict[str, list[Finding]]:
    """Findings by host, from all that the tasks of an allocation have printed."""
    answers: dict[str, list[Finding]] = {}
    for line in printed.splitlines():
        if line.startswith(MARK):
            host, _, told = line.removeprefix(MARK).partition(" ")
            with contextlib.suppress(ValueError, TypeError):  # cut off: the other lines count
                answers.setdefault(host, []).append(Finding(**json.loads(told)))
    return answers


def main(arguments: Sequence[str] | None = None) -> int:
    """What an allocation starts on each of its nodes."""
    parser = argparse.ArgumentParser(prog="python -m swamp_dist.doctor.node")
    parser.add_argument("--job", type=Path)
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--shared", type=Path, required=True)
    parser.add_argument("--token", required=True)
    found = examine_node(parser.parse_args(arguments))
    host = node_name()
    for each in found:
        short = replace(each, message=each.message[:_LONGEST], fix=each.fix[:_LONGEST])
        sys.stdout.write(f"{MARK}{host} {json.dumps(asdict(short))}\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    # A check that was left behind, in a file system that hangs, must not keep the node.
    main()
    os._exit(0)
