from __future__ import annotations

import socket

import pytest

from swamp_dist.backends.ray.resources import check_answers, own_size, shortage, wanted_address
from swamp_dist.config import RayCluster
from swamp_dist.errors import UserError


def test_the_address_of_the_file_comes_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "there:1")
    assert wanted_address(RayCluster(address="here:2")) == "here:2"
    assert wanted_address(RayCluster()) == "there:1"
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert wanted_address(RayCluster()) is None


def test_only_a_port_that_answers_is_passed_on() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        check_answers(address)
    with pytest.raises(UserError, match=f"no Ray answers at {address}"):
        check_answers(address)
    check_answers("auto")


@pytest.mark.parametrize("address", ["ray://head:10001", "head", ":1", "head:x"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="expected host:port or auto"):
        check_answers(address)


def test_room_is_asked_for_all_workers() -> None:
    cluster = RayCluster(workers=2, gpus_per_worker=1, cpus_per_worker=3)
    assert shortage(cluster, {"CPU": 6, "GPU": 2}) == ""
    said = shortage(cluster, {"CPU": 6, "GPU": 1})
    assert "the Ray has 6 CPUs, 1 GPUs; 2 workers need 6 CPUs, 2 GPUs" in said
    assert shortage(RayCluster(workers=2), {"CPU": 2}) == ""
    assert "num_gpus" not in own_size(cluster)
    assert own_size(cluster)["num_cpus"] == 6
    assert own_size(RayCluster())["num_gpus"] == 0
