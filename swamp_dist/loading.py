"""YAML files and key=value overrides -> settings, every problem at once; and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from swamp_dist.config import (
    ClusterSettings,
    PipelineSettings,
    Settings,
    ShardSettings,
    StageSettings,
    SweepSettings,
)
from swamp_dist.config.backends import backend_names, cluster_class
from swamp_dist.entry_groups import GROUPED, expand_groups
from swamp_dist.errors import UserError
from swamp_dist.explaining import Problem, explain, nearest, screen, unions
from swamp_dist.input_paths import resolve_paths
from swamp_dist.origins import file_of
from swamp_dist.yaml_tree import YamlTree, override, read_tree, to_yaml

S = TypeVar("S", bound=Settings)
REQUIRED = "(required)"


@dataclass(frozen=True)
class Setting:
    """One leaf of a settings tree, as `swamp show` prints it."""

    key: str
    value: object
    default: object
    """The default, or REQUIRED."""
    description: str
    is_default: bool


def load(path: Path, kind: type[S], overrides: Sequence[str] = (), *, is_dump: bool = False) -> S:
    """The settings of a file, its `base` files and `key=value` overrides, checked as a whole.

    Paths of a file are relative to it, those of overrides to the working folder; see `input_paths.py`.

    Args:
        is_dump: `dump` wrote the file: its paths are relative to the working folder too.

    Raises:
        UserError: one message with every problem: key, line, what was expected and found, a suggestion.
    """
    return _checked(*_whole_tree(path, kind, overrides), kind, str(path), is_dump)


def from_values(values: Mapping[str, Any], kind: type[S], title: str, overrides: Sequence[str] = ()) -> S:
    """The settings that a program gives as values: sections as dictionaries or as settings.

    Args:
        title: what the message of an error begins with.
        overrides: `key=value` texts that are applied on top.

    Raises:
        UserError: as `load`, or a value that no settings file could hold.
    """
    tree = YamlTree(plain_values(values, title), {})
    problems = [problem for text in overrides for problem in override(tree, text)]
    return _checked(tree, problems, kind, title)


def override_texts(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`key=value` texts with dotted keys that say the same as nested values.

    Raises:
        UserError: a value that no settings file could hold.
    """
    texts = []
    for key, value in plain_values(values, "overrides").items():
        if isinstance(value, dict) and value:
            texts += override_texts(value, f"{prefix}{key}.")
        else:
            texts.append(f"{prefix}{key}={json.dumps(value)}")
    return texts


def plain_values(values: Mapping[str, Any], title: str) -> dict[str, Any]:
    """A copy of nested values in the types of a settings file: paths as texts, settings as sections.

    Raises:
        UserError: there is a value of another type.
    """

    def plain(value: object) -> object:
        if isinstance(value, Settings):
            return value.model_dump(mode="json")
        if isinstance(value, Path):
            return str(value)
        if isinstance(value, Mapping):
            return dict(value)
        raise TypeError(f"{type(value).__name__} is no type that a settings file could hold")

    try:
        copied: dict[str, Any] = json.loads(json.dumps(dict(values), default=plain))
    except (TypeError, ValueError) as error:
        raise UserError(f"{title}: {error}.\nFix: give numbers, texts, lists and dictionaries") from None
    return copied


def _checked(tree: YamlTree, problems: list[Problem], kind: type[S], title: str, is_dump: bool = False) -> S:
    _drop_inherited(tree, kind)
    settings, mistakes = _validate(tree, kind)
    problems += mistakes
    if settings is not None and not is_dump:
        settings, mistakes = resolve_paths(settings, tree.origin)
        problems += mistakes
    if settings is None or problems:
        raise UserError(screen(title, problems))
    return settings


def load_dumped(path: Path, kind: type[S]) -> S:
    """The settings of a file that `dump` wrote: its paths are relative to the working folder.

    Raises:
        UserError: as `load`.
    """
    settings, problems = _validate(read_tree(path), kind)
    if settings is None:
        raise UserError(screen(str(path), problems))
    return settings


def _drop_inherited(tree: YamlTree, kind: type[Settings]) -> None:
    """Drop keys of a `base` in a section that was given another `kind` since, where that kind lacks them."""
    for section, members in unions(kind):
        values = _section(tree.values, section)
        own = next((m for m in members if values.get("kind") == m.model_fields["kind"].default), None)
        if own is None:
            continue
        said = file_of(tree.origin.get((*section, "kind"), ""))
        for key in [key for key in values if key not in own.model_fields]:
            inherited = file_of(tree.origin.get((*section, key), "")) != said
            if inherited and any(key in member.model_fields for member in members):
                del values[key]


def _section(values: Any, path: Sequence[str]) -> dict[str, Any]:
    for key in path:
        values = values.get(key) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def _validate(tree: YamlTree, kind: type[S]) -> tuple[S | None, list[Problem]]:
    """The settings of a tree, or else what is wrong with it."""
    try:
        # JSON, because strict validation of Python values would refuse lists for tuples and texts for paths.
        return kind.model_validate_json(json.dumps(tree.values), strict=True), []
    except ValidationError as error:
        return None, explain(kind, error, tree.origin)


