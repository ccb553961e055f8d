"""A trained model in a program of one's own: read from its run folder, asked for embeddings and figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from swamp_dist.config import EvaluateSettings, ModelSettings, StageSettings
from swamp_dist.data.field_inputs import FieldInputs, stage_inputs
from swamp_dist.data.inputs import input_spec, input_specs, uses_words
from swamp_dist.data.manifest import Manifest, load_manifest
from swamp_dist.data.memory_items import OBJECTS, Items, item_objects, item_rows
from swamp_dist.data.reader import open_reader
from swamp_dist.data.vocabulary import with_vocabulary
from swamp_dist.data.words import WordTable, open_words
from swamp_dist.distributed import alone
from swamp_dist.errors import UserError
from swamp_dist.evaluate.checks import check_normalise
from swamp_dist.evaluate.embedding import Embedded, embed_split
from swamp_dist.evaluate.readers import open_bank, open_readers
from swamp_dist.evaluate.retrieval import evaluate_set_split, evaluate_split
from swamp_dist.evaluate.scored import encoders_for
from swamp_dist.file_names import weights_file
from swamp_dist.loading import from_values, load, load_dumped
from swamp_dist.model.cross_attention import pair_score
from swamp_dist.model.dual_encoder import DualEncoder, build_dual_encoder, unit_length
from swamp_dist.records import EvaluationResult, Inputs, InputSpec, Words, map_tensors
from swamp_dist.sources.captions import caption_ids
from swamp_dist.train.checkpoint_weights import extract_weights
from swamp_dist.train.input_parts import check_unit_parts
from swamp_dist.train.named_weights import holds_weights, no_weights, stage_file_of
from swamp_dist.train.set_marks import check_set_marks
from swamp_dist.train.weights import load_into, load_weights
from swamp_dist.train.weights_header import embedding_dim_of
from swamp_dist.train.word_source import check_word_source


@dataclass(frozen=True)
class TrainedModel:
    """Both encoders of a stage in evaluation mode, with what tells how to feed them."""

    settings: StageSettings
    """The stage whose model this is."""
    weights: Path
    """The file that the encoders were read from."""
    manifest: Manifest
    """The stage's shard set: it fixes what one item of a field looks like."""
    encoders: DualEncoder
    device: torch.device

    @property
    def fields(self) -> tuple[str, str]:
        """Names of modality A and of modality B."""
        return self.settings.data.a, self.settings.data.b

    def embed(self, field: str, items: Items, chunk: int = 256) -> Tensor:
        """Embed items that are in memory.

        Args:
            field: the modality, one of `fields`.
            items: (n, width) vectors; for a field of words or texts, n texts; for a field of images, the
                bytes of n files; for a ragged field, n arrays (elements, width). n is at least 1.
            chunk: items embedded at a time.

        Returns:
            (n, D) float32 rows of unit length, on the CPU: a product of rows of both modalities is a cosine.

        Raises:
            UserError: no such field, or items that do not fit it.
        """
        if field not in self.fields:
            raise UserError(f"this model has no field {field!r}; it has {' and '.join(self.fields)}")
        place = self.fields.index(field)
        if not len(items):
            raise UserError(f"field {field!r}: no items to embed")
        inputs = self._chunks(field, self._specs[place], items, chunk)
        return torch.cat([self.encode(place, part).cpu() for part in inputs])

    def evaluate(
        self,
        split: str,
        shards: Path | str | None = None,
        relevance: tuple[Literal["pair", "class"], ...] = ("pair",),
        chunk: int = 256,
        **settings: Any,
    ) -> EvaluationResult:
        """Retrieval in both directions on a split, as a stage's `evaluate` computes it.

            model.evaluate("test", relevance=("class",), gallery="test_photos", distance="euclidean")

        Args:
            split: name of the split.
            shards: folder of another shard set with the same fields; default: the stage's own.
            relevance: what counts as right: an item's own partners, or all items of its class.
            chunk: items embedded at a time; part of the numbers' definition.
            settings: others of an entry of a job's `evaluate`.

        Raises:
            UserError: no such setting, split or classes, or a set that the model does not fit.
        """
        named = {"split": split, "relevance": relevance, "chunk": chunk, **settings}
        asked = from_values(named, EvaluateSettings, "evaluate")
        manifest, score, world = self.open_shards(shards), pair_score(self.settings.model), alone(self.device)
        both = (lambda rows: self.encoders(rows, None)), (lambda rows: self.encoders(None, rows))
        check_normalise(self.settings, asked)
        encoders, inputs = encoders_for(both, self.settings.model, asked), self.inputs(manifest)
        names = self.settings.data.names
        opened = open_bank(manifest, asked, self.settings.data)
        with open_readers(manifest, asked, self.settings.data) as readers, opened as bank, torch.no_grad():
            if score is None:
                return evaluate_split(*encoders, manifest, asked, *names, world, readers, inputs, bank)
            return evaluate_set_split(encoders, score, manifest, asked, *names, world, readers, inputs)

    def open_shards(self, shards: Path | str | None = None) -> Manifest:
        """The stage's shard set, or another one if the encoders take its fields.

        Raises:
            UserError: it has other fields, or word vectors from another file.
        """
        if shards is None:
            return self.manifest
        manifest = load_manifest(Path(shards))
        for field, expected in zip(self.fields, self._specs, strict=True):
            found = input_spec(manifest, field, self.settings.data.images.size)
            other = (found.kind, found.word_dim) != (expected.kind, expected.word_dim)
            if other or (found.kind != "words" and found.shape != expected.shape):
                raise UserError(
                    f"{manifest.folder}: field {field!r}: the model takes {expected}, found {found}.\n"
                    "Name a set that was built like the one it was trained on."
                )
        _check_words(self.weights, manifest, self.settings)
        return manifest

    def inputs(self, manifest: Manifest) -> tuple[FieldInputs, FieldInputs]:
        """What makes the inputs of both encoders of items that are stored in a set."""
        return stage_inputs(manifest, self.settings.data, self.settings.model)

    def _chunks(self, field: str, spec: InputSpec, items: Items, chunk: int) -> Iterator[Inputs]:
        """The items as the encoder takes them, on the device: float32 vectors, words of the table, pixels,
        tokens, sets."""
        starts = range(0, len(items), chunk)
        if spec.kind in OBJECTS:
            yield from self._raw_chunks(field, spec, items, chunk)
            return
        if self._words is not None and spec.word_dim is not None:
            texts = [item for item in items if isinstance(item, str)]
            if isinstance(items, str) or len(texts) != len(items):
                raise UserError(f"field {field!r} holds words: expected a list of captions as text")
            table, index = self._words
            ids = caption_ids(texts, index, table.record.max_words)
            for i in starts:
                yield Words(*(part.to(self.device) for part in table.batch(ids[i : i + chunk])))
            return
        rows = item_rows(field, spec, items)
        for i in starts:
            part = rows[i : i + chunk].to(self.device)
            yield part if spec.kind == "frames" else part.float()

    def _raw_chunks(self, field: str, spec: InputSpec, items: Items, chunk: int) -> Iterator[Inputs]:
        raw = item_objects(field, spec, items)
        maker = self.inputs(self.manifest)[self.fields.index(field)]
        for i in range(0, len(raw), chunk):
            made = maker.make(raw[i : i + chunk], partial(_blame_item, i))
            yield map_tensors(made, lambda rows: rows.to(self.device))

    def encode(self, place: int, inputs: Inputs) -> Tensor:
        """(n, D) unit-length embeddings of modality A (place 0) or B (1); `inputs` are on the device.

        Raises:
            UserError: the model scores pairs of sets and makes no embeddings.
        """
        if not self.encoders.embeds:
            raise UserError(
                f"{self.weights}: its model.sets = cross_attention scores pairs of items and makes no "
                "embeddings.\nFix: rank a split with evaluate, or train with model.sets={kind: par}"
            )
        with torch.no_grad():
            found = self.encoders(inputs, None) if place == 0 else self.encoders(None, inputs)
        assert isinstance(found, Tensor)
        return unit_length(found) if self.encoders.is_free else found

    @cached_property
    def _specs(self) -> tuple[InputSpec, InputSpec]:
        return input_specs(self.manifest, self.settings.data)

    @cached_property
    def _words(self) -> tuple[WordTable, dict[str, int]] | None:
        """The word table and the row of every word."""
        table = open_words(self.manifest)
        return None if table is None else (table, {word: row for row, word in enumerate(table.words) if row})


