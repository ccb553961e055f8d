"""The run folder of a stage: every name in it, who holds it, and what is written by rename.

stage.yaml  result.json  metrics.jsonl  events.jsonl  weights.safetensors
logs/rank-000.log  checkpoints/step-N/, and the event files of TensorBoard
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

from swamp_dist.atomic_files import named, set_aside, write_atomically
from swamp_dist.config import ClusterSettings, StageSettings
from swamp_dist.errors import UserError
from swamp_dist.evaluate import results
from swamp_dist.file_names import (
    CHECKPOINTS,
    MANIFEST_FILE,
    METRICS_FILE,
    RESULT_FILE,
    STAGE_FILE,
    WEIGHTS_FILE,
)
from swamp_dist.loading import dump
from swamp_dist.plain_files import parse_json, read_plain_file
from swamp_dist.records import StageResult
from swamp_dist.runs import lock
from swamp_dist.runs.events import read_events
from swamp_dist.runs.holder import holder_file
from swamp_dist.runs.lock import FolderHold, JobLives

logger = logging.getLogger(__name__)

_MOST_OF_A_HOLDER = 2**16
"""Bytes of an owner file."""


@final
@dataclass(frozen=True)
class RunDir:
    """Names inside one run folder; nothing else in the package spells them."""

    path: Path

    @property
    def stage_yaml(self) -> Path:
        """The stage as resolved: defaults, base files and overrides."""
        return self.path / STAGE_FILE

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
        return self.path / RESULT_FILE

    @property
    def metrics_jsonl(self) -> Path:
        """One object a logged step, TensorBoard tags as keys."""
        return self.path / METRICS_FILE

    @property
    def events_jsonl(self) -> Path:
        """One object per event of the run: launched, submitted, starting, started, training, committed,
        alarm, alarm_cleared, cancelled, preempted, waited, superseded, failed, done."""
        return self.path / "events.jsonl"

    @property
    def weights(self) -> Path:
        """The selected model."""
        return self.path / WEIGHTS_FILE

    @property
    def logs(self) -> Path:
        """Folder of log files."""
        return self.path / "logs"

    @property
    def job_logs(self) -> Path:
        """Folder of batch scripts and of what each task wrote on its console."""
        return self.logs / "slurm"

    def job_log(self, job: str) -> Path:
        """Console of a job's batch script and first rank."""
        return self.task_log(job, 0)

    def task_log(self, job: str, task: int) -> Path:
        """Console of a task of a job."""
        return self.job_logs / f"{job}_{task}_log.out"

    def began(self, job: str) -> Path:
        """Is there once a rank of a job's present start has begun."""
        return self.job_logs / f"{job}_began"

    def note_began(self, job: str) -> None:
        """Leave word that a rank of a job has begun; does nothing outside a job or where that cannot be."""
        if job:
            with contextlib.suppress(OSError):
                self.began(job).touch()

    @property
    def console_log(self) -> Path:
        """What rank 0 would have shown on a terminal, where a pipeline or a Ray started the stage."""
        return self.logs / "console.log"

    @property
    def checkpoints(self) -> Path:
        """Folder of committed checkpoints."""
        return self.path / CHECKPOINTS

    @property
    def owner_json(self) -> Path:
        """Who holds the folder, for the message that refuses the next one."""
        return holder_file(self.path)

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

    def refuse_shard_set(self) -> None:
        """Keep runs out of the folder of a shard set, which a build replaces as a whole.

        Raises:
            UserError: the folder holds one.
        """
        if (self.path / MANIFEST_FILE).is_file():
            raise UserError(
                f"run folder {self.path} holds a shard set ({MANIFEST_FILE} is there), whose next build "
                "would replace the run with it. Choose another --run-dir, or another name."
            )

    def create(self) -> None:
        """Make the folder and its log folder.

        Raises:
            UserError: the path, or one above it, is a file or may not be written, or the folder holds a shard
                set.
        """
        self.refuse_shard_set()
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

    def refuse_if_held(self, job_lives: JobLives) -> None:
        """Ask who works in the folder, without taking it; `job_lives` as for `hold`.

        Raises:
            RunDirHeld: a live process owns it; the message says which.
        """
        lock.refuse_if_held(self.path, job_lives)

    @contextlib.contextmanager
    def hold(self, job_lives: JobLives) -> Iterator[FolderHold]:
        """Own the folder inside the block; it ends with the process, however that ends.

        Args:
            job_lives: asked about the job of a holder on another host.

        Raises:
            PredecessorHolds: an earlier attempt of this process's job owns it.
            RunDirHeld: another live process owns it, here or on another host; the message says which.
        """
        self.create()
        with lock.hold(self.path, job_lives) as held:
            yield held

    def write_stage(self, settings: StageSettings) -> None:
        """Write stage.yaml, or bring it up to date. Whether a resume may go on with changed settings is
        the checkpoint's question (its fingerprint), not this file's."""
        self.create()
        text = dump(settings)
        if not self.stage_yaml.is_file() or self.stage_yaml.read_bytes() != text.encode():
            write_atomically(self.stage_yaml, text)

    def write_cluster(self, cluster: ClusterSettings) -> None:
        """Write where the runs of this folder go."""
        write_atomically(self.cluster_yaml, dump(cluster))

    def write_submission(self, cluster: ClusterSettings, facts: Mapping[str, object], patch: str) -> None:
        """Write where the stage goes and what it was made from; `patch` holds uncommitted changes, if any."""
        self.write_cluster(cluster)
        write_atomically(self.provenance_json, json.dumps(facts, indent=2) + "\n")
        self.source_patch.unlink(missing_ok=True)
        if patch:
            write_atomically(self.source_patch, patch + "\n")

    def write_result(self, result: StageResult) -> None:
        """Write result.json by rename; from then on the stage is done."""
        write_atomically(self.result_json, results.result_text(result))

    def set_aside_result(self, result: StageResult) -> Path:
        """Rename the result of a stage that is to be trained for longer, and its weights, which stay those of
        `RUN@STEP`; where the result is now. The result first: without it the stage is not done.

        Raises:
            OSError: the folder may not be written.
        """
        kept = self.path / f"result-step-{result.steps}.json"
        os.replace(self.result_json, kept)
        if result.weights == self.weights and self.weights.is_file():
            aside = self.checkpoints / f"weights-step-{result.selected_step}.safetensors"
            os.replace(self.weights, aside)
            if result.weights_sha256 is not None:
                write_atomically(Path(f"{aside}.sha256"), f"{result.weights_sha256}  {aside.name}\n")
        return kept

    def read_result(self) -> StageResult | None:
        """The result of a done stage, else None.

        Raises:
            UserError: result.json is there but is not a stage's result.
        """
        return results.read_result(self.path) if self.done else None

    def append_event(self, event: str, **details: object) -> None:
        """Add one line to events.jsonl: time (seconds since 1970), event, details."""
        line = json.dumps({"time": time.time(), "event": event, **details}, default=str) + "\n"
        if os.path.lexists(self.events_jsonl) and not self.events_jsonl.is_file():
            aside = set_aside(self.events_jsonl)
            logger.warning("%s was not written by a run: it is %s now", self.events_jsonl, aside.name)
        with named(self.events_jsonl), self.events_jsonl.open("ab+") as file:
            if file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = "\n" + line  # a writer was killed inside its line: that one is lost, not this one
            file.write(line.encode())

    def read_events(self) -> list[dict[str, object]]:
        """All events, oldest first; a line still being written, or damaged, is left out."""
        return read_events(self.events_jsonl)

    def read_holder(self) -> dict[str, object]:
        """Who holds the folder, or held it when it was killed; {} where nobody does or it is unreadable."""
        try:
            found = parse_json(read_plain_file(self.owner_json, _MOST_OF_A_HOLDER))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def log_sizes(self) -> dict[str, int]:
        """Bytes of every log file by its path in logs/: at a start, where that start's part of it begins."""
        files = (path for path in sorted(self.logs.rglob("*")) if path.is_file())
        return {path.relative_to(self.logs).as_posix(): path.stat().st_size for path in files}
