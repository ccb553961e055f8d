"""YAML files with `base:` and key=value overrides -> settings, every problem at once; and back.

Scalars follow YAML 1.2: `3e-5` is a number and `no` is a text, unlike in PyYAML's YAML 1.1. Overrides
and `base` merge section by section; lists and values are replaced whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from swamp_dist.config import (
    BACKENDS,
    LocalCluster,
    PipelineSettings,
    RayCluster,
    Settings,
    ShardSettings,
    SlurmCluster,
    StageSettings,
    SweepSettings,
)
from swamp_dist.explaining import Problem, explain, nearest, screen
from swamp_dist.records import UserError

S = TypeVar("S", bound=Settings)
REQUIRED = "(required)"

_SCALARS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+(_[0-9]+)*", list("-+0123456789")),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse aliases: nested ones grow without bound, and `base:` says the same more plainly."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"line {mark.line + 1}: aliases (*name) are not supported; use `base:`")
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}


for _name, (_pattern, _first) in _SCALARS.items():
    for _language in (_Loader, _Dumper):
        _language.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _loader, node: int(str(node.value)))
_Dumper.add_representer(
    list,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", items, flow_style=not any(isinstance(i, dict | list) for i in items)
    ),
)


@dataclass(frozen=True)
class Setting:
    """One leaf of a settings tree, as `swamp show` prints it."""

    key: str
    value: object
    default: object
    """The default, or REQUIRED."""
    description: str
    is_default: bool


@dataclass(frozen=True)
class _Tree:
    values: dict[str, Any]
    origin: dict[tuple[str, ...], str]
    """Where each key was given: `file.yaml:12`, or `argument`."""


def load(path: Path, kind: type[S], overrides: Sequence[str] = ()) -> S:
    """The settings of a file, its `base` files and `key=value` overrides, checked as a whole.

    Raises:
        UserError: one message with every problem: key, line, what was expected and found, a suggestion.
    """
    tree, problems = _read(path), []
    for text in overrides:
        problems += _override(tree, text)
    try:
        # JSON, because strict validation of Python values would refuse lists for tuples and texts for paths.
        settings = kind.model_validate_json(json.dumps(tree.values), strict=True)
    except ValidationError as error:
        problems += explain(kind, error, tree.origin)
    if problems:
        raise UserError(screen(str(path), problems))
    return settings


def load_cluster(path: Path, overrides: Sequence[str] = ()) -> LocalCluster | RayCluster | SlurmCluster:
    """The settings of a cluster file; its `backend` says which.

    Raises:
        UserError: as `load`; or `backend` is missing or unknown.
    """
    return load(path, _cluster_kind(path, _read(path).values), overrides)


def _cluster_kind(
    path: Path, values: Mapping[str, Any]
) -> type[LocalCluster] | type[RayCluster] | type[SlurmCluster]:
    backend = values.get("backend")
    if isinstance(backend, str) and backend in BACKENDS:
        return BACKENDS[backend]
    near = nearest(str(backend), BACKENDS)
    found = "it is not given: is this a cluster file?" if backend is None else f"found {backend!r}"
    guess = f". Did you mean {near[0]}?" if near and backend is not None else ""
    message = f"expected one of {', '.join(BACKENDS)}; {found}{guess}"
    raise UserError(screen(str(path), [Problem(("backend",), "", message)]))


def kind_of(path: Path) -> type[Settings]:
    """Which settings a file holds, told by its own keys: `stages`, `vary`, `source`, `backend`, or else a stage."""
    values = _read(path).values
    keys = values.keys()
    if "backend" in keys:
        return _cluster_kind(path, values)
    if "vary" in keys:
        return SweepSettings
    if "stages" in keys:
        return PipelineSettings
    return ShardSettings if "source" in keys else StageSettings


def dump(settings: Settings) -> str:
    """YAML of every setting, defaults included; loads back to an equal object."""
    return yaml.dump(
        settings.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=110
    )


def describe(settings: Settings) -> list[Setting]:
    """Every leaf in file order, with its default and the text under its field."""
    return list(_leaves(settings, None, ""))


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


# -- reading ---------------------------------------------------------------------------------------


def _read(path: Path, seen: tuple[Path, ...] = ()) -> _Tree:
    """The file merged over its `base` files."""
    if path.resolve() in seen:
        chain = " -> ".join(str(p) for p in (*seen, path.resolve()))
        raise UserError(f"{path}: base files form a circle:\n  {chain}")
    tree = _parse(path)
    base = tree.values.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: base must be the name of one YAML file, found {base!r}")
    below = _read(path.parent / base, (*seen, path.resolve()))
    return _Tree(_merged(below.values, tree.values), below.origin | tree.origin)


def _parse(path: Path) -> _Tree:
    text = _text(path)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else {}
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    origin, twice = _lines(node, path)
    if twice:
        raise UserError(screen(str(path), twice))
    return _Tree(values, origin)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.{_near_files(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _near_files(path: Path) -> str:
    folders = {Path("jobs"), Path("shards"), path.parent}
    found = {str(f) for folder in folders if folder.is_dir() for f in folder.glob("*.yaml")}
    found |= {str(f) for name in ("jobs", "shards") for f in Path(name).rglob("*.yaml")}
    same_name = [f for f in sorted(found) if Path(f).stem == path.stem]
    near = list(dict.fromkeys([*same_name, *nearest(str(path), sorted(found))]))[:5]
    listed = near or sorted(found)[:10]
    title = "Did you mean" if near else "Files here"
    return f" {title}:\n  " + "\n  ".join(listed) if listed else ""


def _lines(node: Any, path: Path) -> tuple[dict[tuple[str, ...], str], list[Problem]]:
    """Line of every key, and keys given twice (YAML would silently keep the last)."""
    origin: dict[tuple[str, ...], str] = {}
    twice: list[Problem] = []
    waiting: list[tuple[tuple[str, ...], Any]] = [((), node)]
    while waiting:
        prefix, here = waiting.pop()
        if isinstance(here, yaml.SequenceNode):
            waiting += [((*prefix, str(i)), item) for i, item in enumerate(here.value)]
        if not isinstance(here, yaml.MappingNode):
            continue
        for key, value in here.value:
            where, line = (*prefix, str(key.value)), f"{path}:{key.start_mark.line + 1}"
            if where in origin:
                twice.append(Problem(where, line, f"given twice; the first time at {origin[where]}"))
            origin[where] = line
            waiting.append((where, value))
    return origin, twice


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


# -- overrides -------------------------------------------------------------------------------------


def _override(tree: _Tree, text: str) -> list[Problem]:
    """Set one `key=value` in the tree; what is wrong with it."""
    key, equals, raw = text.partition("=")
    path = tuple(key.split("."))
    if not equals or not all(path):
        return [
            Problem(
                (text,),
                "argument",
                "expected key=value with a dotted key, for example train.optimizer.lr=3e-5",
            )
        ]
    if not raw.strip():
        return [Problem(path, "argument", f"no value given: write {key}=null for none")]
    try:
        value = _Loader(raw).get_single_data()
    except (yaml.YAMLError, TypeError, ValueError):
        return [Problem(path, "argument", f"{raw!r} is not a YAML value")]
    problem = _put(tree.values, path, value)
    if problem:
        return [Problem(path, "argument", problem)]
    tree.origin[path] = "argument"
    return []


def _put(values: Any, path: tuple[str, ...], value: object) -> str | None:
    """Set `value` at the dotted path, making sections on the way; a sentence where that cannot be."""
    here = values
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(here, list):
            if not key.isdigit() or int(key) >= len(here):
                owner = ".".join(path[:depth])
                return f"{owner} is a list of {len(here)}: expected {owner}.0 to {owner}.{len(here) - 1}"
            slot: Any = int(key)
        elif isinstance(here, dict):
            slot = key
        else:
            return f"{'.'.join(path[:depth])} is a value ({here!r}), not a section"
        if last:
            here[slot] = value
        elif isinstance(here, dict) and here.get(slot) is None:
            here[slot] = {}
        here = here[slot]
    return None
