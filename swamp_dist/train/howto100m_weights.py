"""Checkpoints of the published video-text model (Miech et al. 2019), read into our weights and written back.

A published file is a bare dictionary of 20 tensors saved by torch. Ten of them are the model. The other ten
are batch normalisations of its two gates that the published forward pass never applies: they are checked
when a file is read and kept nowhere; a written file has those of fresh layers.
Published inputs are brought to unit length before they reach the model: `model.b.unit_parts` does that here.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from swamp_dist.atomic_files import replace_atomically, write_through
from swamp_dist.errors import UserError, system_error
from swamp_dist.train.deepspeed_library import beside_tensors
from swamp_dist.train.input_parts import UNIT_PARTS
from swamp_dist.train.weights import Weights

TextSide = Literal["a", "b"]

_TEXT = {"text_pooling.fc": "fc", "GU_text.fc": "unit.fc", "GU_text.cg.fc": "unit.gate"}
_VIDEO = {"GU_video.fc": "fc", "GU_video.cg.fc": "gate"}
_GATES = ("GU_text", "GU_video")
_UNUSED = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Sizes:
    """What the shapes of a model's tensors say."""

    word_dim: int
    sentence_dim: int
    embedding_dim: int
    video_dim: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each of the 20 published tensors, in the published order."""
        word, sentence, dim, video = (self.word_dim, self.sentence_dim, self.embedding_dim, self.video_dim)
        found: dict[str, tuple[int, ...]] = {**_linear("text_pooling.fc", word, sentence)}
        for gate, width in zip(_GATES, (sentence, video), strict=True):
            found |= _linear(f"{gate}.fc", width, dim) | _linear(f"{gate}.cg.fc", dim, dim)
            found |= {f"{gate}.cg.batch_norm.{name}": (dim,) for name in _UNUSED}
            found[f"{gate}.cg.batch_norm.num_batches_tracked"] = ()
        return found


def _linear(name: str, width: int, out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


def read_published(path: Path, text: TextSide = "a") -> Weights:
    """A published checkpoint as our weights, float32; no code in it is ever run.

    Args:
        path: the file, in torch's old container or its newer zip.
        text: the modality of our model that is text; the other one is video.

    Raises:
        UserError: absent, damaged, code inside, or not exactly the 20 tensors with their shapes, types
            and finite values.
    """
    tensors = _load_tensors(path)
    sizes = _check(path, tensors)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    metadata = {
        "origin": "published howto100m checkpoint",
        "file": path.name,
        "sha256": digest,
        "embedding_dim": str(sizes.embedding_dim),
    }
    half, rest = divmod(sizes.video_dim, 2)
    if not rest:  # the published loader scales both halves
        metadata[UNIT_PARTS] = json.dumps({"b" if text == "a" else "a": [half, half]})
    return Weights({our: tensors[theirs].clone() for theirs, our in _names(text).items()}, metadata)


def model_section(weights: Weights, text: TextSide) -> str:
    """The `model` section of a job that imported weights fit, as YAML."""
    sizes = _sizes_of(weights.tensors, text)
    words = "{kind: words}"
    if sizes.sentence_dim != sizes.embedding_dim:
        words = f"{{kind: words, sentence_dim: {sizes.sentence_dim}}}"
    half, rest = divmod(sizes.video_dim, 2)
    video = "{kind: gated}" if rest else f"{{kind: gated, unit_parts: [{half}, {half}]}}"
    a, b = (words, video) if text == "a" else (video, words)
    return f"model:\n  embedding_dim: {sizes.embedding_dim}\n  a: {a}\n  b: {b}"


def published_tensors(weights: Weights, source: Path) -> OrderedDict[str, Tensor]:
    """Our weights as the 20 tensors that the published code loads strictly; prototypes have no place there.

    Raises:
        UserError: the encoders are not one of words and one gated unit, or the gated one took its input as it
            is.
    """
    text = _text_side(weights.tensors, source)
    video = "b" if text == "a" else "a"
    if json.loads(weights.metadata.get(UNIT_PARTS, "{}")).get(video) == []:
        raise UserError(
            f"{source}: model.{video}.unit_parts was null in training; the published code scales both halves "
            "of a video's vector, and the model would be fed otherwise there.\n"
            "Fix: train with unit_parts, for example [2048, 2048]."
        )
    sizes = _sizes_of(weights.tensors, text)
    ours = _names(text)
    tensors: OrderedDict[str, Tensor] = OrderedDict()
    for name, shape in sizes.shapes().items():
        last = name.rsplit(".", 1)[1]
        if name in ours:
            tensors[name] = weights.tensors[ours[name]].float().contiguous()
        elif last == "num_batches_tracked":
            tensors[name] = torch.zeros(shape, dtype=torch.int64)
        else:
            tensors[name] = torch.full(shape, 1.0 if last in ("weight", "running_var") else 0.0)
    return tensors


def write_published(path: Path, tensors: OrderedDict[str, Tensor]) -> None:
    """Write `path` so that it is either whole or absent, in the old container, which any torch reads.

    Raises:
        UserError: there is such a file, or it cannot be written.
    """
    if path.exists():
        raise UserError(f"{path} exists and is not replaced. Remove it or name another file.")
    try:
        with replace_atomically(path) as temporary:
            write_through(
                temporary, lambda sink: torch.save(tensors, sink, _use_new_zipfile_serialization=False)
            )
    except OSError as error:
        raise UserError(f"{path} could not be written.\n{system_error(error)}") from None


def _names(text: TextSide) -> dict[str, str]:
    """Our name of each published tensor that is part of the model."""
    video = "b" if text == "a" else "a"
    pairs = [(theirs, f"{text}.{ours}") for theirs, ours in _TEXT.items()]
    pairs += [(theirs, f"{video}.{ours}") for theirs, ours in _VIDEO.items()]
    return {f"{theirs}.{kind}": f"{ours}.{kind}" for theirs, ours in pairs for kind in ("weight", "bias")}


def _load_tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path}: no checkpoint there. Correct the path or download the file first.")
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: not loaded: damaged, or a pickle that holds more than tensors{beside_tensors(error)}; "
            "code in it is never run.\nExpected the bare state dict that the published training code saves."
        ) from None
    except Exception as error:  # the reader of a damaged file fails in whatever way its bytes lead to
        raise UserError(
            f"{path}: not a readable torch checkpoint ({type(error).__name__}: {error}).\n"
            "Copy or download it again."
        ) from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in found.items()
    ):
        inside = ", ".join(map(str, list(found)[:5])) if isinstance(found, dict) else type(found).__name__
        raise UserError(
            f"{path}: expected a bare dictionary of 20 tensors, found {inside}.\n"
            "Fix: save the state dict alone, without optimiser or wrapper."
        )
    return dict(found)


def _check(path: Path, tensors: Mapping[str, Tensor]) -> Sizes:
    """Sizes of a published model, after names, shapes, types and values are found right.

    Sizes are read from the tensors that no other size decides; everything else must agree with them.
    """
    names = Sizes(1, 1, 1, 1).shapes()
    problems = [f"  {name}: missing" for name in names if name not in tensors]
    problems += [f"  {name}: unexpected" for name in tensors if name not in names]
    if not problems:
        flat = [
            f"  {n}: expected a matrix, found shape {tuple(tensors[n].shape)}"
            for n in _SIZED
            if tensors[n].dim() != 2
        ]
        sizes = None if flat else _published_sizes(tensors)
        problems = flat if sizes is None else _value_problems(tensors, sizes)
    if problems:
        shown = problems[:12] + ([f"  ... and {len(problems) - 12} more"] if len(problems) > 12 else [])
        raise UserError(
            f"{path}: not the published video-text model (20 tensors):\n"
            + "\n".join(shown)
            + "\nExpected the state dict of its text and video towers, as the published training code saves "
            "it."
        )
    return _published_sizes(tensors)


_SIZED = ("text_pooling.fc.weight", "GU_text.fc.weight", "GU_video.fc.weight")


def _published_sizes(tensors: Mapping[str, Tensor]) -> Sizes:
    pooling, text, video = (tensors[name].shape for name in _SIZED)
    return Sizes(pooling[1], pooling[0], text[0], video[1])


def _value_problems(tensors: Mapping[str, Tensor], sizes: Sizes) -> list[str]:
    problems = []
    for name, shape in sizes.shapes().items():
        value = tensors[name]
        dtype = torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        if tuple(value.shape) != shape:
            problems.append(f"  {name}: shape {tuple(value.shape)}, expected {shape}")
        elif value.dtype != dtype:
            problems.append(f"  {name}: {value.dtype}, expected {dtype}")
        elif value.layout != torch.strided or not value.is_contiguous():
            problems.append(f"  {name}: expected a plain, contiguous tensor")
        elif not torch.isfinite(value).all():
            problems.append(f"  {name}: holds values that are not finite")
    return problems


def _sizes_of(tensors: Mapping[str, Tensor], text: TextSide) -> Sizes:
    names = _names(text)
    return _published_sizes({theirs: tensors[ours] for theirs, ours in names.items()})


def _text_side(tensors: Mapping[str, Tensor], source: Path) -> TextSide:
    """Which modality is encoded as words, where the other one is a gated unit."""
    given = {name for name in tensors if name.startswith(("a.", "b."))}
    sides: tuple[TextSide, TextSide] = ("a", "b")
    for side in sides:
        if given == set(_names(side).values()):
            return side
    raise UserError(
        f"{source}: only a model with one encoder of kind words and one of kind gated has a published form; "
        f"this one holds {', '.join(sorted(given)[:4]) or 'neither'}{', ...' * (len(given) > 4)}."
    )
