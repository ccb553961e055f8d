"""A run stopped in one layout of the queue goes on in the same or another one, at any world size."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from swamp_dist.config import StageSettings
from swamp_dist.distributed import World
from tests.ranks import run_on_ranks
from tests.train.test_loop import _assert_same_run, _losses, _run
from tests.train.tiny import StopAfter, tiny_stage


def _stage(shards: Path, layout: str, dropout: float = 0.0) -> StageSettings:
    return tiny_stage(
        shards,
        objective__swamp__queue={"size": 50, "layout": layout},
        model__a={"kind": "mlp", "hidden": [16], "dropout": dropout},
        train__validate_on=None,
        train__select="last",
        evaluate=[],
    )


def _parts(world: World, parts: list[StageSettings], folder: Path, stop: int) -> None:
    """Stop in the middle of the first settings' run and finish with the last ones'."""
    from swamp_dist.runs.folder import RunDir
    from swamp_dist.stage.run import run_stage
    from swamp_dist.train.loop import Preempted

    first, second = parts
    with pytest.raises(Preempted):
        run_stage(first, RunDir(folder), world, StopAfter(stop if world.rank == 1 else -1))
    run_stage(second, RunDir(folder), world)


@pytest.mark.parametrize("stop", [pytest.param(1, marks=pytest.mark.slow), 11])
def test_a_sharded_run_stopped_and_resumed_is_bit_identical(
    tiny_shards: Path, tmp_path: Path, stop: int
) -> None:
    settings = _stage(tiny_shards, "sharded", dropout=0.1)
    run_on_ranks(_run, 2, settings, tmp_path / "whole", [])
    run_on_ranks(_run, 2, settings, tmp_path / "parts", [stop], 1)
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    "layouts", [("replicated", "sharded"), pytest.param(("sharded", "replicated"), marks=pytest.mark.slow)]
)
def test_a_run_goes_on_in_the_other_layout(
    tiny_shards: Path, tmp_path: Path, layouts: tuple[str, str]
) -> None:
    run_on_ranks(_run, 1, _stage(tiny_shards, "replicated"), tmp_path / "whole", [])
    run_on_ranks(_parts, 2, [_stage(tiny_shards, layout) for layout in layouts], tmp_path / "parts", 11)
    _assert_close(tmp_path / "whole", tmp_path / "parts")


def test_a_sharded_queue_is_dealt_anew_to_another_number_of_ranks(tiny_shards: Path, tmp_path: Path) -> None:
    settings = _stage(tiny_shards, "sharded")
    run_on_ranks(_run, 1, settings, tmp_path / "whole", [])
    with pytest.raises(AssertionError, match="Preempted"):
        run_on_ranks(_stopped, 2, settings, tmp_path / "parts")
    run_on_ranks(_run, 3, settings, tmp_path / "parts", [])
    _assert_close(tmp_path / "whole", tmp_path / "parts")


def _stopped(world: World, settings: StageSettings, folder: Path) -> None:
    from swamp_dist.runs.folder import RunDir
    from swamp_dist.stage.run import run_stage

    run_stage(settings, RunDir(folder), world, lambda: (folder / "checkpoints" / "step-10").is_dir())


@pytest.mark.parametrize(
    ("layout", "zero_stage", "micro_batch"),
    [
        ("sharded", 3, 6),
        *(pytest.param("replicated", zero, None, marks=pytest.mark.slow) for zero in range(4)),
        *(pytest.param("sharded", zero, 4, marks=pytest.mark.slow) for zero in range(3)),
    ],
)
def test_unique_items_train_and_resume_bit_identically(
    tiny_shards: Path, tmp_path: Path, layout: str, zero_stage: int, micro_batch: int | None
) -> None:
    """A queue longer than the split: in the second epoch rows of the first cease to count."""
    settings = _unique(tiny_shards, layout, engine={"zero_stage": zero_stage, "micro_batch": micro_batch})
    run_on_ranks(_run, 2, settings, tmp_path / "whole", [])
    run_on_ranks(_run, 2, settings, tmp_path / "parts", [11], 1)
    _assert_same_run(tmp_path / "whole", tmp_path / "parts")
    shares = _shares(tmp_path / "whole")
    assert shares[0] == 1
    assert min(shares) < 0.75  # of 300 rows at most 200 entries


@pytest.mark.slow
def test_unique_items_go_on_at_another_number_of_ranks(tiny_shards: Path, tmp_path: Path) -> None:
    run_on_ranks(_run, 1, _unique(tiny_shards, "replicated"), tmp_path / "whole", [])
    with pytest.raises(AssertionError, match="Preempted"):
        run_on_ranks(_stopped, 2, _unique(tiny_shards, "replicated"), tmp_path / "parts")
    run_on_ranks(_run, 3, _unique(tiny_shards, "sharded"), tmp_path / "parts", [])
    _assert_close(tmp_path / "whole", tmp_path / "parts")
    assert _shares(tmp_path / "parts") == _shares(tmp_path / "whole")


def _unique(shards: Path, layout: str, **changes: Any) -> StageSettings:
    settings = _stage(shards, layout)
    queue = {"size": 300, "unique_items": True, "start_when_filled": 60, "layout": layout}
    tree = settings.model_dump()
    tree["objective"]["swamp"]["queue"] |= queue
    return StageSettings.model_validate(tree | changes)


def _shares(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["queue/unique"] for line in lines if "queue/unique" in line]


def _assert_close(whole: Path, parts: Path) -> None:
    expected, found = (torch.tensor(_losses(folder)) for folder in (whole, parts))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)
