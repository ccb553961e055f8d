"""What the encoders of both modalities take, told from manifest and settings alone: no tensors."""

from __future__ import annotations

from swamp_dist.config import ClipSettings, DataSettings
from swamp_dist.data.manifest import FieldSpec, Manifest
from swamp_dist.errors import UserError
from swamp_dist.records import InputSpec


def input_specs(manifest: Manifest, data: DataSettings) -> tuple[InputSpec, InputSpec]:
    """One item of modality A and of modality B as their encoders see it.

    Raises:
        UserError: no such field, or clip settings that the set does not fit.
    """
    if data.clips is None:
        return input_spec(manifest, data.a, data.images.size), input_spec(manifest, data.b, data.images.size)
    check_clips(manifest, data.a, data.b, data.clips)
    clips = InputSpec((sum(manifest.field(part).shape[0] for part in data.clips.parts),))
    words = input_spec(manifest, word_field(data.a, data.b, data.clips), data.images.size)
    return (words, clips) if data.clips.on == "b" else (clips, words)


def input_spec(manifest: Manifest, name: str, image_size: int) -> InputSpec:
    """One item of a field as its encoder sees it; images are `image_size` pixels high and wide.

    Raises:
        UserError: no such field.
    """
    spec, words = manifest.field(name), manifest.record.words
    if spec.kind == "image":
        return InputSpec((3, image_size, image_size), kind="image")
    if spec.ragged:
        return InputSpec(spec.shape, kind="set")
    if spec.dtype == "uint8" and len(spec.shape) == 4:
        return InputSpec(spec.shape, kind="frames")
    dim = words.dim if words is not None and name in words.fields else None
    return InputSpec(spec.shape, dim, "words" if dim is not None else spec.kind)


def word_field(a: str, b: str, clips: ClipSettings) -> str:
    """The field of captions: the modality that is not pooled."""
    return a if clips.on == "b" else b


def uses_words(manifest: Manifest, data: DataSettings) -> bool:
    """Whether one of the modalities is a field of words."""
    words = manifest.record.words
    return words is not None and bool({data.a, data.b} & set(words.fields))


def check_clips(manifest: Manifest, a: str, b: str, clips: ClipSettings) -> None:
    """Refuse a set whose entries are not videos with timed captions and features.

    Raises:
        UserError: a field is missing or is not what the settings take it for.
    """
    text, words = word_field(a, b, clips), manifest.record.words
    if words is None or text not in words.fields:
        known = ", ".join(words.fields) if words is not None else "none"
        raise UserError(
            f"data.clips: field {text!r} (data.{'a' if clips.on == 'b' else 'b'}) of {manifest.folder} holds "
            "no word ids.\n"
            f"Fields that do: {known}. Set data.clips.on to the modality of the features, or data.clips = "
            "null for a set of single clips."
        )
    wanted = {clips.times: (2,)} | {part: (None,) for part in clips.parts}
    for name, shape in wanted.items():
        spec = manifest.field(name)
        if spec.kind != "array":
            raise UserError(
                f"data.clips: field {name!r} of {manifest.folder} holds {spec}; clips are cut from features "
                "by time alone, arrays of floats.\nFix: name such a field, or data.clips = null"
            )
        if (
            not spec.items
            or len(spec.shape) != 1
            or shape not in ((None,), spec.shape)
            or spec.dtype[0] != "f"
        ):
            what = "(items, 2) start and end in seconds" if name == clips.times else "(items, values)"
            raise UserError(
                f"data.clips: field {name!r} of {manifest.folder}: expected floats {what}, found {spec}"
            )
    _check_one_dtype(clips, [manifest.field(part) for part in clips.parts])
    _check_rates(manifest, clips)


def _check_rates(manifest: Manifest, clips: ClipSettings) -> None:
    """Features at another rate than the job believes would be pooled over other moments without a word."""
    for part, rate in clips.parts.items():
        built = manifest.record.source.get(part.replace("features", "rate"))
        if built is not None and built != rate:
            raise UserError(
                f"data.clips.parts.{part} = {rate:g}: {manifest.folder} was built from features at {built:g} "
                "rows per second.\n"
                f"Fix: data.clips.parts.{part}={built:g}"
            )


def _check_one_dtype(clips: ClipSettings, specs: list[FieldSpec]) -> None:
    if len({spec.dtype for spec in specs}) > 1:
        found = ", ".join(f"{part} {spec.dtype}" for part, spec in zip(clips.parts, specs, strict=True))
        raise UserError(f"data.clips.parts: expected features of one dtype, found {found}")
