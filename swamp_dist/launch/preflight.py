"""What can be refused before a rank starts, from settings and files alone; answers without torch.

`swamp run` asks on its own console, in a second; rank 0 asks again, for stages started another way.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

from swamp_dist.config import EvaluateSettings, StageSettings
from swamp_dist.data.inputs import check_clips, uses_words
from swamp_dist.data.lanes import plan_batches
from swamp_dist.data.manifest import Manifest, SplitIndex, load_manifest
from swamp_dist.evaluate.checks import check_evaluation, check_single_pairing
from swamp_dist.evaluate.results import check_metric_name, promised_metrics
from swamp_dist.launch.embedding_dim import embedding_dim_problem, starting_points, with_embedding_dim
from swamp_dist.launch.provenance import weights_sha256
from swamp_dist.launch.rundir import RunDir
from swamp_dist.records import UserError
from swamp_dist.train.commit_folder import BrokenError, read_commit, step_folders
from swamp_dist.train.fingerprint import check_fingerprint, fingerprint
from swamp_dist.train.input_parts import check_unit_parts
from swamp_dist.train.word_source import check_word_source

_WEIGHTS = "weights.safetensors"
_SUFFIX = ".safetensors"


def check_stage(
    settings: StageSettings, run_dir: RunDir, ranks: int, promised: Collection[Path] = ()
) -> Manifest:
    """The shard set of a stage that may start on so many ranks.

    Args:
        promised: run folders of stages that will be done before this one starts. Weights from there that
            do not exist yet are not looked at, nor what depends on them.

    Raises:
        UserError: shards, splits, fields, batch, ranks or starting weights do not fit (every problem in
            one message), or the run folder's newest commit belongs to another training.
    """
    manifest = load_manifest(settings.data.shards, settings.data.recipe)
    absent = set(_still_to_come(settings, promised))
    problems = [
        *_data_problems(settings, manifest, ranks),
        *_starting_point_problems(settings, manifest, absent),
    ]
    if problems:
        listed = "\n".join(f"- {problem}" for problem in dict.fromkeys(problems))
        raise UserError(f"stage {settings.name} cannot start over the shards in {manifest.folder}:\n{listed}")
    if settings.train is not None and not absent:
        _check_newest_commit(with_embedding_dim(settings), manifest, run_dir)
    return manifest


def training_split(settings: StageSettings, manifest: Manifest) -> SplitIndex:
    """The split that a training stage reads.

    Raises:
        UserError: none is named, or there is no such split.
    """
    if settings.data.train_split is None:
        raise UserError("data.train_split is null, but the stage trains: name the split to train on")
    return manifest.split(settings.data.train_split)


def validation(settings: StageSettings) -> tuple[EvaluateSettings, ...]:
    """The validation inside the training loop, written as an evaluation; () where there is none."""
    plan = settings.train.validate_on if settings.train is not None else None
    if plan is None:
        return ()
    relevance = "class" if plan.metric.startswith("class/") else "pair"
    return (EvaluateSettings(split=plan.split, relevance=(relevance,)),)


def training_marks(settings: StageSettings, data_hash: str) -> dict[str, object]:
    """The fingerprint of a training together with the weights it starts from."""
    marks = fingerprint(settings, data_hash)
    if settings.train is not None and settings.train.init_from is not None:
        marks["train.init_from (sha256)"] = weights_sha256(settings.train.init_from)
    return marks


def _data_problems(settings: StageSettings, manifest: Manifest, ranks: int) -> Iterator[str]:
    """Everything wrong with fields, splits, batch and evaluations; what is found twice, twice."""
    a, b, evaluations = settings.data.a, settings.data.b, (*settings.evaluate, *validation(settings))
    clips = settings.data.clips
    checks: list[Callable[[], object]] = [partial(manifest.field, a), partial(manifest.field, b)]
    checks = checks if clips is None else [partial(check_clips, manifest, a, b, clips)]
    checks += [partial(_check_batches, settings, manifest, ranks)] if settings.train is not None else []
    checks += [partial(manifest.split, each.split) for each in evaluations]
    checks += [partial(check_single_pairing, settings.data, each.split) for each in evaluations]
    if clips is None:
        checks += [partial(check_evaluation, manifest, each, a, b) for each in evaluations]
    checks += [partial(_check_metric, settings, each) for each in validation(settings)]
    for check in checks:
        try:
            check()
        except UserError as error:
            yield str(error)


def _check_metric(settings: StageSettings, evaluation: EvaluateSettings) -> None:
    assert settings.train is not None
    assert settings.train.validate_on is not None
    check_metric_name(settings.train.validate_on.metric, promised_metrics(evaluation), "train.validate_on")


def _check_batches(settings: StageSettings, manifest: Manifest, ranks: int) -> None:
    data, split = settings.data, training_split(settings, manifest)
    plan_batches(data.entries, data.pairs_per_entry, data.num_lanes, ranks, len(split))


def _still_to_come(settings: StageSettings, promised: Collection[Path]) -> Iterator[str]:
    """Keys of starting weights that a stage before this one has yet to write."""
    folders = {folder.resolve() for folder in promised}
    for key, source in starting_points(settings):
        inside = source.resolve() in folders or source.resolve().parent in folders
        if inside and not (source if source.suffix == _SUFFIX else source / _WEIGHTS).is_file():
            yield key


def _starting_point_problems(
    settings: StageSettings, manifest: Manifest, left_out: Collection[str]
) -> Iterator[str]:
    for key, source in starting_points(settings):
        if key in left_out:
            continue
        path = source / _WEIGHTS if source.is_dir() else source
        if not path.is_file():
            found = f"a folder without {_WEIGHTS}" if source.is_dir() else "nothing there"
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


def word_source(settings: StageSettings, manifest: Manifest) -> str | None:
    """sha256 of the word vectors that a stage's captions are read with; None where no field holds words."""
    words = manifest.record.words
    return words.source_sha256 if words is not None and uses_words(manifest, settings.data) else None


def _check_newest_commit(settings: StageSettings, manifest: Manifest, run_dir: RunDir) -> None:
    """Compare with the newest commit that looks whole; whether its bytes are is seen when it is loaded."""
    for _, folder in step_folders(run_dir.checkpoints):
        try:
            saved = read_commit(folder, verify_hash=False).meta["fingerprint"]
        except BrokenError:
            continue
        check_fingerprint(saved, training_marks(settings, manifest.hash))
        return
