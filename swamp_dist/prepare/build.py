"""Builds a shard set from its recipe: the one place where sources and data meet."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from swamp_dist.config import ShardSettings, VocabularyBuildSettings
from swamp_dist.data.build import Builder, MissingPolicy, Report, build_units, one_by_one
from swamp_dist.data.coverage import COVERAGE_FILE, COVERAGE_TEXT, Coverage
from swamp_dist.data.manifest import (
    MANIFEST_FILE,
    Manifest,
    ManifestRecord,
    SetTables,
    read_manifest,
)
from swamp_dist.data.shard_plan import BuildPlan, BuildSource, plan_build
from swamp_dist.data.staging import Staging, building_folder
from swamp_dist.data.vocabulary import vocabulary_record
from swamp_dist.data.writer import building_alone, find_existing, finish_set
from swamp_dist.encoders.vocabulary import read_vocabulary
from swamp_dist.errors import UserError
from swamp_dist.file_names import VOCABULARY_FILE
from swamp_dist.long_work import told_while
from swamp_dist.prepare import classes as class_tables
from swamp_dist.prepare import vocabulary as caption_vocabulary
from swamp_dist.prepare import words as caption_words
from swamp_dist.prepare.build_note import noted_build
from swamp_dist.prepare.raw_data import (
    FileSources,
    RawData,
    caption_field,
    has_captions,
    open_raw_data,
    pin_source,
    raw_marks,
    source_record,
)
from swamp_dist.prepare.texts import count_captions, with_texts
from swamp_dist.records import Sample

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BuildWorkers:
    """Who builds the shards: this process, several child processes, or tasks of a Ray."""

    processes: int = 1
    ray: bool = False


@dataclass(frozen=True)
class _OpenBuild:
    """A build whose raw data are open."""

    settings: ShardSettings
    raw: RawData
    source: BuildSource
    plan: BuildPlan
    staging: Staging
    policy: MissingPolicy
    tables: SetTables


def build_shards(
    settings: ShardSettings,
    out: Path,
    force: bool = False,
    workers: BuildWorkers | None = None,
    report: Report = lambda done, total: None,
) -> Manifest:
    """Build the shard set at `out`, or return the one that is there if it has the same recipe.

    A build that was stopped goes on from its finished shards. Bytes do not depend on `workers`.

    Raises:
        UserError: `out` holds another set (without `force`) or other files; the source's raw data are
            missing; the samples cannot be stored; a child process died.
    """
    settings = _pin(settings, out)
    existing = _existing(settings, out, force)
    if existing is not None:
        return existing  # before the samples are made, which can take minutes
    with building_alone(out):
        existing = _existing(settings, out, force)
        if existing is not None:
            return existing
        with noted_build(out, report) as report:
            with told_while(logger, f"opening the raw data of {settings.name}"):
                build = _open(settings, out)
            builder = _builder(build, workers or BuildWorkers())
            with told_while(logger, f"building the shards of {settings.name}"):
                manifest, _ = finish_set(
                    build.staging, build.plan, build.policy, builder, report, build.raw.published,
                    build.tables,
                )  # fmt: skip
    return manifest


def build_part(
    settings: ShardSettings,
    out: Path,
    part: tuple[int, int],
    force: bool = False,
    workers: BuildWorkers | None = None,
    report: Report = lambda done, total: None,
) -> None:
    """Build the shards whose number s over all splits has s mod N = I, for `part` = (I, N), and no more.

    Parts may run at the same time on several hosts that share a file system. `build_shards` closes the set.

    Raises:
        UserError: as `build_shards`.
    """
    settings = _pin(settings, out)
    if _existing(settings, out, force) is not None:
        return
    with told_while(logger, f"opening the raw data of {settings.name}"):
        build = _open(settings, out)
    chosen = part_units(build.plan, part)
    builder = _builder(build, workers or BuildWorkers())
    try:
        build_units(build.staging, build.plan, build.policy, builder, report, chosen)
    except UserError:
        if _existing(settings, out, force) is None:
            raise
        logger.info("%s was finished by another process meanwhile", out)
        return
    logger.info("part %d/%d: %d of %d shards are finished", *part, len(chosen), len(build.plan.units))


def part_units(plan: BuildPlan, part: tuple[int, int]) -> Sequence[Any]:
    """The plan's units of one part."""
    index, count = part
    return [unit for number, unit in enumerate(plan.units) if number % count == index]


def read_coverage(folder: Path) -> tuple[Coverage | None, str]:
    """A set's coverage report and its text; nothing for sets from before there were reports."""
    if not (folder / COVERAGE_FILE).is_file():
        return None, ""
    coverage = Coverage.model_validate_json((folder / COVERAGE_FILE).read_bytes())
    return coverage, (folder / COVERAGE_TEXT).read_text("utf-8")


def open_build_source(settings: ShardSettings, words: Path | None) -> BuildSource:
    """The raw data of a recipe as a build takes them; `words` is the folder of the set's word table or
    vocabulary."""
    return _build_source(open_raw_data(settings.source), settings, words)


# -- opening ---------------------------------------------------------------------------------------


def _pin(settings: ShardSettings, out: Path) -> ShardSettings:
    """The recipe as one start of a build keeps it: its child processes refuse an edited module or file.

    A set may be where its raw files are not; it is then taken for one of the same files.
    """
    source = pin_source(settings.source)
    if isinstance(source, FileSources) and source.sha256 is None and (out / MANIFEST_FILE).is_file():
        source = source.model_copy(update={"sha256": read_manifest(out).record.source.get("sha256")})
    return settings.model_copy(update={"source": source})


