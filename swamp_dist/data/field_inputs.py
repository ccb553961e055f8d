"""Stored items of a field as its encoder takes them: one rule for training, evaluation and inference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch

from swamp_dist.config import DataSettings, ImageSettings, ModelSettings
from swamp_dist.data.image_header import REFUSED, ImageFault
from swamp_dist.data.images import hide_decoder_warnings
from swamp_dist.data.manifest import Manifest
from swamp_dist.data.transforms import make_pixels
from swamp_dist.data.words import WordTable, open_words
from swamp_dist.encoders.encoder import Tokenizer
from swamp_dist.errors import UserError
from swamp_dist.records import InputKind, Inputs, Sets, Tokens

Draw = tuple[object, ...]
"""What the random changes of one item depend on."""
Blame = Callable[[int, str, bool], UserError]
"""The error that names where row i comes from and what was found there, and says whether it is damage."""
Tokenizers = tuple[Tokenizer | None, Tokenizer | None]
"""Those of the encoders of a and b."""
NO_TOKENIZERS: Tokenizers = (None, None)


@dataclass(frozen=True)
class FieldInputs:
    """Makes inputs of the items of one field; loader processes hold a copy."""

    field: str
    kind: InputKind = "array"
    words: WordTable | None = None
    images: ImageSettings = ImageSettings()
    tokenizer: Tokenizer | None = None
    threads: int = 1
    """That decode images at a time: more than one where no loader processes do."""

    def make(self, rows: np.ndarray, blame: Blame, draws: Sequence[Draw] | None = None) -> Inputs:
        """(n, ...) inputs of n stored items, on the CPU: an array as it is stored, the words of a table,
        pixels (n, 3, S, S) uint8, tokens, or sets padded to the longest of them.

        Args:
            rows: (n, ...) values of an array or word ids; (n,) objects: `bytes` or `str` of images and
                texts, arrays (elements, ...) of sets.
            blame: makes the error of an item that is refused.
            draws: of every item in training; None: the deterministic form of an evaluation.

        Raises:
            UserError: what `blame` made of it: an image is too large, cut short or damaged.
        """
        if self.words is not None:
            return self.words.batch(rows)
        if self.kind == "image":
            return torch.from_numpy(self._pixels(rows, blame, draws))
        if self.kind == "text":
            return self._tokens(rows)
        if self.kind == "set":
            return pad_sets(rows)
        return torch.from_numpy(rows)

    def _pixels(self, rows: np.ndarray, blame: Blame, draws: Sequence[Draw] | None) -> np.ndarray:
        size = self.images.size
        batch = np.empty((len(rows), 3, size, size), dtype=np.uint8)

        def decode(i: int) -> ImageFault | None:
            try:
                pixels = make_pixels(rows[i], self.images, None if draws is None else (*draws[i], self.field))
            except ImageFault as fault:
                return fault
            batch[i] = pixels.transpose(2, 0, 1)
            return None

        with hide_decoder_warnings():
            for i, fault in enumerate(self._map(decode, len(rows))):  # the first fault, by rows
                if fault is not None:
                    damaged = fault.kind not in REFUSED
                    raise blame(i, f"field {self.field!r}: {fault}", damaged)
        return batch

    def _map(self, decode: Callable[[int], ImageFault | None], count: int) -> Iterator[ImageFault | None]:
        """What `decode` says of rows 0 .. count - 1; the decoder lets other threads work meanwhile."""
        if self.threads == 1:
            yield from map(decode, range(count))
            return
        with ThreadPoolExecutor(self.threads) as pool:
            yield from pool.map(decode, range(count))

    def _tokens(self, rows: np.ndarray) -> Tokens:
        if self.tokenizer is None:
            raise UserError(
                f"field {self.field!r} holds texts, and the encoder of this modality has no tokenizer.\n"
                "Fix: choose an encoder of texts, for example bag_of_words"
            )
        ids, mask = self.tokenizer(rows.tolist())
        return Tokens(torch.as_tensor(ids), torch.as_tensor(mask))


def pad_sets(sets: Sequence[np.ndarray] | np.ndarray) -> Sets:
    """Arrays (elements, ...) of one dtype as sets, zeros behind the elements of all but the longest."""
    lengths = np.array([len(elements) for elements in sets])
    values = np.zeros((len(sets), lengths.max(), *sets[0].shape[1:]), dtype=sets[0].dtype)
    for row, elements in zip(values, sets, strict=True):
        row[: len(elements)] = elements
    mask = np.arange(values.shape[1]) < lengths[:, None]
    return Sets(torch.from_numpy(values), torch.from_numpy(mask))


def tokenizers(model: ModelSettings) -> Tokenizers:
    """Those of both encoders of a model."""
    return model.a.tokenizer(), model.b.tokenizer()


def stage_inputs(
    manifest: Manifest, data: DataSettings, model: ModelSettings
) -> tuple[FieldInputs, FieldInputs]:
    """What makes the inputs of both encoders of an evaluation, whose fields hold single items; images are
    decoded by as many threads as training has loader processes.

    Raises:
        UserError: no such field.
    """
    both, threads = zip((data.a, data.b), tokenizers(model), strict=True), max(1, data.workers)
    made = (field_inputs(manifest, field, data.images, each) for field, each in both)
    a, b = (replace(each, threads=threads) for each in made)
    return a, b


def field_inputs(
    manifest: Manifest,
    field: str,
    images: ImageSettings | None = None,
    tokenizer: Tokenizer | None = None,
) -> FieldInputs:
    """What makes inputs of a field of a set.

    Raises:
        UserError: there is no such field.
    """
    spec, words = manifest.field(field), open_words(manifest)
    of_words = words if words is not None and field in words.record.fields else None
    kind: InputKind = "set" if spec.ragged else spec.kind if of_words is None else "words"
    return FieldInputs(field, kind, of_words, images or ImageSettings(), tokenizer)
