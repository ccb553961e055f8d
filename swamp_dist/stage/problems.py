"""What keeps a stage from starting: problems of settings, shard set and starting weights, without torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

from swamp_dist.config import EvaluateSettings, StageSettings, TrainSettings
from swamp_dist.data.blend import blend_problems, open_blend, set_orders
from swamp_dist.data.inputs import check_clips, input_specs, uses_words
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.partner_checks import partner_problems
from swamp_dist.encoders.encoder import check_input
from swamp_dist.errors import UserError
from swamp_dist.evaluate.checks import (
    check_choice,
    check_distance,
    check_evaluation,
    check_normalise,
    check_single_pairing,
)
from swamp_dist.evaluate.metric_names import check_metric_name
from swamp_dist.evaluate.results import cutoffs_of, promised_cutoffs, promised_metrics
from swamp_dist.file_names import WEIGHTS_FILE, weights_file
from swamp_dist.objective.checks import check_items, check_kmeans, check_positives
from swamp_dist.stage.triplet_problems import triplet_problems
from swamp_dist.train.checkpoint_weights import extract_weights
from swamp_dist.train.input_parts import check_unit_parts
from swamp_dist.train.loggers.opening import logger_problems
from swamp_dist.train.named_weights import holds_weights, no_weights
from swamp_dist.train.set_marks import check_set_marks
from swamp_dist.train.weights_header import embedding_dim_problem, kinds_problem, starting_points
from swamp_dist.train.word_source import check_word_source

_SUFFIX = ".safetensors"
_SIDES: tuple[Literal["a", "b"], ...] = ("a", "b")


def refuse(settings: StageSettings, manifest: Manifest, problems: Iterator[str]) -> None:
    """Raise a UserError that lists every problem once; nothing where there is none."""
    listed = "\n".join(f"- {problem}" for problem in dict.fromkeys(problems))
    if listed:
        raise UserError(f"stage {settings.name} cannot start over the shards in {manifest.folder}:\n{listed}")


def stage_problems(
    settings: StageSettings, manifest: Manifest, world_size: int, absent: Collection[str]
) -> Iterator[str]:
    """Everything wrong, found twice where two checks find it; `absent`: keys of weights yet to be written."""
    yield from _data_problems(settings, manifest, world_size)
    yield from _encoder_problems(settings, manifest)
    yield from triplet_problems(settings, manifest)
    yield from _starting_point_problems(settings, manifest, absent)
    if settings.train is not None:
        yield from logger_problems(settings.train.loggers)


def still_to_come(settings: StageSettings, promised: Collection[Path]) -> Iterator[str]:
    """Keys of starting weights that a stage before this one has yet to write."""
    folders = {folder.resolve() for folder in promised}
    for key, source in (*starting_points(settings), *_averaged(settings)):
        inside = source.resolve() in folders or source.resolve().parent in folders
        if inside and not (source if source.suffix == _SUFFIX else source / WEIGHTS_FILE).is_file():
            yield key


def _averaged(settings: StageSettings) -> Iterator[tuple[str, Path]]:
    """Key and path of the models that are averaged with that of the stage."""
    for number, source in enumerate(settings.average_with):
        yield f"average_with.{number}", source


def word_source(settings: StageSettings, manifest: Manifest) -> str | None:
    """sha256 of the word vectors that a stage's captions are read with; None where no field holds words."""
    words = manifest.record.words
    return words.source_sha256 if words is not None and uses_words(manifest, settings.data) else None


def validation_of(train: TrainSettings | None) -> EvaluateSettings | None:
    """How a training is validated; None where it is not."""
    asked = train.validate_on if train is not None else None
    if asked is None:
        return None
    relevance = "class" if asked.metric.startswith("class/") else "pair"
    precision_at, hit_at = cutoffs_of(asked.metric) if relevance == "class" else ((), ())
    return EvaluateSettings(
        split=asked.split,
        gallery=asked.gallery,
        distance=asked.distance,
        relevance=(relevance,),
        precision_at=precision_at,
        hit_at=hit_at,
    )


