"""kernel: datagrams of real kernels, hand-made and random datagrams, and the running kernel."""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from garp_agent.guest.core.kernel import GROUPS, decode
from garp_agent.guest.core.model import (
    IFA_F_TENTATIVE,
    AddressGone,
    AddressSeen,
    ForwardingSeen,
    InterfaceAddress,
    Link,
    LinkSeen,
)
from garp_agent.wire import rtnetlink
from garp_agent.wire.model import LinkGone
from garp_agent.wire.rtnetlink import DecodeError, DumpDone, DumpInterrupted, RequestFailed
from tests import golden
from tests.world import ip, mac, property_settings

if TYPE_CHECKING:
    from garp_agent.guest.core.kernel import KernelMessage

pytestmark = pytest.mark.skipif(
    sys.byteorder == "big", reason="the golden datagrams are little-endian"
)

# -- golden datagrams -------------------------------------------------------------------


def ether(ifindex: int, name: str, address: str, flags: int, state: int, **more: Any) -> Link:
    return Link(ifindex, name, mac(address), 1, flags, state, **more)


def item(ifindex: int, text: str, flags: int = 0x80, peer: str = "") -> InterfaceAddress:
    host = ipaddress.ip_interface(text)
    length = host.network.prefixlen
    return InterfaceAddress(ifindex, host.packed, length, 0, flags, ip(peer) if peer else b"")


BOND_MAC, FAR_MAC = "02:00:00:00:01:00", "02:00:00:00:02:01"
BOND0 = ether(6, "bond0", BOND_MAC, 0x11443, 6, master_ifindex=7, kind="bond", port_kind="bridge")
UP0 = ether(3, "up0", BOND_MAC, 0x1803, 3, master_ifindex=6, kind="veth", port_kind="bond")
UP0 = UP0._replace(pair_ifindex=2)
UP1 = UP0._replace(ifindex=5, name="up1", flags=0x11843, operational_state=6, pair_ifindex=4)
VLAN = ether(8, "bond0.5", BOND_MAC, 0x1002, 2, kind="vlan", parent_ifindex=6)
DUM0 = ether(
    11, "dum0", "7a:3c:9d:db:09:66", 0x82, 2, master_ifindex=10, kind="dummy", port_kind="vrf"
)
FAR1 = ether(4, "far1", FAR_MAC, 0x11043, 6, kind="veth", pair_ifindex=5)
HERE0 = ether(17, "here0", "4a:8b:fb:f4:10:26", 0x1002, 2, kind="veth")
ODD = ether(19, "w\udcffx", "ea:b8:78:7b:fb:7d", 0x82, 2, kind="dummy")

GOLDEN: dict[str, list[KernelMessage]] = {
    "link-bond-failover": [LinkSeen(BOND0)],
    "link-bond-notify-peers": [LinkSeen(BOND0, notify_peers=True)],
    "link-bond-port": [LinkSeen(UP1)],
    "link-bond-port-lost": [LinkSeen(UP0)],
    "link-vlan": [LinkSeen(VLAN)],
    "link-vrf-port": [LinkSeen(DUM0)],
    "link-veth": [LinkSeen(FAR1, dumped=True)],
    "link-veth-elsewhere": [LinkSeen(HERE0, dumped=True)],
    "link-odd-name": [LinkSeen(ODD, dumped=True)],
    "link-bridge-port": [],
    "link-bridge-port-left": [],
    "link-gone": [LinkGone(13)],
    "address-ipv4": [AddressSeen(item(11, "192.0.2.1/24"))],
    "address-ipv4-peer": [AddressSeen(item(11, "192.0.2.10/32", peer="192.0.2.11"))],
    "address-ipv4-noprefixroute": [AddressSeen(item(11, "192.0.2.3/24", 0x281))],
    "address-ipv4-gone": [AddressGone(item(11, "192.0.2.2/24", 0x81))],
    "address-ipv6-tentative": [AddressSeen(item(6, "2001:db8::1/64", 0x80 | IFA_F_TENTATIVE))],
    "address-ipv6": [AddressSeen(item(6, "2001:db8::1/64"))],
    "address-ipv6-peer": [AddressSeen(item(11, "2001:db8::10/128", peer="2001:db8::11"))],
    "forwarding": [ForwardingSeen(11, True)],
    "forwarding-of-all": [],
    "forwarding-of-default": [],
    "forwarding-of-ipv4": [],
    "forwarding-gone": [],
    "dump-done": [DumpDone(7)],
    "request-failed": [RequestFailed(12, 19)],
}


