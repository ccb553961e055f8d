"""How `swamp show` lays out settings: a table where there is room for one, else a list."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from swamp_dist.console import block, cell
from swamp_dist.loading import REQUIRED, Setting, value_text

TABLE_WIDTH = 130
"""Columns below which the explanations in a table would be cut to slivers."""
_MARKED = "* differs from the default"


def settings_table(title: str, settings: Sequence[Setting]) -> Table:
    """One row per setting: key, value, default where it differs, explanation."""
    shown = Table(title=cell(title), title_justify="left", show_lines=False, box=None, pad_edge=False)
    shown.add_column("setting", no_wrap=True)
    shown.add_column("value", overflow="fold")
    shown.add_column("default", overflow="fold")
    shown.add_column("what it does")
    for setting in settings:
        mark, style = _mark(setting)
        default = "" if setting.is_default else value_text(setting.default)
        shown.add_row(
            cell(mark + setting.key, style),
            block(value_text(setting.value), style),
            block(default),
            block(setting.description),
        )
    shown.caption = _MARKED
    shown.caption_justify = "left"
    return shown


def settings_list(title: str, settings: Sequence[Setting]) -> Group:
    """Every setting on a line of its own, its explanation below it."""
    parts: list[Text | Padding] = [cell(title, "italic")]
    for setting in settings:
        mark, style = _mark(setting)
        line = block(f"{mark}{setting.key} = {value_text(setting.value)}", style) + block(_beside(setting))
        parts += [line, Padding(block(setting.description), (0, 0, 0, 6))]
    return Group(*parts, cell(_MARKED))


def _mark(setting: Setting) -> tuple[str, str]:
    return ("", "") if setting.is_default else ("* ", "bold")


def _beside(setting: Setting) -> str:
    if setting.is_default:
        return ""
    return f"  {REQUIRED}" if setting.default == REQUIRED else f"  (default: {value_text(setting.default)})"
