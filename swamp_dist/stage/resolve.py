"""Settings -> a stage that may start: everything that is derived from settings, shard set and weights, once.

What is wrong is told before a rank starts, every problem in one message, without torch. `swamp run` and
`submit` ask on their own console, in a second; rank 0 asks again, for stages started another way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from swamp_dist.config import EvaluateSettings, StageSettings, TrainSettings
from swamp_dist.data.blend import Blend, blend_problems, open_blend, set_orders
from swamp_dist.data.inputs import check_clips, input_specs, uses_words
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.lanes import steps_per_epoch as epoch_steps
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.encoders.encoder import check_input
from swamp_dist.errors import UserError
from swamp_dist.evaluate.checks import check_evaluation, check_single_pairing
from swamp_dist.evaluate.results import check_metric_name, promised_metrics
from swamp_dist.file_names import WEIGHTS_FILE, weights_file
from swamp_dist.objective.checks import check_items, check_kmeans, check_positives
from swamp_dist.records import BatchPlan, InputSpec
from swamp_dist.runs.folder import RunDir
from swamp_dist.runs.provenance import weights_sha256
from swamp_dist.train.checkpoint_folder import BrokenError, read_checkpoint, step_folders
from swamp_dist.train.commit_meta import read_meta
from swamp_dist.train.fingerprint import check_fingerprint, default_marks, fingerprint
from swamp_dist.train.input_parts import check_unit_parts
from swamp_dist.train.weights_header import (
    embedding_dim_problem,
    stage_embedding_dim,
    starting_points,
    with_embedding_dim,
)
from swamp_dist.train.weights_record import RESTORE, check_sha256, recorded_sha256
from swamp_dist.train.word_source import check_word_source

_SUFFIX = ".safetensors"
_SIDES: tuple[Literal["a", "b"], ...] = ("a", "b")


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
    """As given, with `model.embedding_dim` filled in from the starting weights where it was null."""
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
    _refuse(settings, manifest, _problems(settings, manifest, world_size, absent=()))
    embedding_dim, settings = stage_embedding_dim(settings), with_embedding_dim(settings)
    training = None
    if settings.train is not None:
        training = _resolve_training(settings, settings.train, manifest, world_size)
        _check_newest_checkpoint(settings, run_dir, training)
    inputs = input_specs(manifest, settings.data)
    return ResolvedStage(settings, embedding_dim, manifest, inputs, world_size, training)


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
    absent = set(_still_to_come(settings, promised))
    if not absent:
        resolve(settings, run_dir, world_size)
        return
    manifest = load_manifest(settings.data.shards, settings.data.recipe)
    _refuse(settings, manifest, _problems(settings, manifest, world_size, absent))


def training_marks(
    settings: StageSettings, data_hash: str, blend_hashes: Mapping[str, str] | None = None
) -> dict[str, object]:
    """The fingerprint of a training together with the weights it starts from."""
    marks = fingerprint(settings, data_hash, blend_hashes)
    if settings.train is not None and settings.train.init_from is not None:
        marks["train.init_from (sha256)"] = _checked_sha256(settings.train.init_from)
    return marks


def _checked_sha256(source: Path) -> str | None:
    """Hash of starting weights, compared with the recorded one: a second before the ranks would."""
    path, found = weights_file(source), weights_sha256(source)
    if found is not None:
        check_sha256(path, found, recorded_sha256(path), RESTORE)
    return found


def word_source(settings: StageSettings, manifest: Manifest) -> str | None:
    """sha256 of the word vectors that a stage's captions are read with; None where no field holds words."""
    words = manifest.record.words
    return words.source_sha256 if words is not None and uses_words(manifest, settings.data) else None


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
        _validation(train),
        training_marks(settings, manifest.hash, blend.hashes),
    )


def _validation(train: TrainSettings | None) -> EvaluateSettings | None:
    asked = train.validate_on if train is not None else None
    if asked is None:
        return None
    relevance = "class" if asked.metric.startswith("class/") else "pair"
    return EvaluateSettings(split=asked.split, relevance=(relevance,))


def _check_newest_checkpoint(settings: StageSettings, run_dir: RunDir, training: ResolvedTraining) -> None:
    """Compare with the newest checkpoint that looks whole; its bytes are checked when it is loaded."""
    for _, folder in step_folders(run_dir.checkpoints):
        try:
            saved = read_meta(read_checkpoint(folder, verify_hash=False)).fingerprint
        except BrokenError:
            continue
        check_fingerprint(saved, training.fingerprint, default_marks(settings))
        return


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


# -- problems --------------------------------------------------------------------------------------


def _refuse(settings: StageSettings, manifest: Manifest, problems: Iterator[str]) -> None:
    listed = "\n".join(f"- {problem}" for problem in dict.fromkeys(problems))
    if listed:
        raise UserError(f"stage {settings.name} cannot start over the shards in {manifest.folder}:\n{listed}")


