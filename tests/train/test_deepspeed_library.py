from __future__ import annotations

import os
import sys
from importlib import import_module

import pytest
import torch

from swamp_dist.distributed import World, alone
from swamp_dist.train.deepspeed_library import import_deepspeed, left_out, listed
from swamp_dist.train.plain_optimizers import plain


def test_the_engines_device_is_the_one_the_rank_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler may show each rank one GPU: number 0, whatever the rank's place on its node."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    import_deepspeed(World(3, 4, 3, torch.device("cuda", 0)))
    assert os.environ["LOCAL_RANK"] == "0"
    import_deepspeed(World(2, 4, 2, torch.device("cuda", 2)))
    assert os.environ["LOCAL_RANK"] == "2"


def test_an_optimiser_of_torch_without_its_marks_is_listed_as_torchs_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import_deepspeed(alone())
    from deepspeed.runtime.zero import utils

    monkeypatch.setattr(utils, "ZERO_SUPPORTED_OPTIMIZERS", [torch.optim.Adam])
    weights = [torch.nn.Parameter(torch.ones(1))]
    for kind in (plain(torch.optim.Adam), plain(torch.optim.SGD), plain(torch.optim.Adam)):
        made = kind(weights)
        assert listed(made) is made
    assert [torch.optim.Adam, plain(torch.optim.Adam)] == utils.ZERO_SUPPORTED_OPTIMIZERS


def test_a_library_that_is_left_out_can_be_imported_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(ImportError), left_out("colorsys"):
        import_module("colorsys")
    loaded = import_module("colorsys")
    with left_out("colorsys"):
        assert import_module("colorsys") is loaded
    assert sys.modules["colorsys"] is loaded
