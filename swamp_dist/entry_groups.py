"""A pipeline file in which one entry may stand for many -> the same file with every entry written out.

`values:` names values, each with fields of its own. An entry (a stage, shard set, table or table row) with
`for_each: [NAMES]` stands for one entry per combination of those values: `{NAME}` is the value and
`{NAME.FIELD}` a field of it. A list item that is nothing but such a field is replaced by the items of the
field's list. `swamp_dist.config.EntryGroup` describes the keys.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from swamp_dist.config import EntryGroup
from swamp_dist.errors import UserError
from swamp_dist.explaining import Problem, explain, nearest, origin_of
from swamp_dist.group_values import Values, read_values, section
from swamp_dist.yaml_tree import YamlTree

GROUPED = ("shards", "stages", "tables")
"""Sections whose entries may be groups."""
MOST_WRITTEN = 100_000
"""Values that the groups of a file may stand for."""
_LONGEST_TEXT = 10_000
_PLACEHOLDER = re.compile(r"\{([A-Za-z_][\w.-]*)\}")
_KEYS = tuple(EntryGroup.model_fields)

_Path = tuple[str, ...]
_Bound = Mapping[str, str]
"""Name -> the value it has in the entry that is being written out."""


class _MistakeError(Exception):
    """Something in a text that cannot be replaced; its message becomes a problem."""


def expand_groups(tree: YamlTree) -> tuple[YamlTree, list[Problem]]:
    """The tree without `values:` and groups, and what is wrong with them.

    Entries keep the lines they were written in, so later problems name those.
    """
    values, problems = read_values(tree)
    if problems:
        return tree, problems
    expansion = _Expansion(values, tree)
    written_out = {
        key: expansion.expand(node, {}, (key,), (key,)) if key in GROUPED else node
        for key, node in tree.values.items()
        if key != "values"
    }
    kept = {path: line for path, line in tree.origin.items() if path[0] not in (*GROUPED, "values")}
    if not expansion.problems:
        expansion.problems += expansion.unused()
    return YamlTree(written_out, kept | expansion.origin), expansion.problems


@dataclass
class _Expansion:
    """One pass over a file: what is written out, and what has been used and refused so far."""

    values: Values
    tree: YamlTree
    origin: dict[_Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _used: set[_Path] = field(default_factory=set)
    """("value", NAME, VALUE), ("field", NAME, FIELD) and ("entry", *path of a group or exclusion)."""
    _entries: set[_Path] = field(default_factory=set)
    """Groups and exclusions that were found."""
    _refused: set[_Path] = field(default_factory=set)
    _written: int = 0
    """Values so far."""
    _open: list[str] = field(default_factory=list)
    """Fields that are being replaced, outermost first."""

    def expand(self, node: Any, bound: _Bound, old: _Path, new: _Path) -> Any:
        """`node` at path `old` of the file, written out for the path `new`.

        Raises:
            UserError: the file stands for more than MOST_WRITTEN values: fields that name fields, or groups
                inside groups, multiply.
        """
        self._written += 1
        if self._written > MOST_WRITTEN:
            where = origin_of(old, self.tree.origin) or ".".join(old)
            raise UserError(f"{where}: `for_each` and fields stand for more than {MOST_WRITTEN:,} values")
        if old in self.tree.origin:
            self.origin[new] = self.tree.origin[old]
        if isinstance(node, str):
            return self._replace(node, bound, old, new)
        if isinstance(node, list):
            return self._expand_list(node, bound, old, new)
        return self._expand_section(node, bound, old, new) if isinstance(node, dict) else node

    def unused(self) -> Iterator[Problem]:
        """Values, fields, groups and exclusions without which the result would be the same."""
        for name, given in self.values.items():
            for value in given:
                if ("value", name, value) not in self._used:
                    yield self._problem(("values", name, value), "no entry is written for this value")
            for key in dict.fromkeys(key for fields in given.values() for key in fields):
                if ("field", name, key) not in self._used:
                    first = next(value for value, fields in given.items() if key in fields)
                    yield self._problem(("values", name, first, key), f"nothing uses {{{name}.{key}}}")
        for path in sorted(self._entries):
            if ("entry", *path) not in self._used:
                is_exclusion = path[-2] == "without"
                message = (
                    "there is no such combination" if is_exclusion else "`without` leaves no combination"
                )
                yield self._problem(path, message)

    def _expand_list(self, items: list[Any], bound: _Bound, old: _Path, new: _Path) -> list[Any]:
        out: list[Any] = []
        for index, item in enumerate(items):
            path = (*old, str(index))
            for inner in self._combinations(item, bound, path):
                made = self.expand(_without_keys(item), inner, path, (*new, str(len(out))))
                # An item that is nothing but a field gives all items of the field's list.
                out += made if isinstance(item, str) and isinstance(made, list) else [made]
        return out

    def _expand_section(
        self, section: dict[str, Any], bound: _Bound, old: _Path, new: _Path
    ) -> dict[str, Any]:
        out: dict[str, Any] = {}
        given_by: dict[str, str] = {}
        for key, node in section.items():
            path = (*old, str(key))
            for inner in self._combinations(node, bound, path):
                name = self._replace(str(key), inner, path, None)
                if not isinstance(name, str):
                    self._refuse(path, f"{key} gives {json.dumps(name)}, which is no name")
                elif name in given_by:
                    self._refuse(path, _say_twice(name, key, given_by[name]))
                else:
                    out[name] = self.expand(_without_keys(node), inner, path, (*new, name))
                    given_by[name] = key
        return out

    def _combinations(self, node: Any, bound: _Bound, path: _Path) -> Iterator[_Bound]:
        """What the names are bound to in each entry that `node` stands for."""
        if not isinstance(node, dict) or "for_each" not in node:
            yield bound
            return
        try:
            group = EntryGroup.model_validate_json(
                json.dumps({k: node[k] for k in _KEYS if k in node}), strict=True
            )
        except ValidationError as error:
            for problem in explain(EntryGroup, error, {}):
                self._refuse((*path, *problem.key), problem.message)
            return
        mistakes = list(self._group_mistakes(group, bound))
        for where, message in mistakes:
            self._refuse((*path, *where), message)
        if mistakes:
            return
        self._entries.add(path)
        exclusions = [_texts(exclusion) for exclusion in group.without]
        self._entries.update((*path, "without", str(index)) for index in range(len(exclusions)))
        count = math.prod(len(self.values[name]) for name in group.for_each)
        if count > MOST_WRITTEN:
            self._refuse(path, f"`for_each` stands for {count:,} entries, more than {MOST_WRITTEN:,}")
            return
        for combination in itertools.product(*(self.values[name] for name in group.for_each)):
            inner = {**bound, **dict(zip(group.for_each, combination, strict=True))}
            excluding = [i for i, e in enumerate(exclusions) if all(inner[n] in e[n] for n in e)]
            self._used.update(("entry", *path, "without", str(index)) for index in excluding)
            if not excluding:
                self._used.update(("value", name, inner[name]) for name in group.for_each)
                self._used.add(("entry", *path))
                yield inner

    def _group_mistakes(self, group: EntryGroup, bound: _Bound) -> Iterator[tuple[_Path, str]]:
        """Names and values that do not exist, each with its place in the group."""
        for index, name in enumerate(group.for_each):
            if name not in self.values:
                yield ("for_each",), f"{name!r} is not in `values`{_guess(name, self.values)}"
            elif name in bound or name in group.for_each[:index]:
                yield ("for_each",), f"{name!r} has one value here already"
        varying = {*group.for_each, *bound}
        for index, exclusion in enumerate(group.without):
            for name, excluded in _texts(exclusion).items():
                known = self.values.get(name, {})
                if name not in varying:
                    yield ("without", str(index)), f"{name!r} does not vary here{_guess(name, varying)}"
                    continue
                for value in [value for value in excluded if value not in known]:
                    yield ("without", str(index)), f"{value!r} is not a value of {name}{_guess(value, known)}"

    def _replace(self, text: str, bound: _Bound, old: _Path, new: _Path | None) -> Any:
        try:
            return self._filled(text, bound, old, new)
        except _MistakeError as mistake:
            if self._open:  # a field's mistake is one of the entry that uses it
                raise
            shown = ", ".join(f"{name} = {value}" for name, value in bound.items())
            self._refuse(old, f"{mistake}" + (f" (here {shown})" if bound else ""))
            return text

    def _filled(self, text: str, bound: _Bound, old: _Path, new: _Path | None) -> Any:
        """`text` with the names of `values` replaced, innermost first; other braces stay."""
        while match := next((m for m in _PLACEHOLDER.finditer(text) if self._is_value(m.group(1))), None):
            value = self._look_up(match.group(1), bound, new or old)
            if match.span() == (0, len(text)) and not isinstance(value, str):
                return value
            if isinstance(value, list | dict) or value is None:
                raise _MistakeError(
                    f"{match.group()} is {json.dumps(value)}, which cannot stand inside a text"
                )
            spelled = value if isinstance(value, str) else json.dumps(value)
            text = text[: match.start()] + spelled + text[match.end() :]
            if len(text) > _LONGEST_TEXT:
                raise _MistakeError(f"the text would grow over {_LONGEST_TEXT:,} letters")
        if bound:
            self._check_other_names(text)
        return text

    def _look_up(self, reference: str, bound: _Bound, new: _Path) -> Any:
        name, _, key = reference.partition(".")
        if name not in bound:
            raise _MistakeError(f"{{{reference}}} has many values: write `for_each: [{name}]` beside it")
        if not key:
            return bound[name]
        fields = self.values[name][bound[name]]
        if key not in fields:
            raise _MistakeError(f"{{{reference}}}: {bound[name]} has no field {key!r}{_guess(key, fields)}")
        if reference in self._open:
            raise _MistakeError(f"{' -> '.join([*self._open, reference])} goes in a circle")
        self._used.add(("field", name, key))
        self._open.append(reference)
        try:
            return self.expand(fields[key], bound, ("values", name, bound[name], key), new)
        finally:
            self._open.pop()

    def _is_value(self, reference: str) -> bool:
        return reference.partition(".")[0] in self.values

    def _check_other_names(self, text: str) -> None:
        """What stays in braces is for the plan: names of the matrix, and `runs.STAGE`."""
        matrix = section(self.tree, "matrix")
        for name in _PLACEHOLDER.findall(text):
            if name not in matrix and not name.startswith("runs."):
                near = _guess(name, [*self.values, *matrix])
                raise _MistakeError(f"{{{name}}} is neither in `values` nor in `matrix`{near}")

    def _problem(self, path: _Path, message: str) -> Problem:
        return Problem(path, origin_of(path, self.tree.origin), message)

    def _refuse(self, path: _Path, message: str) -> None:
        """Note a problem; the first one of an entry is enough, whatever its combination."""
        if path not in self._refused:
            self.problems.append(self._problem(path, message))
        self._refused.add(path)


def _without_keys(node: Any) -> Any:
    """A group's entry as it is written out, without the keys that make it a group."""
    if not isinstance(node, dict) or "for_each" not in node:
        return node
    return {key: value for key, value in node.items() if key not in _KEYS}


def _texts(
    exclusion: Mapping[str, str | int | float | tuple[str | int | float, ...]],
) -> dict[str, list[str]]:
    return {n: [str(v) for v in (e if isinstance(e, tuple) else (e,))] for n, e in exclusion.items()}


def _say_twice(name: str, key: str, first: str) -> str:
    if key == first:
        return f"two entries would be called {name!r}: put every name of `for_each` into the entry's name"
    return f"{name!r} is also written by {first!r}; leave it out there: `without`"


def _guess(word: str, known: Iterable[str]) -> str:
    candidates: Sequence[str] = sorted(known)
    near = nearest(word, candidates)
    return f"; did you mean {near[0]}?" if near else f"; known: {', '.join(candidates) or 'none'}"
