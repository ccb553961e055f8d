"""The contract of a backend on a real SLURM, with the ranks of `tests/backends/played_rank.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends import test_contract as contract
from tests.backends.test_contract import Case, prepared

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """Two nodes of the SLURM that the session's fixture has started."""
    yield from prepared("real slurm", tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "promise",
    [
        contract.test_ranks_start_with_their_place_and_the_command_waits,
        contract.test_a_killed_rank_ends_its_peers_and_is_never_taken_for_done,
        contract.test_describe_starts_and_writes_nothing,
        contract.test_a_job_outlives_its_command_and_is_followed_by_the_next,
        contract.test_a_job_that_saved_starts_again_under_its_id,
        contract.test_a_job_waits_for_those_before_it,
    ],
)
def test_a_real_slurm_keeps_the_contract(real: Case, promise: object) -> None:
    assert callable(promise)
    promise(real)


@pytest.mark.parametrize("now", [False, True])
def test_a_real_slurm_cancels_for_good(real: Case, now: bool) -> None:
    contract.test_a_cancelled_job_ends_for_good(real, now)
