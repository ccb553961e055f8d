"""What a sample must be to enter a shard set: safe names, equal fields, finite numbers, one key each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from swamp_dist.data.image_header import ImageFault
from swamp_dist.data.images import check_image
from swamp_dist.data.manifest import FieldSpec
from swamp_dist.data.raw_fields import ENTRY
from swamp_dist.data.tar import MAX_MEMBER_BYTES
from swamp_dist.errors import BadEntry, UserError
from swamp_dist.records import Sample

SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_FIELD = re.compile(r"[a-z0-9][a-z0-9_]*")  # lower case: webdataset's readers lower the suffix of a member
_TAR_NAME_BYTES = 100


def check_keys(split: str, keys: Sequence[str]) -> None:
    """Refuse keys of a split that are not safe in a member name, or stand twice.

    Raises:
        UserError: names the first such key.
    """
    seen: set[str] = set()
    for key in keys:
        check_name(f"split {split!r}: key", key, _KEY)
        if key in seen:
            raise UserError(f"split {split!r}: two entries have the key {key!r}; keys must be unique")
        seen.add(key)


def checked_samples(
    samples: Iterable[Sample],
    split: str,
    fields: dict[str, FieldSpec],
    item_fields: frozenset[str],
    ragged_fields: frozenset[str] = frozenset(),
) -> Iterator[Sample]:
    """The samples, each checked as a build would check it: how a source is tested without building.

    The first of all fills `fields`, the others must agree with it.

    Raises:
        UserError: at the first sample that cannot be stored; names split, entry and field.
    """
    keys: list[str] = []
    for sample in samples:
        if not fields:
            fields.update(field_specs(sample, item_fields, ragged_fields))
        check_sample(sample, split, fields)
        keys.append(sample.key)
        yield sample
    check_keys(split, keys)


def field_specs(
    sample: Sample, item_fields: frozenset[str], ragged_fields: frozenset[str] = frozenset()
) -> dict[str, FieldSpec]:
    """What the fields of a set's first entry promise for all others.

    Args:
        sample: the first entry.
        item_fields: fields of several items.
        ragged_fields: fields whose item is a set, an array of any number of elements on a leading axis.

    Raises:
        UserError: a name, dtype or shape that cannot be stored.
    """
    _check_ragged(sample, item_fields, ragged_fields)
    if not sample.fields or not item_fields <= sample.fields.keys():
        raise UserError(
            f"entry {sample.key!r}: fields {sorted(sample.fields)}, several items in {sorted(item_fields)}"
        )
    specs = {}
    for name, array in sample.fields.items():
        check_name("field", name, _FIELD)
        several, ragged = name in item_fields, name in ragged_fields
        if not isinstance(array, np.ndarray):
            specs[name] = _raw_spec(f"entry {sample.key!r}, field {name!r}", name, array, several)
            continue
        if array.dtype.kind not in "biuf" or array.dtype != np.dtype(array.dtype.name):
            raise UserError(f"entry {sample.key!r}, field {name!r}: dtype {array.dtype.str} cannot be stored")
        shape = array.shape[1:] if several or ragged else array.shape
        if 0 in shape or (ragged and not array.ndim):
            raise UserError(f"entry {sample.key!r}, field {name!r}: shape {array.shape} holds no values")
        specs[name] = FieldSpec(dtype=array.dtype.name, shape=shape, items=several, ragged=ragged)
    return specs


def _check_ragged(sample: Sample, item_fields: frozenset[str], ragged_fields: frozenset[str]) -> None:
    """Refuse names of ragged fields that are no arrays of one set per entry."""
    arrays = {name for name, value in sample.fields.items() if isinstance(value, np.ndarray)}
    if wrong := sorted(ragged_fields & item_fields or ragged_fields - arrays):
        why = "hold several items too" if ragged_fields & item_fields else "are no arrays of the entry"
        raise UserError(
            f"entry {sample.key!r}: ragged fields {', '.join(wrong)} {why} (fields: "
            f"{', '.join(sample.fields)}); a ragged field holds one set of vectors in every entry, an array "
            "(elements, values)"
        )


def check_sample(sample: Sample, split: str, fields: Mapping[str, FieldSpec]) -> None:
    """Refuse a sample whose fields are not those of the set.

    Raises:
        BadEntry: the raw data of this entry are damaged: values that are not finite, a set without elements,
            an image that does not decode, text that is no UTF-8.
        UserError: other fields, dtypes or shapes, or a label that is none; names split, entry and field.
    """
    where = f"split {split!r}, entry {sample.key!r}"
    if sample.fields.keys() != fields.keys():
        raise UserError(f"{where}: fields {sorted(sample.fields)}, the first entry has {sorted(fields)}")
    if sample.label < -1:
        raise UserError(f"{where}: label {sample.label}; expected a class number, or -1 for none")
    for name, array in sample.fields.items():
        if fields[name].kind != "array" or not isinstance(array, np.ndarray):
            _check_raw(where, sample, name, array, fields[name])
            continue
        if fields[name].ragged and array.shape == (0, *fields[name].shape):
            raise BadEntry(sample.key, "empty set", f"field {name!r}: a set without elements, {array.shape}")
        if not fields[name].fits(array.dtype, array.shape):
            raise UserError(
                f"{where}, field {name!r}: expected {fields[name]} as in the first entry, found "
                f"{array.dtype} {array.shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int((~np.isfinite(array)).sum())
            raise BadEntry(sample.key, "values not finite", f"field {name!r}: {count} values are not finite")


def _raw_spec(where: str, name: str, value: object, several: bool) -> FieldSpec:
    """What a field promises whose first value is no array."""
    kind = _raw_kind(value)
    if kind is None:
        raise UserError(
            f"{where}: expected a numpy array, the bytes of an image, a text, or a tuple of texts, found "
            f"{type(value).__name__}"
        )
    if several != isinstance(value, tuple):
        found = "several texts" if isinstance(value, tuple) else f"one {kind}"
        listed = "is" if several else "is not"
        raise UserError(f"{where}: found {found}, but the field {listed} one of several items (item_fields)")
    if several and f"{name}.json" == ENTRY:
        raise UserError(f"{where}: a field of several texts needs another name")
    return FieldSpec(kind=kind, items=several)


def _raw_kind(value: object) -> Literal["image", "text"] | None:
    if isinstance(value, bytes):
        return "image"
    several = value if isinstance(value, tuple) else (value,)
    return "text" if all(isinstance(text, str) for text in several) else None


def _check_raw(where: str, sample: Sample, name: str, value: object, spec: FieldSpec) -> None:
    """Refuse an image or texts that a field cannot hold; of an image, what the sample says of it is told: its
    path, mostly."""
    several = isinstance(value, tuple)
    if spec.kind != _raw_kind(value) or spec.items != several or value == ():
        found = type(value).__name__ if value != () else "no texts at all"
        wanted = "a numpy array" if spec.kind == "array" else f"{spec} as in the first entry"
        raise UserError(f"{where}, field {name!r}: expected {wanted}, found {found}")
    if isinstance(value, bytes):
        try:
            check_image(value)
        except ImageFault as fault:
            told = f" ({sample.text[name]})" if sample.text.get(name) else ""
            raise BadEntry(sample.key, fault.kind, f"field {name!r}{told}: {fault}") from None
        return
    for text in value if isinstance(value, tuple) else (value,):
        try:
            str(text).encode()
        except UnicodeEncodeError as error:
            raise BadEntry(sample.key, "text is no UTF-8", f"field {name!r}: {error}") from None


def check_name(what: str, name: str, pattern: re.Pattern[str]) -> None:
    """Refuse a name that is not safe in a file or member name."""
    if not pattern.fullmatch(name):
        raise UserError(f"{what} {name!r} is not a safe name: expected {pattern.pattern}")


def check_size(key: str, suffix: str, payload: bytes) -> None:
    """Refuse a member that readers would refuse."""
    if len(payload) > MAX_MEMBER_BYTES:
        raise UserError(
            f"entry {key!r}, {suffix}: {len(payload)} bytes; one member may have {MAX_MEMBER_BYTES}"
        )
    if len(f"{key}.{suffix}") > _TAR_NAME_BYTES:
        raise UserError(
            f"{key}.{suffix}: a member name may have {_TAR_NAME_BYTES} characters; shorten the key"
        )