def _problems(
    settings: StageSettings, manifest: Manifest, world_size: int, absent: Collection[str]
) -> Iterator[str]:
    """Everything wrong, found twice where two checks find it; `absent`: keys of weights yet to be written."""
    yield from _data_problems(settings, manifest, world_size)
    yield from _encoder_problems(settings, manifest)
    yield from _starting_point_problems(settings, manifest, absent)


def _data_problems(settings: StageSettings, manifest: Manifest, world_size: int) -> Iterator[str]:
    """Everything wrong with fields, splits, batch and evaluations."""
    a, b, clips, validation = (
        settings.data.a,
        settings.data.b,
        settings.data.clips,
        _validation(settings.train),
    )
    evaluations = (*settings.evaluate, *([validation] if validation is not None else []))
    checks: list[Callable[[], object]] = [partial(manifest.field, a), partial(manifest.field, b)]
    checks = checks if clips is None else [partial(check_clips, manifest, a, b, clips)]
    checks += [partial(_check_encoder, settings, manifest, side) for side in _SIDES]
    blend_faults = list(blend_problems(settings.data, manifest)) if settings.train is not None else []
    yield from blend_faults
    if settings.train is not None and not blend_faults:
        checks.append(partial(_check_batches, settings, manifest, world_size))
    checks += [partial(manifest.split, each.split) for each in evaluations]
    checks += [partial(check_single_pairing, settings.data, each.split) for each in evaluations]
    if clips is None:
        checks += [partial(check_evaluation, manifest, each, a, b) for each in evaluations]
    if settings.train is not None and settings.train.validate_on is not None and validation is not None:
        metric, metrics = settings.train.validate_on.metric, promised_metrics(validation)
        checks.append(partial(check_metric_name, metric, metrics, "train.validate_on"))
    for check in checks:
        try:
            check()
        except UserError as error:
            yield str(error)


def _check_encoder(settings: StageSettings, manifest: Manifest, side: Literal["a", "b"]) -> None:
    """Refuse a field that its encoder does not take."""
    spec = input_specs(manifest, settings.data)["ab".index(side)]
    try:
        check_input(settings.model.a if side == "a" else settings.model.b, spec)
    except UserError as error:
        raise UserError(f"model.{side}: {error}") from None


def _encoder_problems(settings: StageSettings, manifest: Manifest) -> Iterator[str]:
    """Encoders whose libraries and files are not there or do not fit; wrong fields are told elsewhere."""
    try:
        specs = input_specs(manifest, settings.data)
    except UserError:
        return
    own_start = next(starting_points(settings), None) is None
    sides = zip("ab", (settings.model.a, settings.model.b), specs, strict=True)
    for side, encoder, spec in sides:
        if encoder.input_problem(spec) is None:
            problem = encoder.start_problem(spec, from_files=own_start)
            if problem is not None:
                yield f"model.{side}: {problem}"


def _check_batches(settings: StageSettings, manifest: Manifest, world_size: int) -> None:
    data, blend = settings.data, open_blend(settings.data, manifest)
    plan = plan_batches(data.entries, data.pairs_per_entry, data.num_lanes, world_size, len(blend))
    set_orders(blend, data, plan, settings.seed)
    check_positives(settings.objective.contrastive, plan, blend.labels.tolist())
    if data.clips is None:  # else an item is a caption, and the manifest does not count those
        check_items(settings.objective.swamp, plan, len(blend))
    check_kmeans(settings.objective.swamp, len(blend))


def _still_to_come(settings: StageSettings, promised: Collection[Path]) -> Iterator[str]:
    """Keys of starting weights that a stage before this one has yet to write."""
    folders = {folder.resolve() for folder in promised}
    for key, source in starting_points(settings):
        inside = source.resolve() in folders or source.resolve().parent in folders
        if inside and not (source if source.suffix == _SUFFIX else source / WEIGHTS_FILE).is_file():
            yield key


def _starting_point_problems(
    settings: StageSettings, manifest: Manifest, left_out: Collection[str]
) -> Iterator[str]:
    for key, source in starting_points(settings):
        if key in left_out:
            continue
        path = weights_file(source)
        if not path.is_file():
            found = f"a folder without {WEIGHTS_FILE}" if source.is_dir() else "nothing there"
            yield (
                f"{key} = {source}: expected a finished run folder or a .safetensors file, found {found}.\n"
                "Fix: run the stage that writes it to its end first, or correct the path."
            )
            continue
        try:
            check_word_source(path, key, word_source(settings, manifest))
            check_unit_parts(path, key, settings.model)
        except UserError as error:
            yield str(error)
        if (problem := embedding_dim_problem(settings, key, source)) is not None:
            yield problem