def _whole_tree(path: Path, kind: type[Settings], overrides: Sequence[str]) -> tuple[YamlTree, list[Problem]]:
    """The tree of a file and its overrides, a pipeline's groups written out, and what is wrong so far."""
    tree = read_tree(path)
    _refuse_other_kind(path, tree.values, kind)
    if kind is not PipelineSettings:
        return tree, [problem for text in overrides for problem in override(tree, text)]
    # An override of `values` decides what groups stand for; one of `stages` names a stage written out.
    late = [text for text in overrides if text.partition("=")[0].partition(".")[0] in GROUPED]
    problems = [problem for text in overrides if text not in late for problem in override(tree, text)]
    written_out, mistakes = expand_groups(tree)
    if mistakes:  # what the settings would make of half-written entries tells nothing
        raise UserError(screen(str(path), [*problems, *mistakes]))
    return written_out, problems + [problem for text in late for problem in override(written_out, text)]


_MARKS: Mapping[type[Settings], tuple[str, str, str]] = {
    ClusterSettings: ("backend", "cluster file", "swamp submit JOB --cluster {}"),
    SweepSettings: ("vary", "sweep", "swamp sweep {}"),
    PipelineSettings: ("stages", "pipeline", "swamp pipeline {}"),
    ShardSettings: ("source", "shard recipe", "swamp shards build {}"),
    StageSettings: ("data", "job", "swamp run {}"),
}
"""Of every kind of file the key that only it has, what people call it, and the command that takes it."""


def _refuse_other_kind(path: Path, values: Mapping[str, Any], kind: type[Settings]) -> None:
    """Say which command takes a file that is of another kind than was asked for.

    Raises:
        UserError: it is.
    """
    wanted = next((known for known in _MARKS if issubclass(kind, known)), None)
    if wanted is None or _MARKS[wanted][0] in values:
        return
    for mark, word, command in _MARKS.values():
        if mark in values:
            raise UserError(
                f"{path}: this is a {word}; a {_MARKS[wanted][1]} was expected.\nFix: {command.format(path)}"
            )


def load_cluster(path: Path, overrides: Sequence[str] = ()) -> ClusterSettings:
    """The settings of a cluster file; its `backend` says which.

    Raises:
        UserError: as `load`; or `backend` is missing or unknown.
    """
    return load(path, _cluster_kind(path, read_tree(path).values), overrides)


def _cluster_kind(path: Path, values: Mapping[str, Any]) -> type[ClusterSettings]:
    _refuse_other_kind(path, values, ClusterSettings)
    backend, names = values.get("backend"), backend_names()
    if isinstance(backend, str) and backend in names:
        return cluster_class(backend)
    near = nearest(str(backend), names)
    found = "it is not given: is this a cluster file?" if backend is None else f"found {repr(backend)[:60]}"
    guess = f". Did you mean {near[0]}?" if near and backend is not None else ""
    message = f"expected one of {', '.join(names)}; {found}{guess}"
    raise UserError(screen(str(path), [Problem(("backend",), "", message)]))


def kind_of(path: Path) -> type[Settings]:
    """Which settings a file holds, by its keys: `stages`, `vary`, `source`, `backend`, or else a stage."""
    values = read_tree(path).values
    keys = values.keys()
    if "backend" in keys:
        return _cluster_kind(path, values)
    if "vary" in keys:
        return SweepSettings
    if "stages" in keys:
        return PipelineSettings
    return ShardSettings if "source" in keys else StageSettings


def dump(settings: Settings) -> str:
    """YAML of every setting, defaults included; `load_dumped` gives back an equal object."""
    return to_yaml(settings.model_dump(mode="json"))


def describe(settings: Settings) -> list[Setting]:
    """Every leaf in file order, with its default and the text under its field."""
    return list(_leaves(settings, None, ""))


def value_text(value: object) -> str:
    """A value of a setting as people write it in a file."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(value_text(v) for v in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {value_text(v)}" for k, v in value.items()) + "}"
    return str(value)


def _leaves(section: Settings, default_section: object, prefix: str) -> Iterator[Setting]:
    """`default_section` is what the parent holds by default; it counts where it has the same type."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        default = REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
        if type(default_section) is type(section):
            default = getattr(default_section, name)
        elif name == "kind" and isinstance(default_section, Settings):
            default = default_section.model_dump().get("kind", REQUIRED)
        description = field.description or type(section).__doc__ or ""  # a bare `kind` tells its section
        yield from _leaf(prefix + name, value, default, " ".join(description.split()))


def _leaf(key: str, value: object, default: object, description: str) -> Iterator[Setting]:
    if isinstance(value, Settings):
        yield from _leaves(value, default, key + ".")
    elif isinstance(value, tuple | dict) and any(isinstance(v, Settings) for v in _members(value).values()):
        for name, member in _members(value).items():
            yield from _leaf(f"{key}.{name}", member, None, description)
    else:
        yield Setting(key, value, default, description, value == default)


def _members(value: tuple[Any, ...] | dict[str, Any]) -> dict[str, Any]:
    return value if isinstance(value, dict) else {str(i): v for i, v in enumerate(value)}