def _blame_item(first: int, row: int, finding: str, _damaged: bool) -> UserError:
    return UserError(f"item {first + row}: {finding}")


@dataclass(frozen=True)
class EmbeddedSplit:
    """All items of a split, embedded."""

    keys: tuple[str, ...]
    """Keys of the entries, in the order of the set; `entry` of both sides counts in them."""
    a: Embedded
    b: Embedded


def load_model(
    source: Path | str,
    *,
    job: Path | str | StageSettings | None = None,
    shards: Path | str | None = None,
    device: str | None = None,
) -> TrainedModel:
    """The model of a run folder, or of a weights file, ready to embed.

    Args:
        source: run folder of a stage, `RUN@STEP`, a checkpoint's folder, or a .safetensors file.
        job: settings of the stage, or their file; default: stage.yaml beside the weights.
        shards: where the stage's shard set is now, if it was moved.
        device: for example `cuda`; default: a GPU where there is one.

    Raises:
        UserError: nothing there, weights of another model, or a shard set that does not fit them.
    """
    source = Path(source)
    settings = _load_settings(source, job)
    if shards is not None:
        data = settings.data.model_copy(update={"shards": Path(shards)})
        settings = settings.model_copy(update={"data": data})
    weights = _find_weights(source, settings)
    loaded = load_weights(weights)  # first, as it says best what is wrong with the file
    settings = settings.model_copy(update={"model": _with_dim(settings.model, weights)})
    manifest = load_manifest(settings.data.shards, settings.data.recipe)
    settings = settings.model_copy(update={"model": with_vocabulary(settings.model, manifest)})
    check_unit_parts(weights, "weights", settings.model)
    check_set_marks(weights, "weights", settings.model)
    _check_words(weights, manifest, settings)
    specs = input_specs(manifest, settings.data)
    # Without prototypes, which no embedding uses.
    encoders = build_dual_encoder(settings.model, *specs, None, True, settings.seed)
    load_into(encoders, loaded, weights, "auto")
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return TrainedModel(settings, weights, manifest, encoders.to(chosen).eval(), chosen)


