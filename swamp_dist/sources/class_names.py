"""Names of classes in one spelling: published lists and folders of one set differ in blanks and hyphens."""

from __future__ import annotations

import re


def normal_name(name: str) -> str:
    """Lower case, with `_` for blanks and hyphens: `Hot-air balloon` is `hot_air_balloon`."""
    return re.sub(r"[\s_-]+", "_", name.strip().lower()).strip("_")
