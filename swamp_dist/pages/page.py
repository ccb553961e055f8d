"""A page in one file. It asks for nothing else, and a browser runs only what stands in it.

The policy (CSP) names the style and the script by their hashes and takes pictures as data, so that a text
from a file that became a tag in spite of all would still run nothing. All such text goes through `html_text`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from swamp_dist.printable import html_text, printable

MOST_BYTES = 5_000_000
"""Of a page."""


@dataclass(frozen=True)
class Page:
    """What stands in a page."""

    title: str
    """Plain text."""
    style: str
    """CSS behind the one that all pages share."""
    script: str
    """JavaScript; the page must be readable without it."""
    body: str
    """HTML, in which all text from files went through `html_text`."""

    def html(self) -> str:
        """The whole file."""
        style = read_part("pages", "page.css") + self.style
        policy = (
            f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(self.script)}; "
            "base-uri 'none'; form-action 'none'"
        )
        return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html_text(self.title)}</title>
<style>{style}</style>
</head>
<body>
{self.body}
<script>{self.script}</script>
</body>
</html>
"""


def sums_html(facts: Iterable[tuple[str, str]]) -> str:
    """A few figures in large letters, by name; both plain text."""
    told = "".join(
        f"<div><dt>{html_text(name)}</dt><dd>{html_text(value)}</dd></div>" for name, value in facts
    )
    return f'<dl class="sums">{told}</dl>'


def read_part(folder: str, name: str) -> str:
    """A style or script that lies beside the modules of a folder of the package."""
    return printable(files("swamp_dist").joinpath(folder, name).read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
