"""A job on this machine: its settings, its shards, and room for its checkpoints."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from swamp_dist.config import StageSettings
from swamp_dist.doctor.finding import Subject
from swamp_dist.errors import UserError
from swamp_dist.records import Finding
from swamp_dist.runs.folder import RunDir
from swamp_dist.train.checkpoint_folder import newest_size

if TYPE_CHECKING:
    from swamp_dist.data.manifest import Manifest, ShardFile  # imports numpy

HASH_SECONDS = 6.0
_ADAM_COPIES = 3
"""Weights and both moments, float32."""


def job(subject: Subject) -> Iterator[Finding]:
    """Everything that `swamp run` would refuse."""
    if subject.job is None:
        return
    from swamp_dist.stage.resolve import resolve

    try:
        resolve(subject.job, _run_dir(subject, subject.job), subject.ranks)
    except UserError as error:
        lines = str(error).splitlines()
        yield Finding(
            "job", "problem", lines[0] + (f" {lines[1]}" if lines[1:] else ""), "swamp run names all"
        )
    else:
        yield Finding("job", "ok", f"{subject.job.name} may start on {subject.ranks} ranks")


def shards(subject: Subject) -> Iterator[Finding]:
    """Every shard is there and has its size; as many as a few seconds allow are hashed."""
    if subject.job is None:
        return
    from swamp_dist.data.manifest import load_manifest

    try:
        manifests = [load_manifest(folder, recipe) for folder, recipe in subject.job.shard_sets.items()]
    except UserError as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[:2])
        yield Finding("shards", "problem", said, "copy the set again, or swamp shards build RECIPE")
        return
    deadline, hashed, files = time.monotonic() + HASH_SECONDS, 0, 0
    for manifest, shard in _shard_files(manifests):
        path, files = manifest.folder / shard.file, files + 1
        if time.monotonic() >= deadline:
            continue  # only counted: its size is right, or there would be no manifest
        fault, hashed = _hash_fault(path, shard.sha256), hashed + 1
        if fault is not None:
            fix = f"swamp shards verify {manifest.folder} names all; copy or build them again"
            yield Finding("shards", "problem", f"{path}: {fault}", fix)
            return
    said = f"{files} shards have their sizes, {hashed} of them their sha256"
    yield Finding("shards", "ok", said + ("" if hashed == files else " (swamp shards verify reads all)"))


def _shard_files(manifests: Sequence[Manifest]) -> Iterator[tuple[Manifest, ShardFile]]:
    for manifest in manifests:
        for split in manifest.record.splits.values():
            yield from ((manifest, shard) for shard in split.shards)


def _hash_fault(path: Path, expected: str) -> str | None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return None if found == expected else "its sha256 is not the manifest's"


def disk(subject: Subject) -> Iterator[Finding]:
    """Free space where the run writes against its checkpoints: those kept and the one being written."""
    folder = _run_dir(subject, subject.job) if subject.job is not None else subject.run_dir
    place = folder.path if folder is not None else Path.cwd()
    free = free_bytes(place)
    if subject.job is None or subject.job.train is None or folder is None:
        yield Finding("disk", "ok", f"{free / 2**30:.1f} GiB free for {place}; --job JOB compares")
        return
    written = newest_size(folder.checkpoints)
    size = written or checkpoint_bytes(subject.job)
    count = subject.job.train.checkpoint.keep + 1
    said = (
        f"{free / 2**20:,.0f} MiB free for {count} checkpoints of {size / 2**20:,.1f} MiB "
        f"({'as last written' if written else 'estimated'})"
    )
    if free < count * size:
        yield Finding("disk", "problem", said, "free space, another --run-dir, or train.checkpoint.keep=1")
    else:
        yield Finding("disk", "ok", said)


def free_bytes(folder: Path) -> int:
    """Bytes that may be written at a path, or where it would be made."""
    there = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    return shutil.disk_usage(there).free


def checkpoint_bytes(settings: StageSettings) -> int:
    """Bytes of a first checkpoint: weights with their moments, and the queue."""
    from swamp_dist.data.inputs import input_specs
    from swamp_dist.data.manifest import load_manifest
    from swamp_dist.data.vocabulary import with_vocabulary
    from swamp_dist.model.dual_encoder import build_dual_encoder
    from swamp_dist.train.weights_header import stage_embedding_dim, with_embedding_dim

    dim, swamp = stage_embedding_dim(settings), settings.objective.swamp
    manifest = load_manifest(settings.data.shards, settings.data.recipe)
    specs = input_specs(manifest, settings.data)
    prototypes = swamp.prototypes if swamp.weight > 0 else None
    encoders = with_vocabulary(with_embedding_dim(settings).model, manifest)
    model = build_dual_encoder(encoders, *specs, prototypes, swamp.normalize_prototypes, settings.seed)
    weights = sum(p.numel() for p in model.parameters()) * 4 * _ADAM_COPIES
    queue = swamp.queue.size * 2 * dim * 4 if swamp.weight > 0 else 0
    return weights + queue


def _run_dir(subject: Subject, settings: StageSettings) -> RunDir:
    return subject.run_dir or RunDir(Path("runs") / settings.name)
