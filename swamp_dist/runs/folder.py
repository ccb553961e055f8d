"""The run folder of a stage: every name in it, who holds it, and what is written by rename.

stage.yaml  result.json  metrics.jsonl  events.jsonl  weights.safetensors
tensorboard/  logs/rank-000.log  checkpoints/step-N/
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from swamp_dist.config import RayCluster, SlurmCluster, StageSettings
from swamp_dist.evaluate import results
from swamp_dist.launch import owner
from swamp_dist.launch.journal import read_events
from swamp_dist.launch.owner import RunDirHeld as RunDirHeld
from swamp_dist.loading import dump
from swamp_dist.records import StageResult, UserError


@final
@dataclass(frozen=True)
class RunDir:
    """Names inside one run folder; nothing else in the package spells them."""

    path: Path

    @property
    def stage_yaml(self) -> Path:
        """The stage as resolved: defaults, base files and overrides."""
        return self.path / "stage.yaml"

    @property
    def cluster_yaml(self) -> Path:
        """Where the stage was submitted to, as resolved."""
        return self.path / "cluster.yaml"

    @property
    def provenance_json(self) -> Path:
        """What a submission was made from: versions, git state, hash of the shards, command."""
        return self.path / "provenance.json"

    @property
    def source_patch(self) -> Path:
        """Uncommitted changes of the checkout at submission."""
        return self.path / "source.patch"

    @property
    def result_json(self) -> Path:
        """Written last; its presence means done."""
        return self.path / results.RESULT_FILE

    @property
    def metrics_jsonl(self) -> Path:
        """One object a logged step, TensorBoard tags as keys."""
        return self.path / "metrics.jsonl"

    @property
    def events_jsonl(self) -> Path:
        """One object an event of the run: launched, submitted, starting, started, training, committed,
        cancelled, preempted, failed, done."""
        return self.path / "events.jsonl"

    @property
    def weights(self) -> Path:
        """The selected model."""
        return self.path / "weights.safetensors"

    @property
    def tensorboard(self) -> Path:
        """Folder of TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def logs(self) -> Path:
        """Folder of log files."""
        return self.path / "logs"

    @property
    def slurm_logs(self) -> Path:
        """Folder of batch scripts and of what each task wrote on its console."""
        return self.logs / "slurm"

    def slurm_log(self, job: str) -> Path:
        """Console of a job's batch script and first rank."""
        return self.slurm_logs / f"{job}_0_log.out"

    @property
    def console_log(self) -> Path:
        """What rank 0 would have shown on a terminal, where a pipeline or a Ray started the stage."""
        return self.logs / "console.log"

    @property
    def checkpoints(self) -> Path:
        """Folder of committed checkpoints."""
        return self.path / "checkpoints"

    @property
    def owner_json(self) -> Path:
        """Who holds the folder, for the message that refuses the next one."""
        return owner.owner_file(self.path)

    @property
    def graph_json(self) -> Path:
        """Of a pipeline's folder: its stages and what each waits for."""
        return self.path / "graph.json"

    @property
    def done(self) -> bool:
        """True once the stage has left its result."""
        return self.result_json.is_file()

    def log(self, rank: int) -> Path:
        """Log file of one rank."""
        return self.logs / f"rank-{rank:03d}.log"

    def create(self) -> None:
        """Make the folder and its log folder.

        Raises:
            UserError: the path, or one above it, is a file or may not be written.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"run folder {self.path} cannot be made: {error.strerror}. Choose another --run-dir."
            ) from None
        for folder in (self.path, self.logs):
            if not os.access(folder, os.W_OK | os.X_OK):
                raise UserError(
                    f"run folder {self.path}: {folder} may not be written by you. Choose another --run-dir, "
                    "or mend its permissions."
                )

    def refuse_if_held(self) -> None:
        """Ask who works in the folder, without taking it.

        Raises:
            RunDirHeld: a live process owns it; the message says which.
        """
        owner.refuse_if_held(self.path)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Own the folder inside the block; it ends with the process, however that ends.

        Raises:
            RunDirHeld: another live process owns it, here or on another host; the message says which.
        """
        self.create()
        with owner.hold(self.path):
            yield

    def write_stage(self, settings: StageSettings) -> None:
        """Write stage.yaml, or bring it up to date. Whether a resume may go on with changed settings is
        the checkpoint's question (its fingerprint), not this file's."""
        self.create()
        text = dump(settings)
        if not self.stage_yaml.is_file() or self.stage_yaml.read_text() != text:
            write_atomically(self.stage_yaml, text)

    def write_submission(
        self, cluster: RayCluster | SlurmCluster, facts: Mapping[str, object], patch: str
    ) -> None:
        """Write where the stage goes and what it was made from; `patch` holds uncommitted changes, if any."""
        write_atomically(self.cluster_yaml, dump(cluster))
        write_atomically(self.provenance_json, json.dumps(facts, indent=2) + "\n")
        self.source_patch.unlink(missing_ok=True)
        if patch:
            write_atomically(self.source_patch, patch + "\n")

    def write_result(self, result: StageResult) -> None:
        """Write result.json by rename; from then on the stage is done."""
        write_atomically(self.result_json, json.dumps(results.result_to_json(result), indent=2) + "\n")

    def read_result(self) -> StageResult | None:
        """The result of a done stage, else None.

        Raises:
            UserError: result.json is there but is not a stage's result.
        """
        return results.read_result(self.path) if self.done else None

    def append_event(self, event: str, **details: object) -> None:
        """Add one line to events.jsonl: time (seconds since 1970), event, details."""
        line = json.dumps({"time": time.time(), "event": event, **details}, default=str) + "\n"
        with self.events_jsonl.open("ab+") as file:
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = "\n" + line  # a writer was killed inside its line: that one is lost, not this one
            file.write(line.encode())

    def read_events(self) -> list[dict[str, object]]:
        """All events, oldest first; a line still being written, or damaged, is left out."""
        return read_events(self.events_jsonl)

    def read_owner(self) -> dict[str, object]:
        """Who holds the folder, or held it when it was killed; {} where nobody does or it is unreadable."""
        try:
            found = json.loads(self.owner_json.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def log_sizes(self) -> dict[str, int]:
        """Bytes of every log file by its path in logs/: at a start, where that start's part of it begins."""
        files = (path for path in sorted(self.logs.rglob("*")) if path.is_file())
        return {path.relative_to(self.logs).as_posix(): path.stat().st_size for path in files}


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
