"""What manifest.json holds, as strict records with the hash over all of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

_FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]  # never a path out of the folder


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FieldSpec(_Record):
    """What one item of a field is; `items`: an entry holds several, arrays on a leading axis.

    An array has dtype and shape; an image is the bytes of an encoded file, a text is UTF-8. The item of a
    `ragged` field is a set: an array of any number of elements of that shape, at least one, on a leading
    axis.
    """

    dtype: str = ""
    shape: tuple[int, ...] = ()
    items: bool = False
    kind: Literal["array", "image", "text"] = "array"
    ragged: bool = False

    @model_validator(mode="after")
    def _arrays_have_a_dtype(self) -> FieldSpec:
        if (self.kind == "array") != bool(self.dtype) or (self.kind != "array" and self.shape):
            raise ValueError(f"kind {self.kind} with dtype {self.dtype!r} and shape {self.shape}")
        if self.kind == "image" and self.items:
            raise ValueError("an entry holds one image in a field")
        if self.ragged and (self.kind != "array" or self.items):
            raise ValueError(
                "a ragged field holds one set of arrays per entry: no images, texts or several items"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_says_nothing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Arrays are written as they were before there were other kinds and sets, so that hashes stay."""
        content: dict[str, Any] = handler(self)
        nothing = {"kind"} if self.kind == "array" else {"dtype", "shape"}
        if not self.ragged:
            nothing.add("ragged")
        return {name: value for name, value in content.items() if name not in nothing}

    @property
    def is_of_one_shape(self) -> bool:
        """Whether all entries have arrays of the same dtype and shape in the field."""
        return self.kind == "array" and not self.items and not self.ragged

    def fits(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        """Whether an entry's array of this dtype and shape is what the field, one of arrays, promises."""
        if dtype != np.dtype(self.dtype):
            return False
        if self.items or self.ragged:
            return len(shape) > 0 and shape[0] > 0 and shape[1:] == self.shape
        return shape == self.shape

    def __str__(self) -> str:
        """For example `float32 (items, 100)`, `float32 (elements, 2048)`, `image` or `text (items)`."""
        if self.kind != "array":
            return f"{self.kind} (items)" if self.items else self.kind
        leading = ["items"] if self.items else ["elements"] if self.ragged else []
        axes = leading + [str(n) for n in self.shape]
        return f"{self.dtype} ({', '.join(axes)})"


class ShardFile(_Record):
    """One tar file of a split."""

    file: _FileName
    bytes: int
    sha256: str
    entries: int


class IndexFile(_Record):
    """An npy file that says where every entry of a split lies, or every field of its entries."""

    file: _FileName
    sha256: str


class SplitRecord(_Record):
    """A split as the manifest lists it."""

    entries: int
    bytes: int
    shards: tuple[ShardFile, ...]
    index: IndexFile
    payloads: IndexFile | None = None
    """The payload index, no part of the hash; None in sets that were built without."""

    @model_serializer(mode="wrap")
    def _leave_out_absent_payloads(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = handler(self)
        if content.get("payloads") is None:
            content.pop("payloads", None)
        return content


class WordsRecord(_Record):
    """The table of word vectors whose rows the entries' word ids are."""

    HEADER: ClassVar[int] = 128
    """Bytes before the first row of the npy file."""
    file: _FileName
    words_file: _FileName
    """The words by row, one per line, the first line empty."""
    sha256: str
    words_sha256: str
    rows: int = Field(ge=2)
    """Rows of the table: the words and row 0, zeros, which pads short captions."""
    dim: int = Field(ge=1)
    source_sha256: str
    """sha256 of the file of vectors that the table was cut from."""
    fields: tuple[str, ...]
    """Fields whose items are ids of this table."""
    max_words: int = Field(ge=1)

    @property
    def bytes(self) -> int:
        """Size of the npy file."""
        return self.HEADER + 4 * self.rows * self.dim


class VocabularyRecord(_Record):
    """The words of captions that stay texts, and their numbers."""

    file: _FileName
    sha256: str
    words: int = Field(ge=1)
    """Words with a number, the four marks among them."""
    min_count: int | None = None
    """How often a word stands in the captions of `splits` at least; None where a file was taken."""
    splits: tuple[str, ...] = ()
    unknown: Literal["refuse", "keep", "drop"]
    """What became of captions without a known word."""


class ClassVectorsRecord(_Record):
    """The table of vectors of the classes."""

    file: _FileName
    sha256: str
    dim: int = Field(ge=1)
    kind: Literal["words", "rows", "minilm"]
    """Means of the vectors of a name's words, rows of a table of classes, or sentence vectors of names."""
    source_sha256: str
    """sha256 of what they were made of: the file of vectors (with its names), or the network."""
    unit: bool
    """Whether every row was brought to length 1."""
    words: dict[str, str]
    """What was looked up instead of a class's name, by name."""


class ClassNamesRecord(_Record):
    """The names of the classes, and their vectors where there are some."""

    file: _FileName
    """The names by label, one per line."""
    sha256: str
    names: int = Field(ge=1)
    vectors: ClassVectorsRecord | None = None


class ManifestRecord(_Record):
    """The content of manifest.json."""

    schema_version: Literal[1] = 1
    name: str
    source: dict[str, Any]
    """Settings of the source that the entries came from."""
    entries_per_shard: int
    shuffle_seed: int | None
    fields: dict[str, FieldSpec]
    classes: int
    """Largest class number plus one; 0 where the set has no labels."""
    splits: dict[str, SplitRecord]
    words: WordsRecord | None = None
    """The set's word table; None where no field holds words."""
    vocabulary: VocabularyRecord | None = None
    """The set's vocabulary; None where it has none."""
    class_names: ClassNamesRecord | None = None
    """Names and vectors of the classes; None where they have no names."""
    hash: str = ""
    """sha256 of everything above."""

    @model_serializer(mode="wrap")
    def _leave_out_absent_words(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Sets without such tables keep the manifest and the hash they had before there were any."""
        content: dict[str, Any] = handler(self)
        for name in ("words", "vocabulary", "class_names"):
            if content.get(name) is None:
                content.pop(name, None)
        return content

    def recipe(self) -> dict[str, Any]:
        """What decides the content: two sets of one recipe are the same set."""
        return self.model_dump(
            mode="json", include={"name", "source", "entries_per_shard", "shuffle_seed", "schema_version"}
        )

    def content_hash(self) -> str:
        """sha256 over the canonical JSON of every key but `hash` and the `payloads` of splits, which say
        nothing that the shards do not."""
        content = self.model_dump(mode="json", exclude={"hash"})
        for split in content["splits"].values():
            split.pop("payloads", None)
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class SetTables:
    """What a set holds beside its shards; None for what it has not."""

    words: WordsRecord | None = None
    vocabulary: VocabularyRecord | None = None
    class_names: ClassNamesRecord | None = None

    @property
    def known_words(self) -> int | None:
        """Words of captions that have a number; None where captions have none."""
        if self.vocabulary is not None:
            return self.vocabulary.words
        return None if self.words is None else self.words.rows - 1
