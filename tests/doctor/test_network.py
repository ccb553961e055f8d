from __future__ import annotations

from collections.abc import Callable

import pytest

from swamp_dist.doctor import network
from swamp_dist.doctor.finding import Subject
from swamp_dist.records import Finding
from swamp_dist.rendezvous import MeetingPoint, RendezvousError


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finding]:
    """The finding where ranks would meet at an address."""
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)

    def found(address: str, gloo: str = "") -> Finding:
        point = MeetingPoint(address, address, "lo" if address.startswith("127.") else "eth0")
        monkeypatch.setattr(network, "find_meeting_point", lambda _place: point)
        monkeypatch.setattr(network.psutil, "net_if_addrs", lambda: {"lo": (), "eth0": ()})
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", gloo)
        (finding,) = network.reach(Subject())
        assert bool(finding.fix) == (finding.level != "ok")
        return finding

    return found


@pytest.mark.parametrize(
    ("address", "gloo", "level"),
    [
        ("127.0.0.1", "", "ok"), ("10.0.0.1", "", "ok"), ("8.8.8.8", "", "warning"),
        ("127.0.0.1", "eth0", "warning"), ("10.0.0.1", "eth0", "ok"), ("10.0.0.1", "ib7", "problem"),
    ],
)  # fmt: skip
def test_who_reaches_the_ranks(look: Callable[..., Finding], address: str, gloo: str, level: str) -> None:
    assert look(address, gloo).level == level


def test_ranks_that_cannot_meet_are_a_problem_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(_place: object) -> MeetingPoint:
        raise RendezvousError("n1 does not resolve\nFix: mend the name server")

    monkeypatch.setattr(network, "find_meeting_point", nowhere)
    (finding,) = network.reach(Subject())
    assert (finding.level, finding.message, finding.fix) == (
        "problem", "n1 does not resolve", "mend the name server"
    )  # fmt: skip
