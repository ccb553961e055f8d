"""How text from files and command lines gets into a batch script: the only place that writes one.

Two readers take such a script apart. sbatch reads the lines that start with `#SBATCH`, one by one, with
quotes of its own; bash reads all the others. A text that either would take for something else than one value
is quoted here, or refused.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence

from swamp_dist.errors import UserError


def script_text(options: Mapping[str, str | None], lines: Sequence[str]) -> str:
    """A batch script.

    Args:
        options: of sbatch, by name; None where an option takes no value.
        lines: of bash, made with `shell_words` wherever a text comes from outside.

    Raises:
        UserError: an option or its value has no form that sbatch reads back as it is.
    """
    head = [_option_line(name, value) for name, value in sorted(options.items())]
    return "\n".join(["#!/bin/bash", *head, "", *lines, ""])


def shell_words(*words: str) -> str:
    """Words as bash reads them back, on one line.

    Raises:
        UserError: NUL, which no argument can hold.
    """
    return " ".join(map(_shell_word, words))


def file_pattern(path: str) -> str:
    """A path for options in which SLURM replaces `%` and a letter; `%` itself is written twice."""
    return path.replace("%", "%%")


def _option_line(name: str, value: str | None) -> str:
    if not re.fullmatch("[a-z][a-z0-9-]*", name):
        raise UserError(f"{name[:80]!r} is no option of sbatch: expected lower-case letters, digits and -")
    if value is None:
        return f"#SBATCH --{name}"
    if not value.isprintable() or "\\" in value:
        raise UserError(
            f"sbatch cannot be given --{name} {value[:200]!r}: expected printable characters, no line break "
            "and no backslash.\nFix: another --run-dir or working folder, or another value in the cluster "
            "file."
        )
    return f"#SBATCH --{name}={shlex.quote(value)}"


def _shell_word(text: str) -> str:
    if "\0" in text:
        raise UserError(f"no command can be given {text[:200]!r}: it holds NUL. Take the character out.")
    if text.isprintable():
        return shlex.quote(text)
    # One line, so that no part of it can stand where sbatch looks for its options.
    return "$'" + "".join(map(_escaped, text)) + "'"


def _escaped(letter: str) -> str:
    if letter in "\\'":
        return "\\" + letter
    if letter.isprintable():
        return letter
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(letter))
