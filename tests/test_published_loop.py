"""The baseline of `tools/bench_training.py` computes what was published."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.published_model import PublishedNet, published_loss

TOOLS = Path(__file__).parents[1] / "tools"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(TOOLS)
    module = importlib.import_module("published_loop")
    monkeypatch.delitem(sys.modules, "published_loop")
    monkeypatch.delitem(sys.modules, "whole_file_loader")
    return module


def test_its_loss_is_the_published_one(tool: ModuleType) -> None:
    torch.manual_seed(0)
    x = torch.rand(12, 12)
    expected = published_loss(x.double(), tool.MARGIN, 3, 4, tool.HARD_RATE)
    torch.testing.assert_close(tool.Loss(3, 4)(x).double(), expected, rtol=1e-6, atol=0)


def test_its_network_is_the_published_one(tool: ModuleType) -> None:
    torch.manual_seed(0)
    network, oracle = tool.Network(8), PublishedNet(8, 2 * tool.CHANNELS, tool.DIM)
    pairs = (
        (network.words, oracle.text_pooling.fc),
        (network.text.linear, oracle.GU_text.fc),
        (network.text.gate, oracle.GU_text.cg.fc),
        (network.video.linear, oracle.GU_video.fc),
        (network.video.gate, oracle.GU_video.cg.fc),
    )
    for mine, theirs in pairs:
        theirs.load_state_dict(mine.state_dict())
    video, text = torch.randn(5, 2 * tool.CHANNELS), torch.randn(5, 20, tool.DIM)
    torch.testing.assert_close(network(video, text), oracle(video, text), rtol=0, atol=1e-5)
