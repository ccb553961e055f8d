"""The base of every section of settings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

_AFFECTS = "affects_result"
SAME_RESULT: Any = Field(json_schema_extra={_AFFECTS: False})
"""Marks a setting that changes how a result is computed and not what it is: speed, memory, what is logged or
kept. A resume and a finished stage accept another value. Used as `Annotated[TYPE, SAME_RESULT]`."""
_RELATIVE_TO = "relative_to"
WORKING_FOLDER: Any = Field(json_schema_extra={_RELATIVE_TO: "working folder"})
"""Marks a path of something that this program makes: a shard set, a run, weights, downloads. It is relative
to the working folder. Paths without the mark are relative to the file that says them (`input_paths.py`)."""
_HOLDS = "holds"
OVERRIDES: Any = Field(json_schema_extra={_HOLDS: "overrides"})
"""Marks key=value texts for another file (or their keys); paths in them are relative to the file that says
them."""


class Settings(BaseModel):
    """Base of every section: unknown keys and infinite numbers are errors, values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def same_result(self) -> frozenset[str]:
        """Fields that are as if marked with `SAME_RESULT`, by what the other fields say."""
        return frozenset()


def same_result_keys(settings: Settings, prefix: str = "") -> Iterator[str]:
    """Dotted keys of the settings that change no result (`SAME_RESULT`); a key of a section stands for all
    below it."""
    for name, field in type(settings).model_fields.items():
        extra, value = field.json_schema_extra, getattr(settings, name)
        if name in settings.same_result() or (isinstance(extra, dict) and extra.get(_AFFECTS) is False):
            yield prefix + name
        elif isinstance(value, Settings):
            yield from same_result_keys(value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            for key, member in value.items():
                if isinstance(member, Settings):
                    yield from same_result_keys(member, f"{prefix}{name}.{key}.")


def is_of_working_folder(field: FieldInfo) -> bool:
    """Whether a field is marked with `WORKING_FOLDER`."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and _RELATIVE_TO in extra


def is_override(field: FieldInfo) -> bool:
    """Whether a field is marked with `OVERRIDES`."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and _HOLDS in extra


def is_below(key: str, sections: set[str]) -> bool:
    """Whether a dotted key is one of `sections` or stands below one."""
    parts = key.split(".")
    return any(".".join(parts[:depth]) in sections for depth in range(1, len(parts) + 1))
