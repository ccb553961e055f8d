"""Where rows of the queue go, and who solves them: by counted bytes and operations."""

from __future__ import annotations

import pytest

from swamp_dist.config import ObjectiveSettings
from swamp_dist.objective import placement


@pytest.mark.parametrize(
    ("weight", "size", "solve_how", "expected"),
    [
        (1.0, 2048, "auto", ("replicated", True)),
        (1.0, 2048, "split", ("replicated", True)),
        (1.0, 32_000, "auto", ("replicated", True)),
        (1.0, 33_000, "auto", ("sharded", True)),  # 8 * 4,096 + 8 bytes per row are more than 1 GiB
        (1.0, 33_000, "whole", ("replicated", False)),
        (0.0, 2048, "auto", ("sharded", True)),
    ],
)
def test_auto_counts_bytes(weight: float, size: int, solve_how: str, expected: tuple[str, bool]) -> None:
    settings = ObjectiveSettings.model_validate(
        {"contrastive": {"weight": weight}, "swamp": {"queue": {"size": size, "solve": solve_how}}}
    )
    found = placement.choose_placement(settings, 256, 4096, 8, on_gpu=True)
    assert (found.layout, found.is_split) == expected
    assert placement.choose_placement(settings, 256, 4096, 1, on_gpu=False) == placement.Placement(
        size, "replicated", False
    )


def test_a_sharded_queue_cannot_be_solved_whole() -> None:
    with pytest.raises(ValueError, match="no rank holds all rows"):
        ObjectiveSettings.model_validate({"swamp": {"queue": {"layout": "sharded", "solve": "whole"}}})


def test_splitting_pays_for_large_queues_only() -> None:
    assert placement.cheaper_solve(2048, 500, 256, 5, 8, on_gpu=True) == "whole"
    assert placement.cheaper_solve(1_000_000, 10_000, 4096, 5, 64, on_gpu=True) == "split"


@pytest.mark.parametrize(
    ("pairs", "ranks", "asked", "expected"),
    [
        (2**19, 1024, {}, True),  # 16 GiB of columns with gradient, and 2 GiB of similarities
        (2**18, 1024, {}, False),
        (2**19, 1024, {"columns": "gathered"}, False),
        (512, 8, {"columns": "ring"}, True),
        (512, 1, {"columns": "ring"}, False),  # one rank has all columns
        (2**17, 16, {"form": "infonce"}, True),  # 8,192 rows: similarities of 4 GiB, four times
        (2**17, 16, {"form": "infonce", "chunk": 1024}, False),
    ],
)
def test_auto_takes_the_ring_where_columns_fill_a_share_of_memory(
    pairs: int, ranks: int, asked: dict[str, str], expected: bool
) -> None:
    settings = ObjectiveSettings.model_validate({"contrastive": asked})
    assert placement.takes_ring(settings, pairs, 4096, ranks) == expected


def test_a_queue_is_not_replicated_for_columns_that_nobody_gathers() -> None:
    settings = ObjectiveSettings.model_validate({"contrastive": {"columns": "ring"}})
    assert placement.choose_placement(settings, 256, 512, 8, on_gpu=True).layout == "sharded"
    assert placement.gathered_sides(settings, is_replicated=False, is_ring=True) == (None, None)
    assert placement.gathered_sides(settings, is_replicated=True, is_ring=True) == ("rows", "rows")
