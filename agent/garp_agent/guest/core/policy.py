"""Decides what is announced on a link and in which form, or why it is not.

Does not decide when, and sends nothing.

Sources: RFC 5227 (ARP announcements), RFC 4861 sections 4.4 and 7.2.6 (unsolicited neighbour
advertisements), RFC 4429 (an optimistic address must not override), RFC 5798 section 7.3 (VRRP's
hardware addresses), RFC 2281 section 5.2 (HSRP's), RFC 4291 appendix A (modified EUI-64).
"""

from __future__ import annotations

from garp_agent.config.settings import AddressSelection, ArpForm
from garp_agent.guest.core.model import (
    ARPHRD_ETHER,
    IFA_F_DADFAILED,
    IFA_F_DEPRECATED,
    IFA_F_MANAGETEMPADDR,
    IFA_F_OPTIMISTIC,
    IFA_F_PERMANENT,
    IFA_F_TENTATIVE,
    IFF_LOOPBACK,
    IFF_NOARP,
    IFF_POINTOPOINT,
    RT_SCOPE_HOST,
    RT_SCOPE_UNIVERSE,
    InterfaceAddress,
    Kind,
    Link,
    is_virtual_router,
)
from garp_agent.wire.model import IFF_LOWER_UP, IFF_UP
from garp_agent.wire.record import Enum, NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from garp_agent.config.settings import InterfaceSelection, Network, Settings

_ARP_KINDS = {
    ArpForm.REQUEST: (Kind.ARP_REQUEST,),
    ArpForm.REPLY: (Kind.ARP_REPLY,),
    ArpForm.BOTH: (Kind.ARP_REQUEST, Kind.ARP_REPLY),
    ArpForm.PROBE: (Kind.ARP_PROBE,),
}
MOST_SOURCES = 8  # IPv6 addresses of a link that are considered as the source of a question
_IPV4_LINK_LOCAL = b"\xa9\xfe"  # 169.254.0.0/16, RFC 3927
_UNSPECIFIED = (bytes(4), bytes(16))
_BROADCAST = b"\xff\xff\xff\xff"
_ANY_ADDRESS = AddressSelection()


class Skip(Enum):
    """Why a link or an address is not announced.  The value is the text for the operator."""

    LOOPBACK = "loopback"
    NOARP = "no ARP on this link (NOARP)"
    POINT_TO_POINT = "point-to-point"
    NOT_ETHERNET = "not Ethernet"
    NO_HARDWARE_ADDRESS = "no usable hardware address"
    PORT = "port of a bridge, bond or team"
    NAME_NOT_INCLUDED = "name not in interfaces.include"
    NAME_EXCLUDED = "name in interfaces.exclude"
    KIND_NOT_INCLUDED = "kind not in interfaces.include_kinds"
    KIND_EXCLUDED = "kind in interfaces.exclude_kinds"
    CONTAINERS = "leads to containers only, and not in interfaces.include"
    DOWN = "down"
    NO_CARRIER = "no carrier"
    VIRTUAL_ROUTER = (
        "virtual router's hardware address or private macvlan, and no virtual address is here"
    )
    UNSPECIFIED = "unspecified address"
    NOT_UNICAST = "not a unicast address"
    HOST_SCOPE = "scope host"
    IPV4_LINK_LOCAL = "link-local IPv4"
    DADFAILED = "duplicate address detection failed"
    TENTATIVE = "tentative"
    DEPRECATED = "deprecated"
    FAMILY_OFF = "address family off in the configuration"
    ELSEWHERE = "announced on another link of this segment, which the route prefers"
    NETWORK_NOT_INCLUDED = "not in addresses.include"
    NETWORK_EXCLUDED = "in addresses.exclude"


class Target(NamedTuple):
    """One address to announce, and the frames that announce it."""

    address: bytes  # b"": the hardware address alone
    kinds: tuple[Kind, ...]  # in the order in which they are sent
    router: bool = False  # as in Announcement
    override: bool = True  # as in Announcement

    @property
    def claims(self) -> bool:
        """Whether its frames take the address away from another station that has it."""
        return self.override and not set(self.kinds) <= {Kind.RARP, Kind.ARP_PROBE}


class LinkPlan(NamedTuple):
    """What is announced on one link, and what is not."""

    link: Link
    skip: Skip | None  # why nothing is announced on the link; None: it is suitable
    targets: dict[bytes, Target]  # by address
    skipped: tuple[tuple[InterfaceAddress, Skip], ...]  # the other addresses, with the reasons
    sources: tuple[bytes, ...] = ()  # IPv6 targets that may ask for others, the best ones first


