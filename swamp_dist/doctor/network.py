"""Who reaches the ranks of this host: torch's store and gloo ask nobody for a key."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator

import psutil

from swamp_dist.doctor.finding import Subject
from swamp_dist.environment import read_environment
from swamp_dist.records import Finding
from swamp_dist.rendezvous import (
    GLOO_INTERFACE,
    NCCL_INTERFACE,
    MeetingPoint,
    RendezvousError,
    find_meeting_point,
    is_loopback,
)


def reach(_subject: Subject) -> Iterator[Finding]:
    """On which interface the ranks would listen, and whether a user's variable widens that."""
    try:
        point = find_meeting_point(read_environment())
    except RendezvousError as error:
        yield finding_of("network", error)
        return
    widened = list(_set_by_hand(point))
    yield from widened
    if widened:
        return
    address = ipaddress.ip_address(point.own.partition("%")[0])
    if point.is_loopback:
        yield Finding("network", "ok", f"ranks listen on {point.interface}, which no other host reaches")
    elif address.is_global:
        said = f"ranks listen at {point.own} ({point.interface}) without a key, at a public address"
        yield Finding("network", "warning", said, "choose a private network with MASTER_ADDR, or a firewall")
    else:
        said = f"ranks listen at {point.own} ({point.interface}) without a key: trust that network"
        yield Finding("network", "ok", said)


def _set_by_hand(point: MeetingPoint) -> Iterator[Finding]:
    """Interfaces that a variable names and this host lacks, or that reach beyond it without need."""
    held = psutil.net_if_addrs()
    given = os.environ.get(GLOO_INTERFACE, "")
    for name in filter(None, given.split(",")):
        addresses = [a.address for a in held.get(name, ()) if "." in a.address or ":" in a.address]
        if name not in held:
            said = f"{GLOO_INTERFACE}={given}, but this host has {', '.join(sorted(held))}"
            yield Finding("network", "problem", said, f"unset {GLOO_INTERFACE}, or name one of these")
        elif point.is_loopback and not any(map(_loops, addresses)):
            said = f"{GLOO_INTERFACE}={given}: ranks of this host alone listen where others reach them"
            yield Finding("network", "warning", said, f"unset {GLOO_INTERFACE} (and {NCCL_INTERFACE})")


def _loops(address: str) -> bool:
    try:
        return is_loopback(address)
    except ValueError:  # a hardware address
        return False


def finding_of(name: str, error: RendezvousError) -> Finding:
    """What keeps ranks from meeting, as a problem with its fix."""
    said, _, fix = str(error).partition("\nFix: ")
    return Finding(name, "problem", said, fix or "mend what it names")
