"""Where a Ray of our own listens, without a Ray."""

from __future__ import annotations

import os

import pytest
import ray
from ray.util import get_node_ip_address

from swamp_dist.backends.ray.resources import RayUnready
from swamp_dist.backends.ray.session import LOOPBACK_VARIABLES, ray_session


def addresses_at_start(monkeypatch: pytest.MonkeyPatch, address: str | None) -> list[tuple[str, str | None]]:
    """Address that Ray gives this node when it starts or connects, and what its processes are told of it."""
    (name,) = LOOPBACK_VARIABLES
    monkeypatch.setenv(name, "")
    monkeypatch.delenv(name)
    seen: list[tuple[str, str | None]] = []
    monkeypatch.setattr(ray, "init", lambda **_: seen.append((get_node_ip_address(), os.environ.get(name))))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ray_session(address, tasks_wait=True):
        pass
    return seen


def test_a_ray_of_our_own_is_on_loopback_whenever_ray_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    before = get_node_ip_address()
    assert addresses_at_start(monkeypatch, None) == [("127.0.0.1", "0")]
    assert get_node_ip_address() == before


def test_a_ray_elsewhere_is_reached_by_this_hosts_own_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert addresses_at_start(monkeypatch, "10.0.0.1:6379") == [(get_node_ip_address(), None)]


@pytest.mark.parametrize("late", [0, 2, 3])
def test_a_ray_that_is_not_up_in_time_is_started_again(monkeypatch: pytest.MonkeyPatch, late: int) -> None:
    starts: list[str] = []

    def init(**_: object) -> None:
        starts.append("late" if len(starts) < late else "up")
        if starts[-1] == "late":
            raise Exception("The current node timed out during startup. This could happen because some ...")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if late < 3:
        with ray_session(None, tasks_wait=True):
            assert starts == ["late"] * late + ["up"]
        return
    with pytest.raises(RayUnready, match="3 tries"), ray_session(None, tasks_wait=True):
        pass


def test_any_other_failure_of_ray_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []

    def init(**_: object) -> None:
        starts.append(1)
        raise ConnectionError("no Ray at this address")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(ConnectionError), ray_session(None, tasks_wait=True):
        pass
    assert len(starts) == 1