def test_golden_datagrams_are_all_used() -> None:
    used = sorted(f"rtnetlink/{name}" for name in [*GOLDEN, "dump-interrupted"])
    assert used == golden.names("rtnetlink")


@pytest.mark.parametrize("name", GOLDEN)
def test_decode_golden_datagram_gives_its_events(name: str) -> None:
    assert decode(golden.read(f"rtnetlink/{name}")) == GOLDEN[name]


def test_decode_several_messages_keeps_their_order() -> None:
    names = ["link-veth", "link-bridge-port", "address-ipv4", "link-gone", "dump-done"]
    datagram = b"".join(golden.read(f"rtnetlink/{name}") for name in names)
    assert decode(datagram) == [message for name in names for message in GOLDEN[name]]


def test_decode_interrupted_dump_reports_it_once_and_first() -> None:
    one = golden.read("rtnetlink/dump-interrupted")
    [interrupted, seen] = decode(one)
    assert interrupted == DumpInterrupted(13)
    assert isinstance(seen, LinkSeen)
    assert seen.link.kind == "dummy"
    assert decode(one + one) == [interrupted, seen, seen]


@pytest.mark.parametrize(
    ("name", "request_", "sequence"),
    [
        ("dump-links", rtnetlink.dump_links, 7),
        ("dump-addresses", rtnetlink.dump_addresses, 0xFFFFFFFF),
        ("dump-forwarding", rtnetlink.dump_forwarding, 1),
        ("dump-bridge-tables", rtnetlink.dump_bridge_tables, 7),
        ("dump-bridge-vlans", rtnetlink.dump_bridge_vlans, 7),
        ("dump-link-counters", rtnetlink.dump_link_counters, 7),
    ],
)
def test_dump_request_equals_golden(
    name: str, request_: Callable[[int], bytes], sequence: int
) -> None:
    assert request_(sequence).hex() == golden.read(f"requests/{name}").hex()


# -- hand-made datagrams ----------------------------------------------------------------


def attribute(attribute_type: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), attribute_type) + value + bytes(-len(value) % 4)


def u32(attribute_type: int, value: int) -> bytes:
    return attribute(attribute_type, struct.pack("=I", value))


def message(message_type: int, body: bytes, *, flags: int = 0, sequence: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), message_type, flags, sequence, 0) + body


def new_link(*attributes: bytes, family: int = 0, message_type: int = 16) -> bytes:
    body = struct.pack("=BxHiII", family, 1, 2, 0x11043, 0)
    return message(message_type, body + attribute(3, b"eth0\0") + b"".join(attributes))


def new_address(*attributes: bytes, family: int = 2, flags: int = 0x80) -> bytes:
    return message(20, struct.pack("=BBBBI", family, 24, flags, 0, 2) + b"".join(attributes))


def new_netconf(*attributes: bytes, family: int = 10) -> bytes:
    return message(80, struct.pack("=B3x", family) + b"".join(attributes))


def link_info(kind: str, port_kind: str = "", data: bytes = b"") -> bytes:
    port = attribute(4, port_kind.encode() + b"\0") if port_kind else b""
    own = attribute(2, data) if data else b""
    return attribute(18, attribute(1, kind.encode() + b"\0") + own + port)


ETH0 = Link(2, "eth0", b"", 1, 0x11043)


