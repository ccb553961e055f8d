"""A YAML file with its `base:` files and key=value overrides as one tree of plain values, with lines.

Every settings file comes in here: a file, at most MOST_BYTES large, at most MOST_DEPTH sections deep, without
tags, aliases and control characters. Scalars follow YAML 1.2: `3e-5` is a number and `no` is a text, unlike
in PyYAML's YAML 1.1. Overrides and `base` merge section by section; lists and values are replaced whole.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from swamp_dist.earlier_names import present_name, rename
from swamp_dist.errors import UserError
from swamp_dist.explaining import Problem, nearest, no_yaml, screen, shortened
from swamp_dist.origins import ARGUMENT, FileText
from swamp_dist.plain_files import read_plain_file
from swamp_dist.printable import control_problem

MOST_BYTES = 2**20
"""Of a settings file; the largest of this project has 4 KB."""
MOST_DEPTH = 40
"""Sections and lists inside each other, in a file and in a dotted key."""
MOST_VALUES = 20_000
"""Sections, lists and values of a file."""
MOST_FILES = 30
"""Files that are each the `base` of the one before."""
MOST_LETTERS = 10_000  # of one KEY=VALUE of a command line
_INDEX = re.compile("[0-9]{1,9}")
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

    def __init__(self, stream: str, most_values: int = MOST_VALUES) -> None:
        super().__init__(stream)
        self._depth = self._values = 0
        self._most_values = most_values

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Refuse what grows without bound (aliases, depth) and what is no plain value (tags)."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError(f"{line}: aliases (*name) are not supported; use `base:`")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(
                f"{line}: tags ({event.tag.replace('tag:yaml.org,2002:', '!!')}) are not supported; write a "
                "text in quotation marks and every other value as it is"
            )
        self._depth, self._values = self._depth + 1, self._values + 1
        if self._depth > MOST_DEPTH:
            raise yaml.YAMLError(f"{line}: more than {MOST_DEPTH} sections and lists inside each other")
        if self._values > self._most_values:
            raise yaml.YAMLError(f"{line}: more than {self._most_values:,} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse keys that are equal though written otherwise (1 and 1.0): one would be lost."""
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len({key.value for key, _ in node.value}):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"the section at line {line} has two keys that are equal, such as 1 and 1.0")
        return mapping


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
class YamlTree:
    """What the files and overrides say."""

    values: dict[str, Any]
    origin: dict[tuple[str, ...], str]
    """Where each key was given: `file.yaml:12`, or ARGUMENT."""


def to_yaml(values: dict[str, Any]) -> str:
    """Plain values as YAML, keys in their order; `read_tree` gives them back."""
    text: str = yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=110)
    return text


def read_tree(path: Path, seen: tuple[Path, ...] = ()) -> YamlTree:
    """The file merged over its `base` files.

    Raises:
        UserError: there is no such file, or it is none that settings may be read from; says why.
    """
    try:
        resolved = path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
        raise UserError(f"{path} cannot be read: {error}") from None
    if resolved in seen:
        chain = " -> ".join(str(p) for p in (*seen, resolved))
        raise UserError(f"{path}: base files form a circle:\n  {chain}")
    if len(seen) >= MOST_FILES:
        raise UserError(f"{path}: more than {MOST_FILES} files are each the base of the one before")
    tree = _parse(path, seen[-1] if seen else None)
    base = tree.values.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"{path}: base must be the name of one YAML file, found {shortened(base)}")
    below = read_tree(path.parent / base, (*seen, resolved))
    return YamlTree(_merge(below.values, tree.values), below.origin | tree.origin)


def read_values(path: Path, most_bytes: int, most_values: int) -> dict[str, Any]:
    """The values of a YAML file of another program, read by the same rules; `base` is a key like others.

    Raises:
        UserError: there is no such file, or it is none of this kind; says why.
    """
    node, values = _document(path, most_bytes, most_values)
    problems = [] if node is None else _lines(node, path)[1]
    if problems:
        raise UserError(screen(str(path), problems))
    return values


def _parse(path: Path, asked_by: Path | None) -> YamlTree:
    """`asked_by`: the file whose `base` this one is."""
    node, values = _document(path, MOST_BYTES, MOST_VALUES, asked_by)
    origin, problems = _lines(node, path)
    for earlier in rename(values, origin):
        both = f"this is the earlier name of {'.'.join(present_name(earlier))}, which is given too: remove it"
        problems.append(Problem(earlier, origin[earlier], both))
    if problems:
        raise UserError(screen(str(path), problems))
    return YamlTree(values, origin)