def plan_link(
    link: Link,
    addresses: Collection[InterfaceAddress],
    forwards: bool,
    settings: Settings,
    to_containers: bool = False,
    elsewhere: Collection[bytes] = (),
) -> LinkPlan:
    """Decide what to announce on ``link``.

    ``forwards``: the link forwards IPv6.  ``to_containers``: the link leads to containers only.
    ``elsewhere``: addresses that another link of the segment announces.
    """
    skip = whole_link_skip(link, addresses, settings, to_containers)
    targets: dict[bytes, Target] = {}
    skipped = []
    for item in addresses:
        reason = skip or item_skip(item, link, settings)
        if elsewhere and reason is None and item.address in elsewhere:
            reason = Skip.ELSEWHERE
        if reason is not None:
            skipped.append((item, reason))
        else:
            targets[item.address] = _target(item, forwards, settings)
    if skip is None and not targets and settings.mac_only:
        targets[b""] = Target(b"", (Kind.RARP,))
    # Link-local ones (fe80::/10) are the highest.  Few are enough: a probe looks for one.
    # Optimistic ones must not ask (RFC 4429 section 3.3).
    fit = [each for each, target in targets.items() if len(each) == 16 and target.override]
    sources = sorted(fit, reverse=True)[:MOST_SOURCES]
    return LinkPlan(link, skip, targets, tuple(skipped), tuple(sources))


def _target(item: InterfaceAddress, forwards: bool, settings: Settings) -> Target:
    if len(item.address) == 4:
        return Target(item.address, _ARP_KINDS[settings.arp])
    override = not item.flags & IFA_F_OPTIMISTIC
    return Target(item.address, (Kind.UNSOLICITED_NA,), forwards, override)


def probe_kinds(address: bytes) -> tuple[Kind, ...]:
    """Return the frames for an address that claim nothing.

    An ARP probe does two things.  Switches learn the hardware address from it, and a station that
    has the address answers.  IPv6 needs two frames for that.
    """
    return (Kind.ARP_PROBE,) if len(address) == 4 else (Kind.RARP, Kind.DAD_PROBE)


def whole_link_skip(
    link: Link, addresses: Iterable[InterfaceAddress], settings: Settings, to_containers: bool
) -> Skip | None:
    """Return why no address of a link is announced, whichever it is; None if the link is fit."""
    labels = [each.label for each in addresses if each.label]
    skip = link_skip(link, settings.interfaces, to_containers, labels)
    return skip or _virtual_router_skip(link, addresses)


def link_skip(
    link: Link,
    selection: InterfaceSelection,
    to_containers: bool = False,
    labels: Iterable[str] = (),
) -> Skip | None:
    """Return why nothing is announced on a link; None if it is suitable.

    Permanent reasons come before temporary ones: they tell the operator more.
    """
    reason = nature_skip(link) or _selection_skip(link, labels, selection) or _state_skip(link)
    if reason is None and to_containers and not selection.include:
        return Skip.CONTAINERS  # last, because docker0 without a container has no carrier
    return reason


def nature_skip(link: Link) -> Skip | None:
    """Return why a link can never be announced as long as it is what it is; None if it can."""
    if link.flags & IFF_LOOPBACK:
        return Skip.LOOPBACK
    if link.flags & IFF_POINTOPOINT:
        return Skip.POINT_TO_POINT
    if link.flags & IFF_NOARP:
        return Skip.NOARP
    if link.hardware_type != ARPHRD_ETHER:
        return Skip.NOT_ETHERNET
    mac = link.hardware_address
    if len(mac) != 6 or mac[0] & 1 or mac == bytes(6):
        return Skip.NO_HARDWARE_ADDRESS
    if link.master_ifindex and link.port_kind != "vrf":
        return Skip.PORT
    return None


def _selection_skip(
    link: Link, labels: Iterable[str], selection: InterfaceSelection
) -> Skip | None:
    if names_match(link_names(link), selection.exclude):
        return Skip.NAME_EXCLUDED
    if selection.include and not names_match((*link_names(link), *labels), selection.include):
        return Skip.NAME_NOT_INCLUDED
    if link_kind(link) in selection.exclude_kinds:
        return Skip.KIND_EXCLUDED
    if selection.include_kinds and link_kind(link) not in selection.include_kinds:
        return Skip.KIND_NOT_INCLUDED
    return None


def _label_skip(item: InterfaceAddress, link: Link, selection: InterfaceSelection) -> Skip | None:
    """Return why an address is not selected by its label, on a link that is selected."""
    if item.label and names_match((item.label,), selection.exclude):
        return Skip.NAME_EXCLUDED
    if not selection.include or names_match((*link_names(link), item.label), selection.include):
        return None
    return Skip.NAME_NOT_INCLUDED  # the link is there for the labels of other addresses