@pytest.mark.parametrize(
    ("attributes", "changes"),
    [
        ((), {}),
        ((attribute(1, bytes(20)),), {"hardware_address": bytes(20)}),
        ((attribute(16, b"\x06"),), {"operational_state": 6}),
        ((u32(10, 9),), {"master_ifindex": 9}),
        ((link_info("vlan"), u32(5, 3)), {"kind": "vlan", "parent_ifindex": 3}),
        ((link_info("macvlan"), u32(5, 3)), {"kind": "macvlan", "parent_ifindex": 3}),
        ((link_info("macvlan", data=u32(1, 1)),), {"kind": "macvlan", "is_private": True}),
        *(((link_info("macvlan", data=u32(1, n)),), {"kind": "macvlan"}) for n in (2, 4, 8, 16)),
        ((link_info("macvlan", data=u32(2, 1)),), {"kind": "macvlan"}),  # flags without a mode
        ((link_info("vlan", data=u32(1, 1)),), {"kind": "vlan"}),
        (
            (link_info("bridge", data=attribute(7, b"\x01")),),
            {"kind": "bridge", "filters_vlans": True},
        ),
        ((link_info("bridge", data=attribute(7, b"\x00")),), {"kind": "bridge"}),
        ((link_info("vlan", data=attribute(7, b"\x01")),), {"kind": "vlan"}),
        ((u32(5, 2),), {}),  # its own parent
        ((u32(5, 0),), {}),
        # other namespace
        ((link_info("vlan"), u32(5, 3), u32(37, 0)), {"kind": "vlan", "far_parent": (0, 3)}),
        ((u32(37, 7), link_info("ipvlan"), u32(5, 2)), {"kind": "ipvlan", "far_parent": (7, 2)}),
        ((link_info("ipip"), u32(5, 0), u32(37, 7)), {"kind": "ipip"}),
        ((link_info("veth"), u32(5, 3)), {"kind": "veth", "pair_ifindex": 3}),
        ((link_info("netkit"), u32(5, 3)), {"kind": "netkit", "pair_ifindex": 3}),
        ((link_info("vxcan"), u32(5, 3)), {"kind": "vxcan", "pair_ifindex": 3}),
        ((link_info("veth"), u32(5, 3), u32(37, 0)), {"kind": "veth"}),  # other namespace
        ((link_info("veth"), u32(5, 0)), {"kind": "veth"}),
        ((link_info("", "bridge"), u32(10, 9)), {"port_kind": "bridge", "master_ifindex": 9}),
        ((u32(10 | 0x4000, 9),), {"master_ifindex": 9}),  # NLA_F_NET_BYTEORDER
        ((attribute(18 | 0x8000, attribute(1, b"bridge\0")),), {"kind": "bridge"}),  # NLA_F_NESTED
        ((u32(500, 9), attribute(999, b"")), {}),  # of a newer kernel
        ((u32(10, 9), u32(10, 8)), {"master_ifindex": 8}),  # the last counts
        ((attribute(10, struct.pack("=II", 9, 1)),), {"master_ifindex": 9}),  # longer than today
        ((attribute(18, b""),), {}),
    ],
)
def test_decode_link_attributes_become_fields(
    attributes: tuple[bytes, ...], changes: dict[str, Any]
) -> None:
    assert decode(new_link(*attributes)) == [LinkSeen(ETH0._replace(**changes))]


@pytest.mark.parametrize("event", range(8))
def test_decode_link_event_sets_notify_peers_only_for_notify_peers(event: int) -> None:
    assert decode(new_link(u32(44, event))) == [LinkSeen(ETH0, notify_peers=event == 4)]


@pytest.mark.parametrize(
    "partial",
    [
        *(new_link(family=f, message_type=kind) for f in (7, 10, 28) for kind in (16, 17)),
        new_link(attribute(11, b"\x01\x02\x03\x04")),  # IFLA_WIRELESS
    ],
)
def test_decode_message_about_one_aspect_of_a_link_gives_nothing(partial: bytes) -> None:
    assert decode(partial) == []


