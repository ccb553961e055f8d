"""Tars of a user's own in webdataset's layout: which make which split, and which member is which field."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from swamp_dist.bounds import Seed
from swamp_dist.config.names import FieldName, SplitName
from swamp_dist.config.own_files import Shares
from swamp_dist.config.tar_patterns import expand_braces, matching_files
from swamp_dist.printable import printable
from swamp_dist.settings import Settings

MemberKind = Literal["image", "text", "json", "array"]
_KINDS: dict[str, MemberKind] = {
    **dict.fromkeys(("jpg", "jpeg", "png", "webp"), "image"),
    "txt": "text",
    "json": "json",
    "npy": "array",
}
ENERGON_FOLDER = ".nv-meta"
"""Where Megatron-Energon keeps what it knows of a data set."""
_SUFFIX = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,63}")


def _check_suffix(value: str) -> str:
    if not _SUFFIX.fullmatch(value):
        raise ValueError(
            f"expected what follows the first dot of a member's name, in lower case, for example jpg or "
            f"small.jpg; found {value[:64]!a}"
        )
    return value


def _check_pattern(value: Path) -> Path:
    expand_braces(str(value))
    return value


def _as_several(value: object) -> object:
    """One as a tuple of it; the type that follows is strict, so that lists become tuples as well."""
    if isinstance(value, str | Path):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


Suffix = Annotated[str, AfterValidator(_check_suffix)]
Suffixes = Annotated[tuple[Suffix, ...], BeforeValidator(_as_several), Field(min_length=1)]
Pattern = Annotated[Path, AfterValidator(_check_pattern)]
Patterns = Annotated[tuple[Pattern, ...], BeforeValidator(_as_several)]


class WebDatasetSource(Settings):
    """Tars of your own in webdataset's layout: files of one entry stand one after the other and share the
    part of their name before the first dot, its key."""

    kind: Literal["webdataset"] = "webdataset"
    splits: dict[SplitName, Patterns] = {}
    """Tars of each split: a path or a list of them, with `{000..009}`, `{a,b}`, `*` and `?`, for example
    {train: "train-{000..009}.tar", test: "test-*.tar"}."""
    tars: Patterns = ()
    """Instead of splits: tars whose entries are divided by shares."""
    shares: Shares = {}
    """With tars: share of the entries by split, for example {train: 0.8, test: 0.2}."""
    energon: Path | None = None
    """Instead of splits and tars: the folder of a data set prepared for Megatron-Energon, which holds
    `.nv-meta`. Its `split.yaml` says which tars make which split and what is excluded, and the `field_map` of
    its `dataset.yaml` stands in for the default of `fields`. Code that it names never runs."""
    seed: Seed = 0
    """Seed of the drawing by shares, which depends on the keys and not on their order."""
    fields: Annotated[dict[FieldName, Suffixes], Field(min_length=1)] = {
        "image": ("jpg", "jpeg", "png", "webp"),
        "text": ("txt",),
    }
    """Members of an entry by the field that they become: the first of the list that the entry has. Those that
    end in jpg, jpeg, png or webp are images, npy plain arrays; txt (a caption) or json (one or several, at
    json_key) may be one field."""
    json_key: str | None = None
    """Where captions stand in a json member, a text or a list of texts; dots lead into inner objects, for
    example `captions.en`."""
    label: Suffix | None = "cls"
    """Member with the class of an entry: a number, or a name; entries without it have no class. Names are
    numbered from 0, sorted by code point over all splits, and stand beside the entry (`text.label`). null =
    none."""
    wordless: Literal["refuse", "keep", "drop"] = "drop"
    """Captions without words, as in `kind: table`."""
    sha256: str | None = None
    """Hash of the tars (of each its size, first and last MiB); others are refused. null takes the files as
    they are; the manifest records their hash either way."""

    @model_validator(mode="after")
    def _fits_together(self) -> WebDatasetSource:
        ways = (bool(self.splits), bool(self.tars), self.energon is not None)
        if sum(ways) != 1 or bool(self.tars) != bool(self.shares):
            raise ValueError(
                'give either splits, for example {train: "train-*.tar", test: "test-*.tar"}, or tars with '
                "shares, for example shares: {train: 0.8, test: 0.2}, or energon, the folder of a data set "
                "with .nv-meta"
            )
        if empty := [name for name, patterns in self.splits.items() if not patterns]:
            raise ValueError(f"splits.{empty[0]}: expected at least one tar")
        kinds = {name: member_kind(suffixes) for name, suffixes in self.fields.items()}
        captions = [name for name, kind in kinds.items() if kind in ("text", "json")]
        if len(captions) > 1:
            raise ValueError(f"fields: {', '.join(captions)} are all captions; one field may be")
        if (self.json_key is not None) != ("json" in kinds.values()):
            raise ValueError("json_key: give it where a field is a json member, and only there")
        if self.json_key is not None and "" in self.json_key.split("."):
            raise ValueError(f"json_key: expected names with dots between, found {self.json_key[:80]!r}")
        return self

    @property
    def caption_field(self) -> str | None:
        """The field of captions; None where there are none."""
        names = (name for name, of in self.fields.items() if member_kind(of) in ("text", "json"))
        return next(names, None)

    def tars_of(self) -> dict[str, list[Path]]:
        """The tars that each pattern names, by split, under "" where shares divide their entries; none of
        them need be there."""
        patterns = self.splits or {"": self.tars}
        return {
            name: list(dict.fromkeys(file for pattern in of for file in matching_files(pattern)))
            for name, of in patterns.items()
        }

    def files(self) -> list[Path]:
        """The files whose hash the set keeps. Behind the tars of a split its first stands again, so that
        a tar that goes over to the next split changes the hash."""
        return [file for files in self.tars_of().values() for file in (*files, files[0])]


def import_hint(folder: Path) -> str:
    """What to do with a folder of tars that is no shard set, a line; empty where there are none."""
    if (folder / ENERGON_FOLDER).is_dir():
        return (
            "It is a data set of Megatron-Energon, which is imported into a shard set of another folder, by "
            f'a recipe with source: {{kind: webdataset, energon: "{folder}"}} (shards/README.md)'
        )
    tars = sorted(folder.glob("*.tar"))
    if not tars or next(folder.glob("*.index.npy"), None) is not None:
        return ""
    return (
        f"It holds {len(tars):,} tars, for example {printable(tars[0].name, one_line=True)}. Those of other "
        "programs are imported into a shard set of another folder, by a recipe with source: "
        f'{{kind: webdataset, tars: "{folder}/*.tar", '
        "shares: {train: 0.9, test: 0.1}} (shards/README.md)"
    )


def is_known_member(suffix: str) -> bool:
    """Whether members with this suffix can be a field."""
    return suffix.rpartition(".")[2] in _KINDS and _SUFFIX.fullmatch(suffix) is not None


def member_kind(suffixes: tuple[str, ...]) -> MemberKind:
    """What members with these suffixes are.

    Raises:
        ValueError: an ending that is not known, or several kinds.
    """
    kinds = {suffix: _KINDS.get(suffix.rpartition(".")[2]) for suffix in suffixes}
    first, *others = kinds.values()
    if first is None or any(kind != first for kind in others):
        shown = ", ".join(suffixes)
        raise ValueError(
            f"fields: expected members of one kind that end in {', '.join(_KINDS)}; found {shown[:80]}"
        )
    return first
