"""The settings: the configuration in force, as immutable values with their defaults.

Reads no file: ``config.read`` makes these values from YAML.  Durations are floats in seconds.
"""

from __future__ import annotations

from garp_agent.wire.bounds import Bound
from garp_agent.wire.record import Enum, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


DEFAULT_PATH = "/etc/garp-agent/config.yaml"  # read if no other file is named


class ArpForm(Enum):
    """How an IPv4 address is announced."""

    REQUEST = "request"  # ARP announcement, RFC 5227 section 2.3
    REPLY = "reply"
    BOTH = "both"  # the request, then the reply
    PROBE = "probe"  # sender address 0.0.0.0: teaches switches, changes no neighbour cache


class ConflictPolicy(Enum):
    """What to do when another hardware address claims one of ours (RFC 5227 section 2.4)."""

    YIELD = "yield"
    WARN = "warn"
    DEFEND = "defend"


LONGEST = 290.0  # seconds between two refreshes, with jitter: switches forget after 300 s
JITTER = Bound(0.0, 0.5)  # as a fraction of the interval
IN_A_SECOND = 14  # frames; Cisco's dynamic ARP inspection shuts a port at 15 by default


class Network(NamedTuple):
    """A CIDR block."""

    address: bytes  # 4 or 16 bytes, host bits zero
    prefix_length: int


class InterfaceSelection(NamedTuple):
    """The links to announce on.  An empty ``include`` selects all; ``exclude`` wins."""

    include: tuple[str, ...] = ()  # globs of names, as fnmatch(3)
    exclude: tuple[str, ...] = ()
    include_kinds: tuple[str, ...] = ()  # rtnetlink kinds ("vlan", "bridge"); "physical" for none
    exclude_kinds: tuple[str, ...] = ()


class AddressSelection(NamedTuple):
    """The addresses to announce.  An empty ``include`` selects all; ``exclude`` wins."""

    include: tuple[Network, ...] = ()
    exclude: tuple[Network, ...] = ()
    ipv4: bool = True
    ipv6: bool = True
    deprecated: bool = True  # also announce deprecated IPv6 addresses: they are valid, RFC 4862


class RateLimit(NamedTuple):
    """The most frames that one NIC sends, whatever the causes: a token bucket."""

    frames_per_second: float = 10.0
    depth: int = 12  # frames at once

    @property
    def in_a_second(self) -> float:
        """Return the most frames within any second.

        A full bucket and its refill in one second are 22 frames by default, which is more than
        ARP inspection allows.  So the limit is IN_A_SECOND, unless the settings ask for more.
        """
        wanted = max(self.frames_per_second, self.depth)
        return IN_A_SECOND if wanted <= IN_A_SECOND else self.frames_per_second + self.depth


class Conflict(NamedTuple):
    """Passive conflict detection, RFC 5227."""

    policy: ConflictPolicy = ConflictPolicy.YIELD
    hold_off: float = 2.0  # seconds from the rival's answer to the next probe; a quarter at first
    # Stations that are no rivals: bits of a hardware address, and a mask of those that count.
    ignore: tuple[tuple[bytes, bytes], ...] = ()


class Settings(NamedTuple):
    """Every setting that the configuration has."""

    interval: float = 5.0  # refresh interval, seconds
    interval_with_lease: float = 60.0  # the same while a lease of the host is in force
    jitter: float = 0.2  # each refresh comes after interval * (1 ± jitter)
    addresses_per_tick: int = 4  # of each family, in one refresh of a link
    burst: tuple[float, ...] = (0.0, 0.1, 0.4)  # offsets of the rounds of a burst, seconds
    rate_limit: RateLimit = RateLimit()
    arp: ArpForm = ArpForm.REQUEST
    mac_only: bool = True  # send RARP on links that have no address to announce
    interfaces: InterfaceSelection = InterfaceSelection()
    addresses: AddressSelection = AddressSelection()
    conflict: Conflict = Conflict()
    reconcile_interval: float = 300.0  # seconds between full dumps, in case an event was lost
    hint_port: str = "org.garp_agent.0"  # port name or absolute path; "" for none
    control_socket: str = "/run/garp-agent/control.sock"  # "" for none

    @property
    def longest_interval(self) -> float:
        """Return the seconds between two refreshes at most, without a lease."""
        return min(LONGEST, self.interval * (1.0 + self.jitter))


def plain(value: Any) -> Any:
    """Return settings as nested tuples of names, numbers and bytes, which marshal can write."""
    parts = (value.value,) if isinstance(value, Enum) else value
    is_leaf = not isinstance(parts, tuple)
    return value if is_leaf else (type(value).__name__, *map(plain, parts))


def revive(value: Any) -> Any:
    """Return the settings of a :func:`plain` form."""
    if not isinstance(value, tuple):
        return value
    name, *parts = value[0], *map(revive, value[1:])
    return tuple(parts) if name == "tuple" else globals()[name](*parts)