V4, V4_LOCAL = attribute(1, ip("192.0.2.1")), attribute(2, ip("192.0.2.9"))
V6, V6_LOCAL = attribute(1, ip("2001:db8::1")), attribute(2, ip("2001:db8::9"))


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (new_address(V4, V4_LOCAL), item(2, "192.0.2.9/24", peer="192.0.2.1")),
        (new_address(V4_LOCAL), item(2, "192.0.2.9/24")),
        (new_address(V4), None),  # our address is 0.0.0.0, this one is the peer's
        (new_address(), None),
        (new_address(V6, family=10), item(2, "2001:db8::1/24")),
        (new_address(V6, V6_LOCAL, family=10), item(2, "2001:db8::9/24", peer="2001:db8::1")),
        (new_address(attribute(7, ip("ff02::1")), family=10), None),  # IFA_MULTICAST
        (new_address(attribute(5, ip("2001:db8::")), family=10), None),  # IFA_ANYCAST
        (new_address(V4, V4_LOCAL, family=45), None),  # AF_MCTP
        (new_address(V4_LOCAL, u32(8, 0x10081), flags=0x40), item(2, "192.0.2.9/24", 0x10081)),
        (new_address(V4_LOCAL, u32(8, 0), flags=0x40), item(2, "192.0.2.9/24", 0)),
    ],
)
def test_decode_address_takes_local_address_and_long_flags(
    datagram: bytes, expected: InterfaceAddress | None
) -> None:
    assert decode(datagram) == ([AddressSeen(expected)] if expected else [])


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (new_netconf(u32(1, 1), u32(2, 1)), [ForwardingSeen(1, True)]),
        (new_netconf(u32(1, 3), u32(2, 0)), [ForwardingSeen(3, False)]),
        (new_netconf(u32(1, 3), u32(2, 2)), [ForwardingSeen(3, True)]),  # the sysctl takes any
        (new_netconf(u32(1, 3), u32(4, 1)), []),  # NETCONFA_MC_FORWARDING
        (new_netconf(u32(2, 1)), []),
        (new_netconf(u32(1, 0), u32(2, 1)), []),
        (new_netconf(u32(1, 3), u32(2, 1), family=2), []),
        (message(81, struct.pack("=B3x", 10) + u32(1, 3)), []),
        (message(2, struct.pack("=i", 0) + bytes(16), sequence=5), []),  # an acknowledgement
        (message(2, struct.pack("=i", -16) + bytes(16), sequence=5), [RequestFailed(5, 16)]),
        (message(3, struct.pack("=i", -4), sequence=5), [DumpDone(5, 4)]),
        (message(3, bytes(4), flags=0xFFEF, sequence=9), [DumpDone(9)]),
        (message(3, bytes(4), flags=0x12, sequence=9), [DumpInterrupted(9), DumpDone(9)]),
        (message(1, b""), []),  # NLMSG_NOOP
        (message(4, b""), []),  # NLMSG_OVERRUN
        (message(24, b"\xff" * 12), []),  # RTM_NEWROUTE is not decoded
        (message(9999, b"\xff"), []),
        (b"", []),
    ],
)
def test_decode_forwarding_and_control_messages_give_their_events(
    datagram: bytes, expected: list[KernelMessage]
) -> None:
    assert decode(datagram) == expected


AT_0 = "message of type {} at byte 0 of {}: "
MALFORMED = [
    (b"\x10" + bytes(9), "message header at byte 0 is cut short after 10"),
    (new_link() + b"\x10\0\0\0", "message header at byte 44 is cut short after 4 bytes"),
    (bytes(16), "message at byte 0 gives its length as 0 of 16 bytes"),
    (new_link()[:-4], "message at byte 0 gives its length as 44 of 40 bytes"),
    (message(16, bytes(12)), AT_0.format(16, 28) + "body has 12 bytes; must have at least 16"),
    (message(17, b""), AT_0.format(17, 16) + "body has 0 bytes; must have at least 16"),
    (message(21, bytes(4)), AT_0.format(21, 20) + "body has 4 bytes; must have at least 8"),
    (message(80, b"\x0a"), AT_0.format(80, 17) + "body has 1 bytes; must have at least 4"),
    (message(2, b""), AT_0.format(2, 16) + "body has 0 bytes; must have at least 4"),
    (
        new_link(b"\x08\0"),
        AT_0.format(16, 46) + "attribute at byte 44 is cut short by the end at 46",
    ),
    (
        new_link(b"\x03\0\x0a\0"),
        AT_0.format(16, 48) + "attribute 10 at byte 44 gives its length as 3 of 4 bytes",
    ),
    (
        golden.read("rtnetlink/dump-done") + new_link(u32(10, 9)[:-1]),
        "message of type 16 at byte 20 of 71: "
        "attribute 10 at byte 64 gives its length as 8 of 7 bytes",
    ),
    (
        new_link(attribute(18, b"\x09\0\x01\0bond")),
        "attribute 1 at byte 0 gives its length as 9 of 8 bytes",
    ),
    (
        new_link(attribute(10, b"\x09\0")),
        AT_0.format(16, 52) + "attribute 10 has 2 bytes; must have 4",
    ),
    (new_link(attribute(16, b"")), AT_0.format(16, 48) + "attribute 16 is empty; must have 1 byte"),
    (
        new_address(attribute(2, b"\x01\x02\x03")),
        AT_0.format(20, 32) + "address of family 2 has 3 bytes, its peer 0; must have 4",
    ),
    (new_address(V4, family=10), "address of family 10 has 4 bytes, its peer 0; must have 16"),
    (new_address(V6, V4_LOCAL), "address of family 2 has 4 bytes, its peer 16; must have 4"),
    (new_address(V4_LOCAL, attribute(8, b"\x80")), "attribute 8 has 1 bytes; must have 4"),
    (
        new_link(link_info("macvlan", data=attribute(1, b"\1"))),
        "attribute 1 has 1 bytes; must have 4",
    ),
    (new_netconf(attribute(1, b"\x03\0"), u32(2, 1)), "attribute 1 has 2 bytes; must have 4"),
]


