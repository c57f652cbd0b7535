"""The values and events of the agent.  No decisions.

Addresses are bytes everywhere in the core: 4 for IPv4, 16 for IPv6, 6 for a hardware address.
Only the edges turn them into text.  Times are seconds of the monotonic clock, as floats.

Sources: rtnetlink(7), <linux/if.h>, <linux/if_addr.h>, <linux/if_arp.h>, <linux/rtnetlink.h>.
"""

from __future__ import annotations

from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP
from garp_agent.wire.record import Enum, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    from garp_agent.wire.model import DumpComplete, DumpPartial, DumpStarted, LinkGone

# Interface flags, <linux/if.h>.
IFF_LOOPBACK = 0x8
IFF_POINTOPOINT = 0x10
IFF_NOARP = 0x80
IFF_DORMANT = 0x20000

IF_OPER_DORMANT = 5  # operational state, RFC 2863

# Address flags, <linux/if_addr.h>; the 32-bit IFA_FLAGS form.
IFA_F_SECONDARY = 0x01
IFA_F_OPTIMISTIC = 0x04
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
IFA_F_PERMANENT = 0x80  # no end of its validity
IFA_F_MANAGETEMPADDR = 0x100  # IPv6: autoconfigured from a router advertisement

# Hardware type, <linux/if_arp.h>.
ARPHRD_ETHER = 1

# Address scope, <linux/rtnetlink.h>.
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RT_SCOPE_HOST = 254


# The hardware addresses that virtual routers share, as prefix and length in bits.
_VIRTUAL_ROUTERS = tuple(
    (int(digits, 16) >> 4 * len(digits) - bits, bits)
    for digits, bits in (
        ("00005e0001", 40),  # VRRP for IPv4, CARP (RFC 9568 section 7.3)
        ("00005e0002", 40),  # VRRP for IPv6
        ("00000c07ac", 40),  # HSRP
        ("00000c9ff", 36),  # HSRP version 2
        ("000573a00", 36),  # HSRP for IPv6
        ("0007b400", 30),  # GLBP: groups up to 1023
    )
)


def is_virtual_router(hardware_address: bytes) -> bool:
    """Return whether a hardware address is one that virtual routers share."""
    number = int.from_bytes(hardware_address, "big")
    return any(number >> 48 - bits == prefix for prefix, bits in _VIRTUAL_ROUTERS)


class Kind(Enum):
    """The type of frame that an announcement is sent as."""

    ARP_REQUEST = "arp-request"
    ARP_REPLY = "arp-reply"
    ARP_PROBE = "arp-probe"
    UNSOLICITED_NA = "unsolicited-na"
    RARP = "rarp"
    DAD_PROBE = "dad-probe"  # neighbour solicitation as in RFC 4862 section 5.4.2; claims nothing
    # The same from another address of ours, RFC 4861 section 7.2.2: only the answer is sent to us.
    SOLICITATION = "solicitation"


ALL_NODES_ETHERNET = bytes.fromhex("333300000001")  # of ff02::1, RFC 2464 section 7

# A station that has the address answers these.
PROBE_KINDS = (Kind.ARP_PROBE, Kind.DAD_PROBE, Kind.SOLICITATION)


class Cause(Enum):
    """Why an announcement is made."""

    START = "start"
    REFRESH = "refresh"
    ADDRESS_ADDED = "address-added"
    LINK_UP = "link-up"
    HARDWARE_ADDRESS_CHANGED = "hardware-address-changed"
    NOTIFY_PEERS = "notify-peers"
    RESUME = "resume"
    HINT = "hint"
    OPERATOR = "operator"
    DEFENCE = "defence"
    CONFLICT = "conflict"  # a probe: does the station that claims an address answer?
    PROXY_TEST = "proxy-test"  # a probe for an unused address: does the rival answer for that, too?


class SendOutcome(Enum):
    """The outcome of sending one frame."""

    SENT = "sent"
    DROPPED = "dropped"  # the kernel or the driver had no room: ENOBUFS, EAGAIN, ...
    LINK_DOWN = "link-down"  # ENETDOWN
    GONE = "gone"  # ENXIO, ENODEV: the link no longer exists