def _open(settings: ShardSettings, out: Path) -> _OpenBuild:
    raw = open_raw_data(settings.source)
    if settings.words is None and settings.vocabulary is None and has_captions(raw.splits):
        logger.info(
            "captions are kept as texts, in field %r; words.vectors in the recipe makes word ids of them",
            caption_field(raw.splits),
        )
    decides: dict[str, Any] = {"raw": marks} if (marks := raw_marks(settings.source)) else {}
    sha256 = ""
    if settings.words is not None:
        sha256 = caption_words.vectors_sha256(settings.words.vectors)
        decides["words"] = {"vectors": sha256, "max_words": settings.words.max_words}
    if settings.vocabulary is not None:
        decides["vocabulary"] = caption_vocabulary.vocabulary_marks(settings.vocabulary)
    names = class_tables.names_of(raw.splits)
    if names or settings.class_vectors is not None:
        decides["classes"] = class_tables.class_marks(names, settings.class_vectors)
    plan = plan_build(_recipe(settings), BuildSource(raw.splits, raw.item_fields, raw.ragged_fields), decides)
    staging = Staging(out, plan.hash)
    staging.prepare()
    words = None
    if settings.words is not None:
        words = caption_words.prepare_words(settings.words, raw.splits, sha256, staging)
    known = None
    if settings.vocabulary is not None:
        vocabulary = caption_vocabulary.prepare_vocabulary(settings.vocabulary, raw.splits, staging)
        known = vocabulary_record(vocabulary, settings.vocabulary)
    classes = class_tables.prepare_classes(names, settings.class_vectors, staging) if names else None
    tables = SetTables(words, known, classes)
    source = _build_source(raw, settings, staging.set)
    policy = MissingPolicy(settings.on_missing == "skip", settings.max_missing_share)
    return _OpenBuild(settings, raw, source, plan, staging, policy, tables)


def _build_source(raw: RawData, settings: ShardSettings, folder: Path | None) -> BuildSource:
    if settings.words is None and has_captions(raw.splits):
        return _source_of_texts(raw, settings.vocabulary, folder)
    if settings.words is None or folder is None:
        return BuildSource(raw.splits, raw.item_fields, raw.ragged_fields)
    index, most = caption_words.read_index(folder), settings.words.max_words
    splits = {name: caption_words.with_words(split, index, most) for name, split in raw.splits.items()}
    field = caption_field(raw.splits)
    tally = partial(caption_words.count_words, index=index, field=field)
    return BuildSource(splits, raw.item_fields | {field}, raw.ragged_fields, tally)


def _source_of_texts(
    raw: RawData, settings: VocabularyBuildSettings | None, folder: Path | None
) -> BuildSource:
    """Captions stay texts; with a vocabulary, known words are counted."""
    fields, splits = raw.item_fields | {caption_field(raw.splits)}, raw.splits
    tally: Callable[[Sample], Mapping[str, int]] = count_captions
    if settings is not None and folder is not None:
        known = read_vocabulary(folder / VOCABULARY_FILE)
        splits = {
            name: caption_vocabulary.with_known_words(split, known, settings.unknown)
            for name, split in splits.items()
        }
        tally = partial(caption_vocabulary.count_known, vocabulary=known)
    with_captions = {name: with_texts(split) for name, split in splits.items()}
    return BuildSource(with_captions, fields, raw.ragged_fields, tally)


def _recipe(settings: ShardSettings) -> ManifestRecord:
    return ManifestRecord(
        name=settings.name, source=source_record(settings.source),
        entries_per_shard=settings.entries_per_shard, shuffle_seed=settings.shuffle_seed,
        fields={}, classes=0, splits={},
    )  # fmt: skip


def _builder(build: _OpenBuild, workers: BuildWorkers) -> Builder:
    if not workers.ray and workers.processes == 1:
        return one_by_one(build.staging, build.plan, build.source, build.policy)
    words = build.staging.set if build.tables.known_words is not None else None
    open_source = partial(open_build_source, build.settings, words)
    if workers.ray:
        from swamp_dist.prepare.ray_tasks import on_ray

        return on_ray(build.staging, build.plan, open_source, build.policy)
    from swamp_dist.prepare.workers import build_in_processes

    return build_in_processes(build.staging, build.plan, open_source, build.policy, workers.processes)


# -- a set that is there ---------------------------------------------------------------------------


def _existing(settings: ShardSettings, out: Path, force: bool) -> Manifest | None:
    """The set at `out` if this recipe made it, without what its build may have left beside it."""
    existing = find_existing(out, _recipe(settings), force)
    if existing is None:
        return None
    differences = list(caption_words.word_differences(existing, settings.words))
    differences += caption_vocabulary.vocabulary_differences(existing, settings.vocabulary)
    differences += class_tables.class_differences(existing, settings.class_vectors)
    if differences:
        raise UserError(
            f"{out} holds a shard set of another recipe:\n" + "\n".join(differences) + "\n"
            "Write to another folder (--out), remove this one, or replace it with --force."
        )
    logger.info("shard set %s is up to date", out)
    shutil.rmtree(building_folder(out), ignore_errors=True)  # of a build killed after it closed the set
    coverage, _ = read_coverage(out)
    if coverage is not None and coverage.skipped and settings.on_missing == "fail":
        logger.warning(
            "%d entries were left out when it was built: see %s; build anew with --force",
            coverage.skipped,
            out / COVERAGE_TEXT,
        )
    return existing