@pytest.mark.parametrize(("datagram", "text"), MALFORMED)
def test_decode_malformed_datagram_raises_with_position(datagram: bytes, text: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(datagram)
    assert text in str(caught.value)


@pytest.mark.parametrize("name", [name for name in GOLDEN if not name.startswith("forwarding-")])
def test_decode_truncated_datagram_raises(name: str) -> None:
    datagram = golden.read(f"rtnetlink/{name}")
    for length in range(1, len(datagram)):
        with pytest.raises(DecodeError):
            decode(datagram[:length])


# -- random datagrams -------------------------------------------------------------------


@st.composite
def spoiled_datagrams(draw: st.DrawFn) -> bytes:
    """A golden datagram with some bytes replaced."""
    datagram = bytearray(golden.read(draw(st.sampled_from(golden.names("rtnetlink")))))
    for _ in range(draw(st.integers(1, 4))):
        datagram[draw(st.integers(0, len(datagram) - 1))] = draw(st.integers(0, 255))
    return bytes(datagram)


@property_settings(500)
@given(st.one_of(st.binary(max_size=200), spoiled_datagrams()))
@example(new_link(attribute(3, b"")))
@example(new_link(attribute(3, b"\xff\xfe\x80 no end")))
def test_decode_any_bytes_gives_messages_or_raises_decode_error(datagram: bytes) -> None:
    with suppress(DecodeError):
        for found in decode(datagram):
            if isinstance(found, (AddressSeen, AddressGone)):
                assert len(found.address.address) in (4, 16)
                assert len(found.address.peer) in (0, len(found.address.address))


# -- the running kernel -------------------------------------------------------------------


def test_multicast_groups_are_links_addresses_and_forwarding() -> None:
    assert GROUPS == (1, 5, 9, 25)


def ask(request: bytes) -> tuple[list[KernelMessage], dict[int, str]]:
    """What the running kernel answers, and the links that were there before and after it."""
    messages: list[KernelMessage] = []
    before = set(socket.if_nameindex())
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(10)
        netlink.bind((0, 0))
        netlink.send(request)
        while not any(isinstance(found, (DumpDone, RequestFailed)) for found in messages):
            messages += decode(netlink.recv(1 << 17))
    return messages, dict(before & set(socket.if_nameindex()))


def test_links_of_running_kernel_agree_with_sysfs() -> None:
    messages, names = ask(rtnetlink.dump_links(21))
    assert messages[-1] == DumpDone(21)
    links = {found.link.ifindex: found.link for found in messages if isinstance(found, LinkSeen)}
    for ifindex, name in names.items():
        link = links[ifindex]
        assert link.name == name
        sysfs = Path("/sys/class/net", name)
        assert link.hardware_type == int((sysfs / "type").read_text())
        assert link.hardware_address == mac((sysfs / "address").read_text().strip())


def test_forwarding_of_running_kernel_agrees_with_sysctl() -> None:
    messages, names = ask(rtnetlink.dump_forwarding(23))
    for found in messages:
        if isinstance(found, ForwardingSeen) and found.ifindex in names:
            sysctl = Path("/proc/sys/net/ipv6/conf", names[found.ifindex], "forwarding")
            assert found.forwarding == (sysctl.read_text().strip() != "0")