class Link(NamedTuple):
    """One network interface as rtnetlink describes it (RTM_NEWLINK, rtnetlink(7))."""

    ifindex: int
    name: str
    hardware_address: bytes  # 6 bytes on Ethernet; other lengths elsewhere
    hardware_type: int  # ARPHRD_*
    flags: int  # IFF_*, 32 bits
    operational_state: int = 0  # IF_OPER_*, RFC 2863
    master_ifindex: int = 0  # 0: none
    kind: str = ""  # IFLA_INFO_KIND: "bridge", "vlan", ...; "" for hardware
    port_kind: str = ""  # IFLA_INFO_SLAVE_KIND: what the master is: "bridge", "bond", "vrf", ...
    parent_ifindex: int = 0  # IFLA_LINK: the device below a VLAN or macvlan; 0: none here
    altnames: tuple[str, ...] = ()  # IFLA_ALT_IFNAME: alternative names, up to 127 bytes each
    is_private: bool = False  # a macvlan in private mode
    pair_ifindex: int = 0  # IFLA_LINK: the other end of a veth pair; 0: none here
    # IFLA_LINK_NETNSID and IFLA_LINK, if the device below is in another network namespace.
    far_parent: tuple[int, ...] = ()
    filters_vlans: bool = False  # a bridge whose ports can be in different VLANs

    @property
    def has_carrier(self) -> bool:
        """Administratively up, with carrier: the kernel sends frames, also if it is dormant."""
        return self.flags & (IFF_UP | IFF_LOWER_UP) == IFF_UP | IFF_LOWER_UP

    @property
    def readiness(self) -> int:
        """How far it is from carrying frames: 0 without a carrier, 1 dormant, 2 ready.

        Dormant: the port is not yet authorised (802.1X), or the supplicant has left the link so.
        The kernel sets the state on such a link, and the flag on the links stacked on it.
        """
        is_dormant = self.flags & IFF_DORMANT or self.operational_state == IF_OPER_DORMANT
        return 0 if not self.has_carrier else 1 if is_dormant else 2

    @property
    def shares_hardware_address(self) -> bool:
        """Whether other machines can have its hardware address, too: that of a virtual router.

        keepalived takes any address with ``use_vmac``, and makes a private macvlan for it.  That
        of a container has its parent in another network namespace.
        """
        if self.is_private and self.parent_ifindex:
            return True
        return is_virtual_router(self.hardware_address)


class InterfaceAddress(NamedTuple):
    """One address on one interface (RTM_NEWADDR)."""

    ifindex: int
    address: bytes  # 4 or 16 bytes; IFA_LOCAL if there is one
    prefix_length: int
    scope: int = RT_SCOPE_UNIVERSE
    flags: int = 0  # IFA_F_*, 32 bits
    peer: bytes = b""  # IFA_ADDRESS if it is the other end's of a point-to-point address; else b""
    label: str = ""  # IFA_LABEL if it is more than the name of the link: "eth0:1"


class Announcement(NamedTuple):
    """One intended frame."""

    ifindex: int
    kind: Kind
    hardware_address: bytes  # 6 bytes
    # 4 or 16 bytes; b"": the hardware address alone.  A RARP frame does not contain it.
    address: bytes
    cause: Cause
    router: bool = False  # unsolicited NA: the R flag, RFC 4861 section 4.4
    override: bool = True  # unsolicited NA: the O flag; False for optimistic addresses, RFC 4429
    asked: bytes = b""  # of a probe: the hardware address of the only station it asks; b"": all
    source: bytes = b""  # of a solicitation: the address that asks, 16 bytes


# -- events from the kernel -------------------------------------------------------


class LinkSeen(NamedTuple):
    """A link exists and looks like this now."""

    link: Link
    notify_peers: bool = False  # IFLA_EVENT is NOTIFY_PEERS: the kernel asks for announcements
    dumped: bool = False  # part of a dump: can be older than a live event that came before it


class AddressSeen(NamedTuple):
    """An address exists and looks like this now."""

    address: InterfaceAddress
    dumped: bool = False  # as in LinkSeen


class AddressGone(NamedTuple):
    """An address was removed."""

    address: InterfaceAddress


class ForwardingSeen(NamedTuple):
    """Whether an interface forwards IPv6 (RTM_NEWNETCONF, NETCONFA_FORWARDING)."""

    ifindex: int
    forwarding: bool


# -- other events ---------------------------


class Resumed(NamedTuple):
    """The machine was suspended, or this process stopped, for ``seconds``."""

    seconds: float


class BurstRequested(NamedTuple):
    """The host (HINT) or the operator (OPERATOR) asks for a burst on every link."""

    cause: Cause
    offsets: tuple[float, ...] = ()  # seconds from now of each round; (): as configured
    reason: str = ""  # as the request gives it, for the log
    ends_lease: bool = False  # the host says that its network has changed


class LeaseGranted(NamedTuple):
    """The host promises to send hints for the next ``seconds``; 0 or less revokes the promise."""

    seconds: float


class HintPortClosed(NamedTuple):
    """No hint can arrive any more, even if the host promised to send some."""


class ClaimSeen(NamedTuple):
    """A station announced that an address is its own (ARP, neighbour advertisement)."""

    interface: str  # the name of the link on which it was heard
    address: bytes
    hardware_address: bytes
    # What it answers, if it is an ARP reply or an NA: the hardware address that asked, or that of
    # all nodes if the question may have come from :: (a DAD probe).
    answers: bytes = b""


class AddressProbed(NamedTuple):
    """A station asked which station has an address, and claimed nothing (ARP probe)."""

    interface: str  # the name of the link on which it was heard
    address: bytes
    hardware_address: bytes


class Sent(NamedTuple):
    """The outcome of sending one announcement."""

    announcement: Announcement
    outcome: SendOutcome
    errno: int = 0  # 0 for SENT


if TYPE_CHECKING:
    # What one rtnetlink message can say.
    KernelChange = Union[LinkSeen, LinkGone, AddressSeen, AddressGone, ForwardingSeen]
    KernelEvent = Union[KernelChange, DumpStarted, DumpComplete, DumpPartial]
    EngineEvent = Union[
        KernelEvent,
        Resumed,
        BurstRequested,
        LeaseGranted,
        HintPortClosed,
        ClaimSeen,
        AddressProbed,
        Sent,
    ]
