"""The section `values:` of a pipeline file: names, their values, and the fields of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from swamp_dist.explaining import Problem, origin_of
from swamp_dist.yaml_tree import YamlTree

_NAME = re.compile(r"[A-Za-z_][\w-]*")
Values = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Name -> value -> field -> what the file says."""


def read_values(tree: YamlTree) -> tuple[Values, list[Problem]]:
    """The values that groups are written out for, and what is wrong with them."""
    given_values, problems = tree.values.get("values") or {}, []

    def refuse(path: tuple[str, ...], message: str) -> None:
        problems.append(Problem(path, origin_of(path, tree.origin), message))

    if not isinstance(given_values, dict):
        refuse(("values",), "expected a section: names, each with its values")
        return {}, problems
    taken = {"runs", *section(tree, "matrix")}
    values: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, given in given_values.items():
        path = ("values", str(name))
        if not _NAME.fullmatch(path[1]) or name in taken:
            refuse(path, f"expected a name of letters, digits, _ and - that is none of {sorted(taken)}")
        elif isinstance(given, list) and given and len({str(v) for v in given}) == len(given):
            values[name] = {str(value): {} for value in given}
        elif isinstance(given, dict) and given:
            values[name] = {str(value): fields or {} for value, fields in given.items()}
            for value, fields in values[name].items():
                if not isinstance(fields, dict):
                    refuse((*path, value), f"expected a section: the fields of {value}")
        else:
            refuse(path, "expected a section of values with their fields, or a list of values, each once")
    return values, problems


def section(tree: YamlTree, key: str) -> Mapping[str, Any]:
    """A section of the file; empty where it is none."""
    section = tree.values.get(key)
    return section if isinstance(section, dict) else {}
