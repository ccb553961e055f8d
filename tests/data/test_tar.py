"""The sum of a header's bytes, on which every header of a shard is checked."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from swamp_dist.data.tar import BLOCK, _sum_of_bytes


@given(st.binary(min_size=BLOCK, max_size=BLOCK))
def test_any_block_has_the_sum_of_its_bytes(block: bytes) -> None:
    assert _sum_of_bytes(block) == sum(block)


@given(st.binary(min_size=BLOCK, max_size=BLOCK).map(lambda block: bytes(byte & 127 for byte in block)))
def test_a_block_of_text_too(block: bytes) -> None:
    assert _sum_of_bytes(block) == sum(block)


def test_the_largest_sum_of_text_is_told_exactly() -> None:
    assert _sum_of_bytes(b"\x7f" * BLOCK) == 127 * BLOCK
    assert _sum_of_bytes(b"\xff" * BLOCK) == 255 * BLOCK
    assert _sum_of_bytes(bytes(BLOCK)) == 0