def _document(
    path: Path, most_bytes: int, most_values: int, asked_by: Path | None = None
) -> tuple[Any, dict[str, Any]]:
    """The tree of a file's nodes (None of an empty one) and its values."""
    text = _text(path, most_bytes, asked_by)
    try:
        loader = _Loader(text, most_values)
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else {}
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise UserError(no_yaml(path, str(error), text)) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `key: value` lines, found {type(values).__name__}")
    return node, values


def _text(path: Path, most_bytes: int, asked_by: Path | None) -> str:
    try:
        return read_plain_file(path, most_bytes).decode("utf-8")
    except FileNotFoundError:
        asked = f"\nIt is the `base:` of {os.path.relpath(asked_by)}, relative to it." if asked_by else ""
        raise UserError(f"{path} does not exist.{_near_files(path)}{asked}") from None
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
    """Line of every key, and what is wrong with texts: control characters, and keys given twice, of which
    YAML would silently keep the last."""
    origin: dict[tuple[str, ...], str] = {}
    problems: list[Problem] = []
    waiting: list[tuple[tuple[str, ...], Any]] = [((), node)]
    while waiting:
        prefix, here = waiting.pop()
        if isinstance(here, yaml.ScalarNode) and (found := control_problem(here.value)):
            problems.append(Problem(prefix, f"{path}:{here.start_mark.line + 1}", found))
        if isinstance(here, yaml.SequenceNode):
            waiting += [((*prefix, str(i)), item) for i, item in enumerate(here.value)]
        if not isinstance(here, yaml.MappingNode):
            continue
        for key, value in here.value:
            where, line = (*prefix, str(key.value)), f"{path}:{key.start_mark.line + 1}"
            if found := control_problem(str(key.value)):
                problems.append(Problem(where, line, f"in the key: {found}"))
            if where in origin:
                problems.append(Problem(where, line, f"given twice; the first time at {origin[where]}"))
            origin[where] = line
            waiting.append((where, value))
    return origin, problems


def _texts(value: object) -> Iterator[str]:
    """Every text in a value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from itertools.chain.from_iterable(map(_texts, value))
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(_texts, (*value, *value.values())))


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(below)
    for key, value in above.items():
        old = out.get(key)
        out[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


def override(tree: YamlTree, text: str) -> list[Problem]:
    """Set one `key=value` in the tree; what is wrong with it."""
    where = text.origin if isinstance(text, FileText) else ARGUMENT
    if len(text) > MOST_LETTERS:
        found = f"expected at most {MOST_LETTERS:,} letters, found {len(text):,}"
        return [Problem((f"{text[:40]}...",), where, f"{found}; write them into a file")]
    key, equals, raw = text.partition("=")
    path = present_name(tuple(key.split(".")))
    if len(path) > MOST_DEPTH:
        return [Problem((f"{text[:40]}...",), where, f"no key has more than {MOST_DEPTH} parts")]
    if not equals or not all(path):
        return [
            Problem(
                (text,),
                where,
                "expected key=value with a dotted key, for example train.optimizer.lr=3e-5",
            )
        ]
    if not raw.strip():
        return [Problem(path, where, f"no value given: write {key}=null for none")]
    try:
        value = _Loader(raw).get_single_data()
    except (yaml.YAMLError, TypeError, ValueError):
        return [Problem(path, where, f"{shortened(raw)} is not a YAML value")]
    problem = next(filter(None, map(control_problem, (*path, *_texts(value)))), None)
    problem = problem or _put(tree.values, path, value)
    if problem:
        return [Problem(path, where, problem)]
    for below in [key for key in tree.origin if key[: len(path)] == path]:
        del tree.origin[below]  # the value replaces a section with all that it held
    tree.origin[path] = where
    return []


def _put(values: Any, path: tuple[str, ...], value: object) -> str | None:
    """Set `value` at the dotted path, making sections on the way; a sentence where that cannot be."""
    here = values
    for depth, key in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(here, list):
            if not _INDEX.fullmatch(key) or int(key) >= len(here):
                owner = ".".join(path[:depth])
                return f"{owner} is a list of {len(here)}: expected {owner}.0 to {owner}.{len(here) - 1}"
            slot: Any = int(key)
        elif isinstance(here, dict):
            slot = key
        else:
            return f"{'.'.join(path[:depth])} is a value ({shortened(here)}), not a section"
        if last:
            here[slot] = value
        elif isinstance(here, dict) and here.get(slot) is None:
            here[slot] = {}
        here = here[slot]
    return None
