"""Where ranks meet, and on which interface: torch's store and gloo's pairs ask nobody for a key.

Rank 0 keeps the store, through which the ranks find each other; anybody who reaches its port can read and
write it. It therefore listens at one address alone: a loopback address where all ranks are on one host, else
the address by which the other hosts reach rank 0's. gloo makes its connections on the interface of that
address. Imports torch only to open the store.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import psutil

from swamp_dist.environment import RankInfo, launcher_keeps_store
from swamp_dist.errors import UserError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

RESOLVE_SECONDS = 5.0
"""How long a host name that does not resolve is asked for again: a name server may be slow to answer."""
GLOO_INTERFACE, NCCL_INTERFACE = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
"""Variables by which the user names an interface; gloo and NCCL read them."""
_BACKLOG = 2048
_PAUSE = 0.5
_ELSEWHERE = "192.0.2.1"
"""An address that no host has: the way to it is the default route."""


class RendezvousError(UserError):
    """The ranks cannot meet: says at which address and why.

    Another start may do better (another port, another node), so a rank ends with code FAILED and not with
    that of a user's mistake.
    """


@dataclass(frozen=True)
class MeetingPoint:
    """Where the store is, seen from this host."""

    address: str
    """Numeric address of the store: rank 0 listens there and the others connect to it."""
    own: str
    """Numeric address of this host by which it talks to the others."""
    interface: str
    """Name of the interface that has `own`."""

    @property
    def is_loopback(self) -> bool:
        """Whether no other host can reach it."""
        return is_loopback(self.address)


def find_meeting_point(info: RankInfo) -> MeetingPoint:
    """Where the ranks of `info` meet; asks the resolver and the routing table, connects to nothing.

    Raises:
        RendezvousError: a host name does not resolve, or does not lead to this host; the message has the fix.
    """
    address = resolve(info.address)[0]
    if info.rank == 0:
        address = own = _listening_address(info, address)
    else:
        own = own_address_towards(address)
    return MeetingPoint(address, own, interface_of(own))


def _listening_address(info: RankInfo, address: str) -> str:
    """Rank 0's choice. Its own name often leads it to a loopback address (Debian's 127.0.1.1) and the other
    hosts to a real one: then the address by which it reaches another host of the step."""
    if not is_loopback(address) or info.address == address or info.address == "localhost":
        return address
    if info.other_host:
        return own_address_towards(resolve(info.other_host)[0])
    outward = own_address_towards(_ELSEWHERE, default="the address by which other hosts reach this one")
    raise RendezvousError(
        f"MASTER_ADDR={info.address} leads to {address} on rank 0's own host, where no other host could "
        f"reach it.\nFix: MASTER_ADDR={outward} for ranks on several hosts, MASTER_ADDR=127.0.0.1 for ranks "
        "on this host alone."
    )


def resolve(name: str, seconds: float | None = None) -> list[str]:
    """Numeric addresses of a host, IPv4 first, as the resolver orders them.

    Args:
        seconds: how long to ask again; None = `RESOLVE_SECONDS`.

    Raises:
        RendezvousError: there is none.
    """
    deadline = time.monotonic() + (RESOLVE_SECONDS if seconds is None else seconds)
    while True:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            break
        except (OSError, UnicodeError) as error:  # UnicodeError: a label too long or empty
            if time.monotonic() >= deadline:
                raise RendezvousError(_unresolved(name, error)) from None
            time.sleep(_PAUSE)
    addresses = dict.fromkeys(str(each[4][0]) for each in found)
    return sorted(addresses, key=lambda each: ":" in each)


def _unresolved(name: str, error: Exception) -> str:
    return (
        f"the ranks cannot meet: host name {name!r}, where rank 0 is, does not resolve on "
        f"{socket.gethostname()} ({error}).\n"
        f"Fix: add `ADDRESS {name}` to /etc/hosts of every host, mend the name server, or set MASTER_ADDR to "
        "the address of rank 0's host."
    )


def is_loopback(address: str) -> bool:
    """Whether a numeric address never leaves its host."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def own_address_towards(address: str, default: str | None = None) -> str:
    """This host's own address on the way to another one; nothing is sent.

    Args:
        default: returned where there is no way.

    Raises:
        RendezvousError: there is no way, and no default.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))
        except OSError as error:
            if default is not None:
                return default
            raise RendezvousError(
                f"the ranks cannot meet: {socket.gethostname()} has no way to {address} ({error.strerror}).\n"
                "Fix: look at its network (ip route), or set MASTER_ADDR to an address that it reaches."
            ) from None
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str:
    """Name of this host's interface with this address; any loopback address is the loopback interface's.

    Raises:
        RendezvousError: no interface has it.
    """
    loops = is_loopback(address)
    for name, held in psutil.net_if_addrs().items():
        for each in held:
            if each.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            if each.address == address or (loops and is_loopback(each.address)):
                return str(name)
    raise RendezvousError(
        f"the ranks cannot meet: {address} is no address of {socket.gethostname()}, which has "
        f"{', '.join(own_addresses()) or 'none'}.\n"
        "Fix: set MASTER_ADDR to an address of the host that rank 0 runs on."
    )


def own_addresses() -> list[str]:
    """Numeric addresses of this host's interfaces."""
    wanted = (socket.AF_INET, socket.AF_INET6)
    return [a.address for held in psutil.net_if_addrs().values() for a in held if a.family in wanted]


