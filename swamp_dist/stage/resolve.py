"""Settings -> a stage that may start: everything that is derived from settings, shard set and weights, once.

What is wrong is told before a rank starts, every problem in one message, without torch. `swamp run` and
`submit` ask on their own console, in a second; rank 0 asks again, for stages started another way.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from swamp_dist.config import EvaluateSettings, StageSettings, TrainSettings
from swamp_dist.data.blend import Blend, open_blend
from swamp_dist.data.inputs import input_specs
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.lanes import steps_per_epoch as epoch_steps
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.vocabulary import with_vocabulary
from swamp_dist.file_names import weights_file
from swamp_dist.records import BatchPlan, InputSpec
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.provenance import encoder_files_sha256, weights_sha256
from swamp_dist.stage.longer import planned_epochs
from swamp_dist.stage.partner_lines import partner_lines
from swamp_dist.stage.problems import refuse, stage_problems, still_to_come, validation_of, word_source
from swamp_dist.train.checkpoint_folder import BrokenError, read_checkpoint, step_folders
from swamp_dist.train.commit_meta import read_meta
from swamp_dist.train.fingerprint import (
    EPOCHS,
    FILES_MARK,
    accept_longer,
    check_fingerprint,
    default_marks,
    fingerprint,
)
from swamp_dist.train.weights_header import (
    stage_embedding_dim,
    with_embedding_dim,
)
from swamp_dist.train.weights_record import RESTORE, check_sha256, recorded_sha256


@dataclass(frozen=True)
class ResolvedTraining:
    """The training of a stage, laid over its ranks."""

    settings: TrainSettings
    blend: Blend
    """The sets that it draws from."""
    batches: BatchPlan
    steps_per_epoch: int
    validation: EvaluateSettings | None
    """The validation inside the loop, written as an evaluation; None where there is none."""
    fingerprint: Mapping[str, object]
    """What the training computes, with the hash of the weights it starts from; checkpoints carry it."""

    @property
    def total_steps(self) -> int:
        """Steps of all epochs."""
        return self.steps_per_epoch * self.settings.epochs


@dataclass(frozen=True)
class ResolvedStage:
    """A stage that may start on `world_size` ranks."""

    settings: StageSettings
    """As given, with `model.embedding_dim` filled in from the starting weights where it was null, and the
    set's vocabulary where an encoder takes it."""
    embedding_dim: int
    manifest: Manifest
    inputs: tuple[InputSpec, InputSpec]
    """One item of a and of b as their encoders see it."""
    world_size: int
    training: ResolvedTraining | None
    """None for a stage that only evaluates."""

    @property
    def manifests(self) -> list[Manifest]:
        """All shard sets that the stage reads, each once: that of `data.shards` first."""
        drawn = [] if self.training is None else [each.manifest for each in self.training.blend.sets]
        return list({each.folder: each for each in (self.manifest, *drawn)}.values())

    @property
    def blend_hashes(self) -> dict[str, str]:
        """Hashes of the manifests of a blend by the names of its sets; {} where there is none."""
        return {} if self.training is None else self.training.blend.hashes

    @property
    def word_source(self) -> str | None:
        """sha256 of the word vectors that its captions are read with; None where no field holds words."""
        return word_source(self.settings, self.manifest)


def resolve(settings: StageSettings, run_dir: RunDir, world_size: int) -> ResolvedStage:
    """The stage of these settings on so many ranks.

    Raises:
        UserError: shards, splits, fields, batch, ranks or starting weights do not fit (every problem in
            one message), or the run folder's newest checkpoint belongs to another training.
    """
    manifest = load_manifest(settings.data.shards, settings.data.recipe)
    filled = _filled(settings, manifest)
    refuse(settings, manifest, stage_problems(filled, manifest, world_size, absent=()))
    embedding_dim, settings = stage_embedding_dim(settings), with_embedding_dim(settings)
    training = None
    if settings.train is not None:
        training = _resolve_training(settings, settings.train, manifest, world_size)
        training = _fit_newest_checkpoint(settings, run_dir, training)
    inputs = input_specs(manifest, settings.data)
    # Not before: the training is marked by the manifest, which tells the vocabulary wherever the set lies.
    settings = _filled(settings, manifest)
    return ResolvedStage(settings, embedding_dim, manifest, inputs, world_size, training)


