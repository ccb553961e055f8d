"""Pictures and captions of a user's own: a table that names image files and holds their captions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from swamp_dist.config.names import FieldName
from swamp_dist.config.own_files import SplitSettings

_ENDINGS = (".csv", ".tsv", ".jsonl")


class TableSource(SplitSettings):
    """Images and captions of your own: a table with the path of an image and its captions in each row. Rows
    that name the same image are one entry with the captions of all."""

    kind: Literal["table"] = "table"
    file: Path
    """A `.csv` or `.tsv` with a line of column names, or a `.jsonl` with one object per line."""
    root: Path | None = None
    """Folder below which the images lie; null = that of the table."""
    image: str = "image"
    """Column of the image's path below root, JPEG, PNG or WebP."""
    captions: Annotated[tuple[str, ...], Field(min_length=1)] = ("caption",)
    """Columns of captions: a text or, in a `.jsonl`, a list of texts."""
    key: str | None = None
    """Column of each entry's name, used in shards, errors and results; null = the path of its image."""
    label: str | None = None
    """Column of its class: numbers from 0 (-1 or empty: none), or names, numbered as they first appear."""
    split: str | None = None
    """Column of its split."""
    group: str | None = None
    """Column of its group: entries of one group, such as frames of one video, are never in two splits."""
    image_field: FieldName = "image"
    """Name of the images' field in the shards."""
    caption_field: FieldName = "text"
    """Name of the captions' field: texts or, with `words` in the recipe, word ids."""
    wordless: Literal["refuse", "keep", "drop"] = "drop"
    """Captions without words (empty, null, no letter in them). `drop`: they are left out, and an entry
    without others is a bad one; `refuse`: they stay beside others, and an entry without others is a bad one;
    `keep`: all stay."""
    sha256: str | None = None
    """Hash of the table; another one is refused. null takes it as it is; the manifest records its hash either
    way. Of the images it says nothing."""

    @field_validator("file")
    @classmethod
    def _ending_is_known(cls, value: Path) -> Path:
        if value.suffix.lower() not in _ENDINGS:
            raise ValueError(f"expected a file that ends in {', '.join(_ENDINGS)}; found {value.name!r}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> TableSource:
        self._check_one_way(self.split)
        if self.image_field == self.caption_field:
            raise ValueError(
                f"image_field and caption_field are both {self.image_field!r}: expected two names"
            )
        return self

    @property
    def folder(self) -> Path:
        """Below which the images lie."""
        return self.file.parent if self.root is None else self.root

    def entry_columns(self) -> dict[str, str]:
        """Columns of what is known of an entry, by their key in the recipe."""
        names = {name: getattr(self, name) for name in ("key", "label", "split", "group")}
        return {name: column for name, column in names.items() if column is not None}

    def files(self) -> list[Path]:
        """The files whose hash the set keeps."""
        return [self.file]
