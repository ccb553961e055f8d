from __future__ import annotations

import pytest

from swamp_dist.environment import (
    BATCH_MARK,
    RankInfo,
    check_batch_mark,
    first_host,
    last_host,
    read_environment,
)
from swamp_dist.errors import UserError

TORCH = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "gpu7", "MASTER_PORT": "29500"}
STEP = {
    "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "41234",
    "SLURM_STEP_NODELIST": "gpu[007-008]",
}  # fmt: skip
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "41234"}


def test_each_launcher_is_understood() -> None:
    assert read_environment(TORCH) == RankInfo(3, 4, 1, "gpu7", 29500, "torch")
    assert read_environment(STEP) == RankInfo(5, 8, 1, "gpu007", 25234, "slurm", "41234.0.0", "gpu008")
    assert read_environment({}) == RankInfo(0, 1, 0, "127.0.0.1", 0, "none")


def test_ranks_of_one_node_meet_where_no_other_host_reaches_them() -> None:
    place = read_environment(STEP | {"SLURM_STEP_NODELIST": "gpu007"})
    assert (place.address, place.other_host) == ("127.0.0.1", "")


def test_ranks_started_inside_a_task_are_those_of_their_own_launcher() -> None:
    assert read_environment(STEP | TORCH).launcher == "torch"


def test_a_batch_script_is_no_task() -> None:
    assert read_environment(BATCH_SCRIPT).launcher == "none"


def test_a_place_comes_back_from_its_own_variables() -> None:
    place = read_environment(STEP)
    again = read_environment(place.variables())
    assert (again.rank, again.world_size, again.local_rank) == (5, 8, 1)
    assert (again.address, again.port, again.start) == ("gpu007", 25234, "41234.0.0")


def test_a_job_that_starts_again_meets_at_another_port_and_all_ranks_at_the_same() -> None:
    again = STEP | {"SLURM_RESTART_COUNT": "1"}
    assert read_environment(again).port != read_environment(STEP).port
    assert read_environment(again | {"SLURM_PROCID": "0"}).port == read_environment(again).port
    ports = {read_environment(STEP | {"SLURM_JOB_ID": str(job)}).port for job in range(10**6, 10**6 + 500)}
    assert len(ports) == 500
    assert all(1024 < port < 65536 for port in ports)


def test_a_meeting_point_that_was_set_has_the_last_word() -> None:
    place = read_environment(STEP | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4000"})
    assert (place.address, place.port) == ("10.0.0.1", 4000)


@pytest.mark.parametrize("complete", [TORCH, STEP], ids=["torch", "slurm"])
def test_half_a_place_is_refused_and_what_is_missing_named(complete: dict[str, str]) -> None:
    for name in complete.keys() - {"SLURM_STEP_NUM_TASKS"}:  # its absence means: no task of srun
        half = {key: value for key, value in complete.items() if key != name}
        with pytest.raises(UserError, match=f"half set.*{name} missing"):
            read_environment(half)
        with pytest.raises(UserError, match=f"half set.*{name} missing"):
            read_environment(half | {name: ""})


@pytest.mark.parametrize(
    ("complete", "wrong"),
    [
        (TORCH, {"RANK": "x"}), (TORCH, {"RANK": "4"}), (TORCH, {"MASTER_PORT": "-1"}),
        (STEP, {"SLURM_PROCID": "8"}), (STEP, {"SLURM_JOB_ID": "x"}), (STEP, {"MASTER_PORT": "x"}),
    ],
)  # fmt: skip
def test_values_that_are_no_place_are_refused(complete: dict[str, str], wrong: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(wrong))}="):
        read_environment(complete | wrong)


@pytest.mark.parametrize(
    ("short", "first", "last"),
    [
        ("n1", "n1", "n1"), ("n[1-2]", "n1", "n2"), ("gpu[007-012,020]-ib,login1", "gpu007-ib", "login1"),
        ("a,b[1-2]", "a", "b2"), ("rack[3,5]n[01-16]", "rack3n01", "rack5n16"),
        ("node-a[12]", "node-a12", "node-a12"), ("gpu[007-012,020]-ib", "gpu007-ib", "gpu020-ib"),
    ],
)  # fmt: skip
def test_first_and_last_host(short: str, first: str, last: str) -> None:
    assert (first_host(short), last_host(short)) == (first, last)


def test_a_task_without_its_batch_scripts_variables_is_refused() -> None:
    for missing in (STEP, STEP | {BATCH_MARK: "7"}):
        with pytest.raises(UserError, match="does not reach the ranks"):
            check_batch_mark(missing)
    check_batch_mark(STEP | {BATCH_MARK: STEP["SLURM_JOB_ID"]})
    for no_task in (BATCH_SCRIPT, TORCH, STEP | TORCH, {}):
        check_batch_mark(no_task)
