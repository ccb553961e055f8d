"""What is wrong with a settings file, in the user's words: key, line, expected, found, did you mean."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from swamp_dist.config import Settings

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "path_type": "a path",
    "model_type": "a section (`key: value` lines)",
    "dict_type": "a section (`key: value` lines)",
    "tuple_type": "a list",
    "finite_number": "a finite number",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "literal_error": "{expected}",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
}


_MOST_SHOWN = 40
"""Problems on one screen."""
_MOST_EXPLAINED = 30
"""Findings of pydantic that are put into words: finding near keys takes time."""
_LONGEST_WORD = 100
"""Letters of a word that near ones are sought for, and of a key that is shown whole."""
_OF_THE_KEY = "[key]"
"""Ends a pydantic location where the key itself is wrong and not its value."""


@dataclass(frozen=True)
class Problem:
    """One thing to mend."""

    key: tuple[str, ...]
    where: str
    """`file.yaml:12`, `argument`, or "" where the key was not given."""
    message: str


def screen(title: str, problems: Sequence[Problem]) -> str:
    """All problems as one message, in the order found."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"{title}: {count}"]
    for problem in list(dict.fromkeys(problems))[:_MOST_SHOWN]:
        place = f"  ({problem.where})" if problem.where else ""
        lines += [f"  {_dotted(problem.key) or 'whole file'}{place}", f"      {problem.message}"]
    if len(problems) > _MOST_SHOWN:
        lines.append(f"  ... and {len(problems) - _MOST_SHOWN} more")
    return "\n".join(lines)


def no_yaml(path: Path, error: str, text: str) -> str:
    """What is told of a settings file that is no YAML.

    Args:
        error: the library's words.
        text: content of the file.
    """
    if path.suffix not in (".yaml", ".yml"):  # its lines say nothing to whoever named it by mistake
        return f"{path}: this is no job file.\nFix: name one: a job, pipeline, sweep or recipe ends in .yaml"
    said = error.replace('"<unicode string>"', str(path))
    return f"{path} is not valid YAML: {said}{_tab_hint(text)}"


def _tab_hint(text: str) -> str:
    """The fix where a line is indented by a tab, as YAML allows none."""
    indents = (line[: len(line) - len(line.lstrip())] for line in text.splitlines())
    at = next((number for number, indent in enumerate(indents, 1) if "\t" in indent), 0)
    return f"\nFix: line {at} begins with a tab; indent with blanks" if at else ""


def _dotted(key: tuple[str, ...]) -> str:
    text = ".".join(key)
    return text if len(text) <= _LONGEST_WORD else f"{text[:_LONGEST_WORD]}..."


def nearest(word: str, candidates: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Candidates that resemble `word`, best first, at most 3; swapped letters count as nearly alike."""
    if len(word) > _LONGEST_WORD:  # comparing takes time with the square of the length
        return []
    scored = sorted((-_likeness(word, c), c) for c in candidates)
    return [c for score, c in scored if -score >= cutoff][:3]


def explain(
    kind: type[Settings], error: ValidationError, origin: Mapping[tuple[str, ...], str]
) -> list[Problem]:
    """Pydantic's findings as problems, one per key."""
    merged: dict[tuple[str, ...], list[str]] = {}
    found = error.errors(include_url=False)
    for detail in found[:_MOST_EXPLAINED]:
        key, message = _say(kind, detail)
        merged.setdefault(key, []).append(message)
    problems = [Problem(k, origin_of(k, origin), _join(messages)) for k, messages in merged.items()]
    if len(found) > _MOST_EXPLAINED:
        problems.append(Problem((), "", f"and {len(found) - _MOST_EXPLAINED:,} more problems of this kind"))
    return problems


def _say(kind: type[Settings], detail: ErrorDetails) -> tuple[tuple[str, ...], str]:
    found, context, loc = detail["input"], detail.get("ctx", {}), detail["loc"]
    key, annotation = locate(kind, loc)
    problem = detail["type"]
    if problem == "extra_forbidden":
        return key, "unknown key" + _suggest_key(kind, loc)
    if problem == "missing":
        return key, "required, but not given"
    if problem in ("union_tag_not_found", "union_tag_invalid"):
        tags = [str(tag) for tag in _tags(annotation)]
        tag = found.get("kind") if isinstance(found, dict) else None
        shown = "it is not given" if tag is None else f"found {shortened(tag)}{_suggest_value(tag, tags)}"
        return (*key, "kind"), f"expected one of {', '.join(tags)}; {shown}"
    if problem == "value_error":
        return key, str(context.get("error", detail["msg"]))
    expected = _EXPECTED[problem].format(**context) if problem in _EXPECTED else detail["msg"]
    return key, f"expected {expected}, found {shortened(found)}{_suggest_value(found, _choices(annotation))}"


def _join(messages: list[str]) -> str:
    """A plain union (int | float | str) complains once a member: say it as one sentence."""
    messages = list(dict.fromkeys(messages))
    parts = [m.removeprefix("expected ").partition(", found ") for m in messages]
    if len(messages) > 1 and all(m.startswith("expected ") and ", found " in m for m in messages):
        return f"expected {' or '.join(p[0] for p in parts)}, found {parts[0][2]}"
    return "; ".join(messages)


def origin_of(key: tuple[str, ...], origin: Mapping[tuple[str, ...], str]) -> str:
    """Where the key, or else the nearest section around it, was given."""
    for length in range(len(key), 0, -1):
        if key[:length] in origin:
            return origin[key[:length]]
    return ""


def shortened(value: object) -> str:
    """A value as JSON, cut where it is long."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


# -- the tree of keys ------------------------------------------------------------------------------


def locate(kind: Any, loc: Sequence[int | str]) -> tuple[tuple[str, ...], Any]:
    """The dotted key of a pydantic location and the annotation there (None for an unknown key).

    Pydantic also names the chosen member of a union; those names are no part of the key.
    """
    key: list[str] = []
    annotation: Any = kind
    for part in loc:
        if part == _OF_THE_KEY:
            break
        members, items = sections(annotation), _items(annotation)
        if len(members) > 1:
            annotation = next(
                (m for m in members if part in _literals(m.model_fields["kind"].annotation)), None
            )
        elif members or items is not None:
            key.append(str(part))
            field = members[0].model_fields.get(str(part)) if members else None
            annotation = items if not members else field.annotation if field else None
        elif annotation is None:
            key.append(str(part))
    return tuple(key), annotation


def sections(annotation: Any) -> tuple[type[Settings], ...]:
    """Settings classes an annotation allows (several in a discriminated union)."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return (annotation,)
    return tuple(s for member in _unwrapped(annotation) for s in sections(member))


def unions(
    annotation: Any, prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[type[Settings], ...]]]:
    """Every section that has several kinds, with their classes; none inside free sections and lists."""
    members = sections(annotation)
    if len(members) > 1:
        yield prefix, members
    for section in members[:1] if len(members) == 1 else ():
        for name, field in section.model_fields.items():
            yield from unions(field.annotation, (*prefix, name))


