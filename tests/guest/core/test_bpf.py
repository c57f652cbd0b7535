"""filters, attached to a socket of the running kernel.  tests/netns has them on tagged frames."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from garp_agent.guest.core.bpf import advertisement_filter, arp_filter
from tests.world import ip

SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>
BPF_MAXINSNS = 4096
RIVAL = "02:00:5e:00:53:01"
OURS4 = ["192.0.2.10", "192.0.2.11", "10.255.255.255"]
OURS6 = ["2001:db8::10", "fe80::5eff:fe00:5310", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"]
ARP_FILTER = arp_filter(map(ip, OURS4))
ADVERTISEMENT_FILTER = advertisement_filter(map(ip, OURS6))


def arp(sender: str, target: str = "192.0.2.10", opcode: int = 1) -> bytes:
    packet = ARP(op=opcode, hwsrc=RIVAL, psrc=sender, pdst=target)
    return bytes(Ether(dst="ff:ff:ff:ff:ff:ff", src=RIVAL) / packet)


def advertisement(target: str, hop_limit: int = 255) -> bytes:
    return bytes(
        Ether(dst="33:33:00:00:00:01", src=RIVAL)
        / IPv6(src="2001:db8::1", dst="ff02::1", hlim=hop_limit)
        / ICMPv6ND_NA(tgt=target, S=0, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=RIVAL)
    )


@contextmanager
def kernel_filter(program: bytes) -> Iterator[Callable[[bytes], bool]]:
    """Whether the running kernel lets a frame through; needs no privilege.

    The filter of a Unix datagram socket sees a datagram from its first byte on.  The filter of a
    packet socket sees an untagged frame in the same way.
    """
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with near, far:
        far.setblocking(False)
        code = ctypes.create_string_buffer(program, len(program))
        option = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
        far.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, option)

        def passes(frame: bytes) -> bool:
            near.send(frame)
            try:
                received = far.recv(2048)
            except BlockingIOError:
                return False
            assert received == frame, "the filter cut the frame"
            return True

        yield passes


@pytest.mark.parametrize("address", OURS4)
@pytest.mark.parametrize("opcode", [1, 2])
def test_arp_filter_our_address_as_sender_passes(address: str, opcode: int) -> None:
    with kernel_filter(ARP_FILTER) as passes:
        assert passes(arp(address, address, opcode))
        assert passes(arp(address, "192.0.2.77", opcode))


@pytest.mark.parametrize("address", OURS4)
def test_arp_filter_probe_for_our_address_passes(address: str) -> None:
    with kernel_filter(ARP_FILTER) as passes:
        assert passes(arp("0.0.0.0", address))
        assert not passes(arp("0.0.0.0", "192.0.2.77"))


@pytest.mark.parametrize("sender", ["192.0.2.1", "192.0.2.12", "10.255.255.254"])
def test_arp_filter_other_sender_is_dropped(sender: str) -> None:
    with kernel_filter(ARP_FILTER) as passes:
        assert not passes(arp(sender, "192.0.2.10"))


@pytest.mark.parametrize("address", OURS6)
def test_advertisement_filter_our_target_passes(address: str) -> None:
    with kernel_filter(ADVERTISEMENT_FILTER) as passes:
        assert passes(advertisement(address))


OURS = advertisement("2001:db8::10")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(advertisement("2001:db8::11"), id="another target"),
        pytest.param(advertisement("2001:db8:0:0:1::10"), id="same last 4 bytes only"),
        pytest.param(advertisement("2001:db8::10", hop_limit=64), id="routed"),
        pytest.param(OURS[:54] + b"\x87" + OURS[55:], id="solicitation"),
        pytest.param(OURS[:60], id="truncated"),
        pytest.param(b"", id="empty"),
    ],
)
def test_advertisement_filter_other_frame_is_dropped(frame: bytes) -> None:
    with kernel_filter(ADVERTISEMENT_FILTER) as passes:
        assert not passes(frame)


def test_filters_without_addresses_drop_everything() -> None:
    with kernel_filter(arp_filter(())) as passes:
        assert not passes(arp("192.0.2.10"))
    with kernel_filter(advertisement_filter(())) as passes:
        assert not passes(OURS)


MANY4 = [bytes((10, 1, number >> 8, number & 255)) for number in range(3000)]
MANY6 = [b"\x20\x01\x0d\xb8" + number.to_bytes(12, "big") for number in range(3000)]


def test_filters_of_many_addresses_pass_each() -> None:
    with kernel_filter(arp_filter(MANY4[:150])) as passes:
        found = [passes(arp(socket.inet_ntoa(MANY4[n]))) for n in (0, 1, 149, 150)]
    assert found == [True, True, True, False]
    with kernel_filter(advertisement_filter(MANY6[:150])) as passes:
        targets = [socket.inet_ntop(socket.AF_INET6, MANY6[n]) for n in (0, 1, 149, 150)]
        assert [passes(advertisement(target)) for target in targets] == [True, True, True, False]


@pytest.mark.parametrize(
    ("build", "many", "most"), [(arp_filter, MANY4, 2000), (advertisement_filter, MANY6, 800)]
)
def test_filters_of_too_many_addresses_name_the_first_ones(
    build: Callable[[list[bytes]], bytes], many: list[bytes], most: int
) -> None:
    # Not attached: whether the kernel has memory for it depends on net.core.optmem_max.
    assert build(many) == build(many[:most]) != build(many[: most - 1])
    assert len(build(many)) // 8 <= BPF_MAXINSNS