def choose_interfaces(point: MeetingPoint, environment: MutableMapping[str, str] = os.environ) -> None:
    """Let gloo listen on the meeting point's interface alone, and NCCL too where all ranks are on one host.

    What the user has set stays. Across hosts NCCL uses several interfaces at once and chooses them itself.
    """
    environment.setdefault(GLOO_INTERFACE, point.interface)
    if point.is_loopback:
        environment.setdefault(NCCL_INTERFACE, point.interface)


def listen(address: str, port: int) -> socket.socket:
    """A socket that listens at one address of this host.

    Raises:
        RendezvousError: another program has the port, or the address is not this host's.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise RendezvousError(_cannot_listen(address, port, error)) from None
    return sock


def _cannot_listen(address: str, port: int, error: OSError) -> str:
    if error.errno != errno.EADDRINUSE:
        return f"the ranks cannot meet: rank 0 cannot listen at {address}:{port} ({error.strerror})."
    return (
        f"the ranks cannot meet: port {port} of {address} is in use{_user_of(port)}.\n"
        "Fix: start again, which takes another port, or choose one with MASTER_PORT if you had set it."
    )


def _user_of(port: int) -> str:
    """Which program has a port, in words; empty where this user may not see it."""
    try:
        held = [c.pid for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.pid]
        return f" by process {held[0]} ({psutil.Process(held[0]).name()})" if held else ""
    except (psutil.Error, OSError):
        return ""


def open_store(info: RankInfo, timeout_seconds: float) -> Store | None:
    """The store of the ranks of `info`, on the interface that reaches them all and no other; None where the
    launcher (torchrun) keeps one of its own.

    Ranks of another start that come to this port by mistake find nothing of this one's in it.

    Raises:
        RendezvousError: the ranks cannot meet.
    """
    point = find_meeting_point(info)
    choose_interfaces(point)
    if launcher_keeps_store():
        return None
    from torch._C._distributed_c10d import PrefixStore, TCPStore
    from torch.distributed import DistError

    timeout = timedelta(seconds=timeout_seconds)
    listener = listen(point.address, info.port).detach() if info.rank == 0 else None
    try:
        store = TCPStore(
            point.address if info.rank == 0 else info.address,
            info.port,
            info.world_size,
            is_master=info.rank == 0,
            timeout=timeout,
            wait_for_workers=False,  # they meet below the name of their start
            master_listen_fd=listener,
        )
    except DistError as error:
        raise RendezvousError(_unreached(info, point, timeout_seconds, error)) from None
    return PrefixStore(f"swamp/{info.start}", store)


def _unreached(info: RankInfo, point: MeetingPoint, seconds: float, error: Exception) -> str:
    said = (str(error).splitlines() or [""])[0]
    return (
        f"rank {info.rank} did not reach rank 0 at {info.address}:{info.port} ({point.address}, on "
        f"{point.interface}) within {seconds:.0f} s: {said}\n"
        "Fix: look at the log of rank 0, which may have ended, and at the firewall between the hosts. Rank 0 "
        "listens only at the address that this name has on its own host."
    )