def _data_problems(settings: StageSettings, manifest: Manifest, world_size: int) -> Iterator[str]:
    """Everything wrong with fields, splits, batch and evaluations."""
    a, b, clips, validation = (
        settings.data.a,
        settings.data.b,
        settings.data.clips,
        validation_of(settings.train),
    )
    evaluations = (*settings.evaluate, *([validation] if validation is not None else []))
    checks: list[Callable[[], object]] = [partial(manifest.field, a), partial(manifest.field, b)]
    checks = checks if clips is None else [partial(check_clips, manifest, a, b, clips)]
    checks += [partial(_check_encoder, settings, manifest, side) for side in _SIDES]
    blend_faults = list(blend_problems(settings.data, manifest)) if settings.train is not None else []
    yield from blend_faults
    if settings.train is not None:
        yield from partner_problems(settings.data, manifest, settings.tested_splits)
    if settings.train is not None and not blend_faults:
        checks.append(partial(_check_batches, settings, manifest, world_size))
    checks += [partial(manifest.split, name) for each in evaluations for name in each.splits]
    checks += [partial(check_single_pairing, settings.data, each.split) for each in evaluations]
    if clips is None:
        checks += [partial(check_evaluation, manifest, each, a, b) for each in evaluations]
    checks += [partial(check_distance, settings.model, each) for each in evaluations]
    checks += [partial(check_normalise, settings, each) for each in evaluations]
    if settings.train is not None and settings.train.validate_on is not None and validation is not None:
        metric, metrics = settings.train.validate_on.metric, promised_metrics(validation)
        cutoffs = promised_cutoffs(validation)
        checks.append(partial(check_metric_name, metric, metrics, "train.validate_on", cutoffs))
        checks.append(partial(check_choice, manifest, settings.train, validation))
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
    """Encoders whose libraries and files are not there or do not fit, and sets that no embedding is made of;
    wrong fields are told elsewhere."""
    try:
        specs = input_specs(manifest, settings.data)
    except UserError:
        return
    own_start = next(starting_points(settings), None) is None
    both = settings.model.a, settings.model.b
    fitting = [encoder.input_problem(spec) is None for encoder, spec in zip(both, specs, strict=True)]
    if all(fitting) and (problem := settings.model.sets_problem(specs)) is not None:
        yield problem
    sides = zip("ab", both, specs, strict=True)
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


def _weights_problem(source: Path) -> str | None:
    """Why no weights are where `source` says; None where they are, put beside their checkpoint first."""
    try:
        extract_weights(source)
    except UserError as error:
        return str(error)
    return None if holds_weights(source) else no_weights(source)


def _starting_point_problems(
    settings: StageSettings, manifest: Manifest, left_out: Collection[str]
) -> Iterator[str]:
    if settings.train is None and settings.weights is None and not settings.random_weights:
        yield (
            "weights is not given: random weights would be evaluated.\n"
            "Fix: weights=RUN, where RUN is a run folder, RUN@STEP, a checkpoint's folder or a .safetensors "
            "file; or random_weights=true to measure an untrained model on purpose."
        )
    for key, source in _averaged(settings):
        if key not in left_out and (problem := _weights_problem(source)) is not None:
            yield f"{key} = {source}: {problem}"
    for key, source in starting_points(settings):
        if key in left_out:
            continue
        if (problem := _weights_problem(source)) is not None:
            yield f"{key} = {source}: {problem}"
            continue
        path = weights_file(source)
        try:
            check_word_source(path, key, word_source(settings, manifest))
            check_unit_parts(path, key, settings.model)
            check_set_marks(path, key, settings.model)
        except UserError as error:
            yield str(error)
        problem = kinds_problem(settings, key, source) or embedding_dim_problem(settings, key, source)
        if problem is not None:
            yield problem
