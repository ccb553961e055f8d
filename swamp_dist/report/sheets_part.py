"""Sheets of prototypes: those that `swamp prototypes` has left in run folders, or one that is drawn now."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swamp_dist.file_names import SHEET_FILE
from swamp_dist.plain_files import read_plain_file
from swamp_dist.printable import html_text
from swamp_dist.report.facts import RunFacts
from swamp_dist.report.parts import Section

MOST_OF_A_SHEET = 2_000_000
"""Bytes of a sheet."""
_MOST_OF_ALL = 2_500_000
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Sheet:
    """A picture of prototypes."""

    title: str
    data: bytes
    """A PNG file."""


def found_sheets(runs: Sequence[RunFacts]) -> tuple[list[Sheet], list[str]]:
    """The sheets in the run folders that a page has room for, and files that were left out."""
    sheets, left_out, size = [], [], 0
    for run in runs:
        for file in sorted(run.folder.path.glob(f"prototypes/*/{SHEET_FILE}")):
            try:
                data = read_plain_file(file, MOST_OF_A_SHEET)
            except OSError:
                data = b""
            if not data.startswith(_PNG) or size + len(data) > _MOST_OF_ALL:
                left_out.append(f"{file}: too large for the page, or no PNG file")
                continue
            size += len(data)
            sheets.append(Sheet(f"{run.key}, {file.parent.name}", data))
    return sheets, left_out


def sheets_part(sheets: Sequence[Sheet]) -> Section | None:
    """None where there is none."""
    return Section("prototypes", "Prototypes", "".join(_figures(sheets))) if sheets else None


def _figures(sheets: Sequence[Sheet]) -> Iterator[str]:
    for sheet in sheets:
        size = ""
        if len(sheet.data) >= 24:
            width, height = struct.unpack(">II", sheet.data[16:24])
            size = f' width="{width}" height="{height}"'
        text = base64.b64encode(sheet.data).decode()
        yield (
            f'<figure class="sheet" tabindex="0"><figcaption>{html_text(sheet.title)}</figcaption>'
            f'<img alt="{html_text(f"sheet of prototypes: {sheet.title}")}"{size} '
            f'src="data:image/png;base64,{text}"></figure>\n'
        )
