"""Settings of a simulated corpus that is written in a second."""

from __future__ import annotations

import json
from pathlib import Path

from swamp_dist.config import SimulatedVideoTextSource

SMALL = {
    "howto100m_videos": 5, "howto100m_seconds": [20, 30], "youcook2_train": 40, "youcook2_test": 10,
    "msrvtt_train": 12, "msrvtt_captions": 3, "msrvtt_test": 6, "lsmdc_train": 90, "lsmdc_test": 6,
    "width": 32, "latent_dim": 8, "word_dim": 20, "vocabulary": 900, "stray_quotes": 0.3,
}  # fmt: skip


def small_settings(raw_dir: Path, part: str = "youcook2", **changes: object) -> SimulatedVideoTextSource:
    given = SMALL | changes | {"raw_dir": str(raw_dir), "part": part}
    return SimulatedVideoTextSource.model_validate_json(json.dumps(given), strict=True)