def embed(
    model: TrainedModel, split: str, shards: Path | str | None = None, chunk: int = 256
) -> EmbeddedSplit:
    """Embed every item of a split once, as an evaluation does.

    Args:
        model: from `load_model`.
        split: name of the split.
        shards: folder of another shard set with the same fields; default: the stage's own.
        chunk: items embedded at a time; their last bits depend on it.

    Raises:
        UserError: no such split, or a set that the model does not fit.
    """
    manifest = model.open_shards(shards)
    entries, sides = len(manifest.split(split)), []
    with contextlib.closing(open_reader(manifest, split, model.fields)) as reader:
        for place, inputs in enumerate(model.inputs(manifest)):
            several, encode = manifest.field(inputs.field).items, partial(model.encode, place)
            sides.append(embed_split(encode, reader, inputs, entries, several, chunk, alone(model.device)))
    return EmbeddedSplit(tuple(manifest.split(split).keys(range(entries))), *sides)


def _load_settings(source: Path, job: Path | str | StageSettings | None) -> StageSettings:
    if isinstance(job, StageSettings):
        return job
    if job is not None:
        return load(Path(job), StageSettings)
    return load_dumped(stage_file_of(source), StageSettings)


def _find_weights(source: Path, settings: StageSettings) -> Path:
    """The weights of a stage that trained, or those that a stage without training evaluates."""
    named = source if settings.weights is None or weights_file(source).is_file() else settings.weights
    extract_weights(named)
    if not holds_weights(named):
        raise UserError(f"{named}: {no_weights(named)}")
    return weights_file(named)


def _with_dim(model: ModelSettings, weights: Path) -> ModelSettings:
    dim = embedding_dim_of(weights, model)
    if dim is None:
        raise UserError(
            f"{weights}: weights of other encoders than model.a = {model.a.kind} and "
            f"model.b = {model.b.kind}.\n"
            "Fix: name the settings that they were trained with (job=...)."
        )
    return model.model_copy(update={"embedding_dim": dim})


def _check_words(weights: Path, manifest: Manifest, settings: StageSettings) -> None:
    words = manifest.record.words
    used = words if uses_words(manifest, settings.data) else None
    check_word_source(weights, "weights", None if used is None else used.source_sha256)