def _state_skip(link: Link) -> Skip | None:
    if not link.flags & IFF_UP:
        return Skip.DOWN
    if not link.flags & IFF_LOWER_UP:
        return Skip.NO_CARRIER
    return None  # a dormant link sends, too: a switch that has not authorised it drops the frames


def _virtual_router_skip(link: Link, addresses: Iterable[InterfaceAddress]) -> Skip | None:
    # The routers of a group share a hardware address, and only the master may send from it: the
    # switches would send the master's traffic to a backup.  The master has the virtual address.
    if not link.shares_hardware_address:
        return None
    if any(_is_virtual_address(each, link.hardware_address) for each in addresses):
        return None
    return Skip.VIRTUAL_ROUTER


def _is_virtual_address(item: InterfaceAddress, mac: bytes) -> bool:
    """Return whether an address is global and not autoconfigured.

    The kernel and the network managers give an autoconfigured address a lifetime or the link's
    interface identifier (addrconf.c, addrconf_prefix_rcv).  Virtual addresses have no such end;
    keepalived sets only the preferred lifetime.  An IPv4 address with a lifetime is from DHCP: that
    counts on a private macvlan, which need not be a virtual router's.  An address with scope link
    counts if it has no subnet: a virtual link-local IPv6 address (RFC 9568 section 5.2.9) is a /128
    with keepalived, and the kernel's own is a /64.
    """
    has_subnet = item.prefix_length < 8 * len(item.address)
    if item.scope != RT_SCOPE_UNIVERSE and has_subnet:
        return False
    if _address_state_skip(item, _ANY_ADDRESS):
        return False
    if len(item.address) == 16:
        identifier = bytes((mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]))
        if item.address[8:] == identifier or item.flags & IFA_F_MANAGETEMPADDR:
            return False
    elif not is_virtual_router(mac):
        return True
    return bool(item.flags & IFA_F_PERMANENT)


def item_skip(item: InterfaceAddress, link: Link, settings: Settings) -> Skip | None:
    """Return why an address of a suitable link is not announced; None if it is suitable."""
    selection, interfaces = settings.addresses, settings.interfaces
    reason = _address_state_skip(item, selection) or _address_selection_skip(item, selection)
    if reason is None and (interfaces.include or interfaces.exclude):
        return _label_skip(item, link, interfaces)
    return reason


def _address_state_skip(item: InterfaceAddress, selection: AddressSelection) -> Skip | None:
    address = item.address
    is_ipv4 = len(address) == 4
    if address in _UNSPECIFIED:
        return Skip.UNSPECIFIED
    is_multicast = address[0] >> 4 == 14 if is_ipv4 else address[0] == 0xFF
    if is_multicast or address == _BROADCAST:
        return Skip.NOT_UNICAST
    if item.scope == RT_SCOPE_HOST:
        return Skip.HOST_SCOPE
    if is_ipv4:
        return Skip.IPV4_LINK_LOCAL if address[:2] == _IPV4_LINK_LOCAL else None
    if item.flags & IFA_F_DADFAILED:
        return Skip.DADFAILED
    if item.flags & (IFA_F_TENTATIVE | IFA_F_OPTIMISTIC) == IFA_F_TENTATIVE:
        return Skip.TENTATIVE
    if item.flags & IFA_F_DEPRECATED and not selection.deprecated:
        return Skip.DEPRECATED
    return None


def _address_selection_skip(item: InterfaceAddress, selection: AddressSelection) -> Skip | None:
    address, include, exclude = item.address, selection.include, selection.exclude
    if not (selection.ipv4 if len(address) == 4 else selection.ipv6):
        return Skip.FAMILY_OFF
    if exclude and any(contains(network, address) for network in exclude):
        return Skip.NETWORK_EXCLUDED
    if include and not any(contains(network, address) for network in include):
        return Skip.NETWORK_NOT_INCLUDED
    return None


def contains(network: Network, address: bytes) -> bool:
    """Return whether an address is in a block."""
    if len(network.address) != len(address):
        return False
    differing = int.from_bytes(network.address, "big") ^ int.from_bytes(address, "big")
    return differing >> 8 * len(address) - network.prefix_length == 0


def names_match(names: Iterable[str], globs: tuple[str, ...]) -> bool:
    """Return whether one of the names matches one of the globs."""
    if not globs:
        return False
    # Here, because fnmatch loads re: 1 MB that a guest without name globs does not need.
    from fnmatch import fnmatchcase

    return any(fnmatchcase(name, glob) for name in names for glob in globs)


def link_names(link: Link) -> tuple[str, ...]:
    """Return the name of a link and its alternative names."""
    return (link.name, *link.altnames)


def link_kind(link: Link) -> str:
    """Return the kind of a link as the configuration calls it."""
    if link.flags & IFF_LOOPBACK:
        return "loopback"
    return link.kind or "physical"
