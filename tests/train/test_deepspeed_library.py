from __future__ import annotations

import os

import pytest
import torch

from swamp_dist.distributed import World
from swamp_dist.train.deepspeed_library import import_deepspeed


def test_the_engines_device_is_the_one_the_rank_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler may show each rank one GPU: number 0, whatever the rank's place on its node."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    import_deepspeed(World(3, 4, 3, torch.device("cuda", 0)))
    assert os.environ["LOCAL_RANK"] == "0"
    import_deepspeed(World(2, 4, 2, torch.device("cuda", 2)))
    assert os.environ["LOCAL_RANK"] == "2"
