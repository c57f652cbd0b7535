"""The filters, run by the kernel itself: what names our addresses passes, nothing else does."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from garp_agent.guest.core.filters import advertisement_filter, arp_filter

SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>
RIVAL = "02:00:5e:00:53:01"
OURS4 = ["192.0.2.10", "192.0.2.11", "10.255.255.255"]
OURS6 = ["2001:db8::10", "fe80::5eff:fe00:5310", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"]


def packed(addresses: list[str]) -> list[bytes]:
    return [
        socket.inet_pton(socket.AF_INET6 if ":" in each else socket.AF_INET, each)
        for each in addresses
    ]


ARP_FILTER = arp_filter(packed(OURS4))
ADVERTISEMENT_FILTER = advertisement_filter(packed(OURS6))


def arp(sender: str, target: str = "192.0.2.10", opcode: int = 1) -> bytes:
    return bytes(
        Ether(dst="ff:ff:ff:ff:ff:ff", src=RIVAL)
        / ARP(op=opcode, hwsrc=RIVAL, psrc=sender, pdst=target)
    )


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

    A filter sees a datagram between Unix sockets as it sees a received frame without
    a tag: from its first byte on.
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


def evaluate(program: bytes, frame: bytes, tag: int | None) -> bool:
    """Documentation/networking/filter.rst, with the tag that the kernel took off the frame."""
    known = {44: tag or 0, 48: int(tag is not None)}
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    while True:
        code, if_true, if_false, operand = instructions[position]
        position += 1
        if code == 0x06:
            return bool(operand)
        if code in (0x20, 0x28, 0x30):
            size = {0x20: 4, 0x28: 2, 0x30: 1}[code]
            if operand >= 0xFFFFF000:
                accumulator = known[operand - 0xFFFFF000]
            else:
                accumulator = int.from_bytes(frame[operand : operand + size], "big")
        elif code == 0x15:
            position += if_true if accumulator == operand else if_false
        else:
            assert code == 0x45, f"unknown instruction {code:#x}"
            position += if_true if accumulator & operand else if_false


@pytest.mark.parametrize("address", OURS4)
@pytest.mark.parametrize("opcode", [1, 2])
def test_arp_from_our_address_passes(address: str, opcode: int) -> None:
    with kernel_filter(ARP_FILTER) as passes:
        assert passes(arp(address, address, opcode))
        assert passes(arp(address, "192.0.2.77", opcode))


@pytest.mark.parametrize("sender", ["0.0.0.0", "192.0.2.1", "192.0.2.12", "10.255.255.254"])
def test_arp_for_our_address_and_of_others_is_dropped(sender: str) -> None:
    with kernel_filter(ARP_FILTER) as passes:
        assert not passes(arp(sender, "192.0.2.10"))


@pytest.mark.parametrize("address", OURS6)
def test_an_advertisement_of_our_address_passes(address: str) -> None:
    with kernel_filter(ADVERTISEMENT_FILTER) as passes:
        assert passes(advertisement(address))


@pytest.mark.parametrize(
    "frame",
    [
        advertisement("2001:db8::11"),
        advertisement("2001:db8:0:0:1::10"),
        advertisement("2001:db8::10", hop_limit=64),
        advertisement("2001:db8::10")[:54] + b"\x87" + advertisement("2001:db8::10")[55:],
        advertisement("2001:db8::10")[:60],
        b"",
    ],
    ids=["another", "another's end", "from beyond a router", "a solicitation", "cut", "empty"],
)
def test_what_advertises_nothing_of_ours_is_dropped(frame: bytes) -> None:
    with kernel_filter(ADVERTISEMENT_FILTER) as passes:
        assert not passes(frame)


def test_without_addresses_nothing_passes() -> None:
    with kernel_filter(arp_filter(())) as passes:
        assert not passes(arp("192.0.2.10"))
    with kernel_filter(advertisement_filter(())) as passes:
        assert not passes(advertisement("2001:db8::10"))


@pytest.mark.parametrize(
    ("tag", "passed"),
    [(None, True), (0, True), (0xF000, True), (5, False), (0xE005, False), (0x0FFF, False)],
    ids=["none", "VLAN 0", "a priority only", "VLAN 5", "VLAN 5 with priority", "VLAN 4095"],
)
def test_a_vlan_that_we_are_not_in_is_none_of_our_business(tag: int | None, passed: bool) -> None:
    assert evaluate(ARP_FILTER, arp("192.0.2.10"), tag) is passed
    assert evaluate(ADVERTISEMENT_FILTER, advertisement("2001:db8::10"), tag) is passed


@settings(max_examples=25, deadline=None)
@given(st.sets(st.binary(min_size=4, max_size=4), max_size=3000), st.data())
def test_many_ipv4_addresses_are_each_watched(addresses: set[bytes], data: st.DataObject) -> None:
    ordered = sorted(addresses)
    program = arp_filter(ordered)
    assert len(program) // 8 <= 4096  # BPF_MAXINSNS
    for place in (0, 1999, 2000, len(ordered) - 1):
        if 0 <= place < len(ordered):
            frame = bytes(28) + ordered[place] + bytes(28)
            assert evaluate(program, frame, None) is (place < 2000)
    other = data.draw(st.binary(min_size=4, max_size=4).filter(lambda a: a not in addresses))
    assert not evaluate(program, bytes(28) + other + bytes(28), None)


def test_an_ipv6_filter_stays_within_what_the_kernel_takes() -> None:
    many = [b"\x20\x01\x0d\xb8" + number.to_bytes(12, "big") for number in range(5000)]
    program = advertisement_filter(many)
    assert len(program) // 8 <= 4096  # BPF_MAXINSNS
    frames = [advertisement(socket.inet_ntop(socket.AF_INET6, many[n])) for n in (0, 799, 800)]
    assert [evaluate(program, frame, None) for frame in frames] == [True, True, False]
