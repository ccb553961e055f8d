from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import replace

import psutil
import pytest

from swamp_dist import rendezvous
from swamp_dist.distributed import World, barrier
from swamp_dist.environment import RankInfo
from swamp_dist.rendezvous import (
    MeetingPoint,
    RendezvousError,
    choose_interfaces,
    find_meeting_point,
    listen,
    open_store,
)
from tests.ranks import free_port, run_on_ranks

FIRST = RankInfo(0, 2, 0, "n1", 4000, "slurm", "7.0.0", "n2")
HOST = {"lo": ["127.0.0.1", "::1"], "eth0": ["192.168.7.9"], "ib0": ["10.0.0.1", "fe80::1%ib0"]}


class _Network:
    """Names, routes and interfaces of an invented host."""

    def __init__(self, names: Mapping[str, str], routes: Mapping[str, str]) -> None:
        self.names, self.routes = names, routes

    def addresses(self, name: str, *_: object, **__: object) -> list[object]:
        if name not in self.names:
            raise socket.gaierror(-2, "Name or service not known")
        return [(0, 0, 0, "", (self.names[name], 0))]

    def interfaces(self) -> dict[str, list[object]]:
        def one(address: str) -> object:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            return type("Held", (), {"address": address, "family": family})()

        return {name: [one(a) for a in held] for name, held in HOST.items()}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> type[_Network]:
    """Puts an invented host in the place of this one."""

    class Put(_Network):
        def __init__(self, names: Mapping[str, str], routes: Mapping[str, str]) -> None:
            super().__init__(names, routes)
            monkeypatch.setattr(socket, "getaddrinfo", self.addresses)
            monkeypatch.setattr(psutil, "net_if_addrs", self.interfaces)
            monkeypatch.setattr(
                rendezvous, "own_address_towards", lambda address, default=None: self.routes[address]
            )

    monkeypatch.setattr(rendezvous, "RESOLVE_SECONDS", 0.0)
    return Put


def test_rank_0_listens_at_the_address_of_its_name(host: type[_Network]) -> None:
    host({"n1": "10.0.0.1", "n2": "10.0.0.2"}, {})
    assert find_meeting_point(FIRST) == MeetingPoint("10.0.0.1", "10.0.0.1", "ib0")


def test_other_ranks_talk_from_the_interface_that_reaches_it(host: type[_Network]) -> None:
    host({"n1": "10.0.0.8"}, {"10.0.0.8": "10.0.0.1"})
    assert find_meeting_point(replace(FIRST, rank=1)) == MeetingPoint("10.0.0.8", "10.0.0.1", "ib0")


def test_a_name_that_is_loopback_at_home_is_reached_as_another_host_is(host: type[_Network]) -> None:
    host({"n1": "127.0.1.1", "n2": "10.0.0.2"}, {"10.0.0.2": "10.0.0.1"})
    assert find_meeting_point(FIRST) == MeetingPoint("10.0.0.1", "10.0.0.1", "ib0")


def test_two_names_of_one_host_meet_on_its_loopback_interface(host: type[_Network]) -> None:
    host({"n1": "127.0.0.1", "n2": "127.0.0.1"}, {"127.0.0.1": "127.0.0.1"})
    point = find_meeting_point(FIRST)
    assert point == MeetingPoint("127.0.0.1", "127.0.0.1", "lo")
    assert point.is_loopback


def test_a_loopback_name_whose_peers_nobody_names_is_refused_with_the_fix(host: type[_Network]) -> None:
    host({"n1": "127.0.1.1", "localhost": "127.0.0.1"}, {rendezvous._ELSEWHERE: "192.168.7.9"})
    alone = replace(FIRST, other_host="")
    with pytest.raises(RendezvousError, match="leads to 127.0.1.1.*\nFix: MASTER_ADDR=192.168.7.9"):
        find_meeting_point(alone)
    assert find_meeting_point(replace(alone, address="localhost")).interface == "lo"


def test_a_name_that_does_not_resolve_is_named_with_the_fix(host: type[_Network]) -> None:
    host({}, {})
    for rank in (0, 1):
        with pytest.raises(RendezvousError, match="'n1'.*does not resolve on .*\nFix: add `ADDRESS n1`"):
            find_meeting_point(replace(FIRST, rank=rank))


def test_a_slow_name_server_is_asked_again(host: type[_Network], monkeypatch: pytest.MonkeyPatch) -> None:
    network = host({}, {})
    names: dict[str, str] = {}
    network.names = names
    monkeypatch.setattr(rendezvous.time, "sleep", lambda _: names.update(n1="10.0.0.1"))
    assert rendezvous.resolve("n1", seconds=60) == ["10.0.0.1"]


def test_an_address_of_another_host_is_refused(host: type[_Network]) -> None:
    host({"n1": "10.9.9.9"}, {})
    with pytest.raises(RendezvousError, match="10.9.9.9 is no address of .*, which has 127.0.0.1"):
        find_meeting_point(FIRST)


def test_the_interface_of_the_user_stays() -> None:
    here, there = MeetingPoint("127.0.0.1", "127.0.0.1", "lo"), MeetingPoint("10.0.0.1", "10.0.0.1", "ib0")
    chosen = {"GLOO_SOCKET_IFNAME": "eth0"}
    choose_interfaces(here, chosen)
    assert chosen == {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "lo"}
    across: dict[str, str] = {}
    choose_interfaces(there, across)
    assert across == {"GLOO_SOCKET_IFNAME": "ib0"}


def test_a_port_in_use_is_told_from_an_address_of_somebody_else() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            RendezvousError, match=rf"port {port} of 127.0.0.1 is in use by process {os.getpid()}"
        ):
            listen("127.0.0.1", port)
    listen("127.0.0.1", port).close()
    with pytest.raises(RendezvousError, match="cannot listen at 192.0.2.77:0"):
        listen("192.0.2.77", 0)


def test_a_store_that_nobody_keeps_is_missed_within_the_time() -> None:
    info = RankInfo(1, 2, 1, "127.0.0.1", free_port(), "torch")
    with pytest.raises(RendezvousError, match="rank 1 did not reach rank 0 at 127.0.0.1:.*within 1 s"):
        open_store(info, 1.0)


def test_ranks_of_another_start_find_nothing_of_this_one() -> None:
    info = RankInfo(0, 2, 0, "127.0.0.1", free_port(), "torch", start="this")
    ours = open_store(info, 10.0)
    theirs = open_store(replace(info, rank=1, start="another"), 10.0)
    assert ours is not None
    assert theirs is not None
    ours.set("key", "value")
    assert not theirs.check(["key"])


def _listening(world: World) -> list[str]:
    addresses = [c.laddr.ip for c in psutil.Process().net_connections("inet") if c.status == "LISTEN"]
    barrier(world)
    return addresses


def test_ranks_of_one_host_listen_where_no_other_host_reaches_them() -> None:
    for rank, addresses in enumerate(run_on_ranks(_listening, 2)):
        assert set(addresses) == {"127.0.0.1"}, f"rank {rank} listens at {addresses}"
