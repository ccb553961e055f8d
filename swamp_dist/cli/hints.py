"""What leads on where a command line cannot be understood: an option that is a setting, a verb of others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

_OPTION = re.compile(r"^No such option: --?([\w-]+)")
_VERB = re.compile(r"^No such command '([\w-]+)'")
_VERBS: Mapping[str, str] = {
    "train": "run JOB",
    "fit": "run JOB",
    "finetune": "run JOB",
    "pretrain": "run JOB",
    "start": "run JOB",
    "resume": "run JOB (the same command again continues)",
    "test": "eval RUN, or run JOB weights=RUN with a job of jobs/eval/",
    "evaluate": "eval RUN, or run JOB weights=RUN with a job of jobs/eval/",
    "build": "shards build RECIPE",
    "prepare": "shards build RECIPE",
    "verify": "shards verify FOLDER",
    "ls": "status",
    "list": "status",
    "results": "table RUN",
    "diff": "compare RUN RUN",
    "log": "logs RUN",
    "stop": "cancel RUN",
    "kill": "cancel RUN --now",
    "help": "--help",
    "version": "--version",
    "config": "show FILE",
    "validate": "show FILE",
}
"""What words of other programs are called here."""
_WITH_SETTINGS = frozenset({"run", "submit", "show", "pipeline", "smoke", "sweep"})


def with_hint(message: str, verb: str, given: Sequence[str] = ()) -> str:
    """What is told of a command line that is not understood, with what may have been meant.

    Args:
        message: the library's words.
        verb: of the command line; empty where there is none.
        given: the words of the command line, from which a value is taken.
    """
    found = _VERB.match(message)
    if found is not None and found.group(1) in _VERBS:
        return f"{message.partition(' Did you mean')[0]} It is: swamp {_VERBS[found.group(1)]}"
    found = _OPTION.match(message)
    keys = _settings_called(found.group(1)) if found is not None and verb in _WITH_SETTINGS else []
    if keys:
        value = _value_of(found.group(1) if found is not None else "", given)
        named = " or ".join(f"{key}={value}" for key in keys)
        return f"{message.rstrip('.')}. Settings are given as KEY=VALUE: {named}"
    return message


def _value_of(option: str, given: Sequence[str]) -> str:
    """What stands after an option, or `...`."""
    for word, after in zip(given, [*given[1:], "-"], strict=True):
        name, is_joined, value = word.partition("=")
        if name.lstrip("-") == option and name.startswith("-"):
            value = value if is_joined else after
            return value if value and not value.startswith("--") and value != "-" else "..."
    return "..."


def _settings_called(option: str) -> Sequence[str]:
    """Dotted keys of a job whose end has this name, written with - or _; at most 3."""
    from swamp_dist.config import StageSettings
    from swamp_dist.explaining import keys

    word = option.replace("-", "_")
    dotted = [".".join(path) for path in keys(StageSettings) if "NAME" not in path and "0" not in path]
    exact = [key for key in dotted if key == option or key.rpartition(".")[2] == word]
    return list(dict.fromkeys(exact))[:3]