def _filled(settings: StageSettings, manifest: Manifest) -> StageSettings:
    return settings.model_copy(update={"model": with_vocabulary(settings.model, manifest)})


def check_before_weights(
    settings: StageSettings, run_dir: RunDir, world_size: int, promised: Collection[Path]
) -> None:
    """Check a stage that will start from weights which stages before it have yet to write.

    What depends on absent weights (embedding size, fingerprint) cannot be known yet, so there is nothing to
    return; `resolve` checks the rest when the stage starts.

    Args:
        promised: run folders of stages that will be done before this one starts.

    Raises:
        UserError: as `resolve`, as far as it can be told.
    """
    absent = set(still_to_come(settings, promised))
    if not absent:
        resolve(settings, run_dir, world_size)
        return
    manifest = load_manifest(settings.data.shards, settings.data.recipe)
    refuse(settings, manifest, stage_problems(_filled(settings, manifest), manifest, world_size, absent))


def training_marks(
    settings: StageSettings, data_hash: str, blend_hashes: Mapping[str, str] | None = None
) -> dict[str, object]:
    """The fingerprint of a training together with the weights that it starts from and the files that its
    encoders name."""
    marks = fingerprint(settings, data_hash, blend_hashes)
    initial = None if settings.train is None else settings.train.init_from
    if initial is not None:
        marks["train.init_from (sha256)"] = _checked_sha256(initial)
    return marks | {f"{key}{FILES_MARK}": digest for key, digest in encoder_files_sha256(settings).items()}


def _checked_sha256(source: Path) -> str | None:
    """Hash of starting weights, compared with the recorded one: a second before the ranks would."""
    path, found = weights_file(source), weights_sha256(source)
    if found is not None:
        check_sha256(path, found, recorded_sha256(path), RESTORE)
    return found


# -- the training ----------------------------------------------------------------------------------


def _resolve_training(
    settings: StageSettings, train: TrainSettings, manifest: Manifest, world_size: int
) -> ResolvedTraining:
    data, blend = settings.data, open_blend(settings.data, manifest)
    batches = plan_batches(data.entries, data.pairs_per_entry, data.num_lanes, world_size, len(blend))
    return ResolvedTraining(
        train,
        blend,
        batches,
        epoch_steps(len(blend), batches),
        validation_of(train),
        training_marks(settings, manifest.hash, blend.hashes),
    )


def _fit_newest_checkpoint(
    settings: StageSettings, run_dir: RunDir, training: ResolvedTraining
) -> ResolvedTraining:
    """The training as it goes on from the newest checkpoint that looks whole, which has to be one of its own;
    its bytes are checked when it is loaded."""
    for _, folder in step_folders(run_dir.checkpoints):
        try:
            saved = read_meta(read_checkpoint(folder, verify_hash=False)).fingerprint
        except BrokenError:
            continue
        marks = dict(training.fingerprint)
        if EPOCHS in marks and isinstance(saved.get(EPOCHS), int):
            marks[EPOCHS] = planned_epochs(saved, training.settings)
        check_fingerprint(accept_longer(saved, marks), marks, default_marks(settings))
        return replace(training, fingerprint=marks)
    return training


def drawn_lines(settings: StageSettings, training: ResolvedTraining) -> list[str]:
    """What the entries of a training are drawn from, where that is more than one split, for its log."""
    blend = [f"blend, {line}" for line in blend_lines(training)]
    return blend + [f"partners: {line}" for line in partner_lines(settings)]


def blend_lines(training: ResolvedTraining) -> list[str]:
    """What a training draws from each set of its blend, for people; [] where there is none."""
    if not training.blend.is_stated:
        return []
    drawn = training.blend.slots.drawn(training.steps_per_epoch * training.batches.entries).tolist()
    return [
        f"{each.name}: {float(each.share):.2%} of the entries, {count:,} per epoch of the training, out of "
        f"{len(each.split):,} in split {each.split.name}: {count / len(each.split):.3g} times each"
        for each, count in zip(training.blend.sets, drawn, strict=True)
    ]
