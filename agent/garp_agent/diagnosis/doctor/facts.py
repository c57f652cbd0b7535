"""What ``doctor`` knows: plain values, gathered by ``gather`` and judged by ``checks``.

Decides nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from garp_agent.diagnosis.sighting import Sighting

CAP_NET_RAW = 13  # <linux/capability.h>


class Daemon(NamedTuple):
    """What the control socket says."""

    path: str  # of the control socket; "" where the configuration has none
    status: dict[str, Any] | None = None  # as `garp-agent status --json` prints it
    error: str = ""  # why there is none
    asked_at: float = 0.0  # seconds, monotonic
    took: float = 0.0  # seconds until the reply


class Process(NamedTuple):
    """The daemon as proc(5) shows it."""

    state: str  # "S", "T", ...
    uid: int
    groups: tuple[int, ...]
    capabilities: int  # effective


class Configuration(NamedTuple):
    """The configuration file."""

    path: str  # "": none, the defaults are in force
    problems: tuple[str, ...] = ()
    pace: float = 10.0  # frames a second that a link may send
    span: float = 0.4  # seconds from the first round of a burst to its last
    hold_off: float = 60.0


class Kernel(NamedTuple):
    """The machine's kernel."""

    release: str
    packet_sockets: str = ""  # why AF_PACKET can't be had; "": it can, or may not be tried
    may_listen: bool = True  # this process may open AF_PACKET sockets


class Interface(NamedTuple):
    """One interface as netifaces and sysfs see it."""

    hardware_address: str
    addresses: dict[str, str]  # address -> netmask
    sysctls: dict[str, int]  # "ipv4/arp_notify" -> value
    tentative: tuple[str, ...] = ()  # of the addresses; the kernel tells of them when they are not


class Port(NamedTuple):
    """The chain from the machine's virtio-serial controller to the hint port."""

    controllers: int  # virtio consoles on the machine's virtio bus
    driven: int  # of them, those that have a driver
    names: tuple[str, ...]  # of all virtio-serial ports
    kind: str = ""  # of what the path is: "character device", "socket", ...; "": nothing
    mode: str = ""  # as ls(1) writes it
    owner: tuple[int, int] = (0, 0)  # uid, gid
    holders: tuple[str, ...] = ()  # other processes that have it open


class Plan(NamedTuple):
    """What is about to be sent."""

    unasked: str = ""  # why nothing may be; "": it may
    burst: str = ""  # why the daemon is asked for none; "": it is
    probes: str = ""  # why nobody is asked for other claimants; "": the links are


class Promise(NamedTuple):
    """One frame that the agent says it sends."""

    interface: str
    kind: str
    hardware_address: str
    address: str  # "" for RARP


class Wire(NamedTuple):
    """What went over the guest's own links during a burst."""

    skipped: str = ""  # why nothing was looked at
    error: str = ""  # why it could not be
    promised: tuple[Promise, ...] = ()
    seen: tuple[tuple[str, Sighting], ...] = ()  # by interface
    waited: float = 0.0  # seconds
    paced: bool = False  # the bucket would have needed longer than we waited
    deaf: tuple[tuple[str, str], ...] = ()  # links that we could not listen on, and why


class Claimants(NamedTuple):
    """Who else answered for our addresses."""

    skipped: str = ""
    asked: tuple[tuple[str, str], ...] = ()  # interface, address
    answers: tuple[tuple[str, str, str], ...] = ()  # interface, address, hardware address
    errors: tuple[str, ...] = ()


class Facts(NamedTuple):
    """All of it."""

    daemon: Daemon
    later: Daemon  # asked again at the end
    links: list[dict[str, Any]]  # as `garp-agent list --json` prints them
    process: Process | None
    configuration: Configuration
    kernel: Kernel
    interfaces: dict[str, Interface]
    port: Port
    wire: Wire = Wire(skipped="not asked for")
    claimants: Claimants = Claimants(skipped="not asked for")