def keys(annotation: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key below an annotation; NAME and 0 stand for the keys of free sections and lists."""
    for section in sections(annotation):
        for name, field in section.model_fields.items():
            yield (*prefix, name)
            yield from keys(field.annotation, (*prefix, name))
    items = _items(annotation)
    if items is not None:
        yield from keys(items, (*prefix, "NAME" if _is_mapping(annotation) else "0"))


def _unwrapped(annotation: Any) -> tuple[Any, ...]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return get_args(annotation)[:1]
    return get_args(annotation) if origin in (Union, UnionType) else ()


def _items(annotation: Any) -> Any:
    """Annotation of the members of a list or of a section with free keys, else None."""
    if get_origin(annotation) in (tuple, dict):
        return get_args(annotation)[1 if _is_mapping(annotation) else 0]
    return next((i for member in _unwrapped(annotation) if (i := _items(member)) is not None), None)


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict or any(_is_mapping(m) for m in _unwrapped(annotation))


def _literals(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(v for member in _unwrapped(annotation) for v in _literals(member))


def _choices(annotation: Any) -> list[str]:
    return [str(v) for v in _literals(annotation)]


def _tags(annotation: Any) -> list[str]:
    return [v for s in sections(annotation) for v in _literals(s.model_fields["kind"].annotation)]


# -- did you mean ----------------------------------------------------------------------------------


def _likeness(one: str, other: str) -> float:
    ratio = difflib.SequenceMatcher(None, one, other).ratio()
    letters = difflib.SequenceMatcher(None, sorted(one), sorted(other)).ratio()
    return max(ratio, 0.95 * letters if len(one) == len(other) else 0.0)


def _suggest_value(found: object, choices: Sequence[str]) -> str:
    near = nearest(str(found), choices) if isinstance(found, str) else []
    return f"; did you mean {near[0]}?" if near else ""


def _suggest_key(kind: type[Settings], loc: Sequence[int | str]) -> str:
    """Near keys of the same section, and the same key where it lives elsewhere."""
    section, annotation = locate(kind, loc[:-1])
    word = str(loc[-1])
    if len(word) > _LONGEST_WORD:
        return ""
    scores: dict[str, float] = {}
    for path in keys(kind):
        if path[-1] == word or _likeness(word, path[-1]) >= 0.8:
            scores[".".join(path)] = 0.95 if path[-1] == word else 0.8 * _likeness(word, path[-1])
    for member in sections(annotation):
        for name in member.model_fields:
            scores[".".join((*section, name))] = _likeness(word, name) + 0.1
    best = sorted((-score, name) for name, score in scores.items() if score >= 0.7)[:3]
    if best:
        return f"; did you mean {' or '.join(name for _, name in best)}?"
    here = sorted({name for member in sections(annotation) for name in member.model_fields})
    return f"; keys here: {', '.join(here)}" if here else ""
