"""The baseline of `tools/bench_image_text.py` computes what it is compared with."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional

from swamp_dist.config import CrossAttentionSettings
from swamp_dist.model.cross_attention import pair_scores
from swamp_dist.records import Sets


def _tool() -> ModuleType:
    path = Path(__file__).parents[1] / "tools" / "caption_loop.py"
    spec = importlib.util.spec_from_file_location("caption_loop", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_caption_by_caption_scores_are_those_of_cross_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    tool, random = _tool(), torch.Generator().manual_seed(0)
    monkeypatch.setattr(tool, "SHARD", 2)  # the last one is not full
    regions = torch.randn(5, 4, 6, generator=random, dtype=torch.float64)
    words = torch.randn(3, 7, 6, generator=random, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor([[7], [1], [4]])
    images = Sets(functional.normalize(regions, dim=2), torch.ones(5, 4, dtype=torch.bool))
    captions = Sets(functional.normalize(words, dim=2), mask)
    rules = CrossAttentionSettings(queries="a", softmax_scale=4.0, aggregate="mean")
    torch.testing.assert_close(
        tool.loop_scores(images, captions), pair_scores(images, captions, rules), rtol=0, atol=1e-12
    )
