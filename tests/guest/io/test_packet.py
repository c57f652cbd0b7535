"""PacketSender on real links: frames arrive, and each error of the kernel gives its outcome."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from bench.lab import TinyLab
from garp_agent.guest.core.model import SendOutcome
from garp_agent.guest.io.packet import OWN_SOCKETS, PacketSender
from tests.runtime.descriptors import descriptors_left, open_descriptors

pytestmark = pytest.mark.netns

SENT = (SendOutcome.SENT, 0)
FRAME = bytes.fromhex("ffffffffffff 02005e005310 88b5") + b"hello".ljust(46, b"\0")


@pytest.fixture
def links(tiny_lab: TinyLab) -> TinyLab:
    """Two links: eth0 and eth1 of guest, each to the same name at peer."""
    tiny_lab.wire(("guest", "eth1", "peer", "eth1"))
    tiny_lab.ip("guest", "link set eth1 up")
    tiny_lab.ip("peer", "link set eth1 up")
    tiny_lab.wait_until_up("guest", "peer")
    return tiny_lab


@pytest.fixture
def sender(links: TinyLab) -> Iterator[PacketSender]:
    with links.entered("guest"):  # the test runs in this namespace too
        made = PacketSender()
        yield made
        made.close()


@pytest.fixture
def wires(links: TinyLab) -> Iterator[dict[str, socket.socket]]:
    made = {name: links.packet_socket("peer", name, 0x88B5) for name in ("eth0", "eth1")}
    yield made
    for wire in made.values():
        wire.close()


def index(where: TinyLab, name: str) -> int:
    with where.entered("guest"):
        return socket.if_nametoindex(name)


def arrived(wire: socket.socket) -> list[bytes]:
    """Return what has arrived; a veth pair delivers a frame before send() returns."""
    frames = []
    wire.setblocking(False)
    while True:
        try:
            frames.append(wire.recv(2048))
        except OSError:
            return frames


def test_a_frame_leaves_on_its_link_unchanged(
    links: TinyLab, sender: PacketSender, wires: dict[str, socket.socket]
) -> None:
    for name in ("eth0", "eth1", "eth1", "eth0"):
        assert sender.send(index(links, name), name, FRAME) == SENT
    assert arrived(wires["eth0"]) == [FRAME] * 2
    assert arrived(wires["eth1"]) == [FRAME] * 2


def test_a_link_that_is_down_gives_link_down(links: TinyLab, sender: PacketSender) -> None:
    eth0 = index(links, "eth0")
    for _ in range(2):
        links.ip("guest", "link set eth0 down")
        assert sender.send(eth0, "eth0", FRAME) == (SendOutcome.LINK_DOWN, errno.ENETDOWN)
        links.ip("guest", "link set eth0 up")
        links.wait_until_up("guest")
        assert sender.send(eth0, "eth0", FRAME) == SENT


@pytest.mark.parametrize("bound", [True, False])
def test_a_deleted_link_gives_gone(links: TinyLab, sender: PacketSender, bound: bool) -> None:
    eth0, eth1 = index(links, "eth0"), index(links, "eth1")
    if bound:
        assert sender.send(eth0, "eth0", FRAME) == SENT
    links.ip("guest", "link del eth0")
    for _ in range(2):
        outcome, number = sender.send(eth0, "eth0", FRAME)
        assert outcome is SendOutcome.GONE
        assert number in (errno.ENXIO, errno.ENODEV)
    assert sender.send(eth1, "eth1", FRAME) == SENT


@pytest.mark.parametrize("bound", [True, False])
def test_a_link_recreated_with_the_same_index(
    links: TinyLab, sender: PacketSender, bound: bool
) -> None:
    eth0 = index(links, "eth0")
    if bound:
        assert sender.send(eth0, "eth0", FRAME) == SENT
    links.ip("guest", "link del eth0")
    peer = links.namespace("peer")
    links.ip("guest", f"link add eth0 index {eth0} type veth peer name eth0 netns {peer}")
    links.ip("guest", "link set eth0 up")
    links.ip("peer", "link set eth0 up")
    links.wait_until_up("guest", "peer")
    with links.packet_socket("peer", "eth0", 0x88B5) as wire:
        outcomes = [sender.send(eth0, "eth0", FRAME) for _ in range(2)]
        assert outcomes[1] == SENT
        assert len(arrived(wire)) == outcomes.count(SENT)


def test_a_renamed_link_gets_frames_under_its_old_name(
    links: TinyLab, sender: PacketSender, wires: dict[str, socket.socket]
) -> None:
    """Between the rename and the event that tells of it."""
    eth0 = index(links, "eth0")
    assert sender.send(eth0, "eth0", FRAME) == SENT
    links.ip("guest", "link set eth0 down", "link set eth0 name other", "link set other up")
    links.wait_until_up("guest", "peer")
    assert sender.send(eth0, "eth0", FRAME) == SENT
    assert len(arrived(wires["eth0"])) == 2


def test_a_link_that_took_the_name_of_another_gets_no_frame_of_it(
    links: TinyLab, sender: PacketSender, wires: dict[str, socket.socket]
) -> None:
    eth0, eth1 = index(links, "eth0"), index(links, "eth1")
    assert sender.send(eth1, "eth1", FRAME) == SENT
    links.ip("guest", "link set eth0 down", "link set eth0 name x", "link set x up")
    links.ip("guest", "link set eth1 down", "link set eth1 name eth0", "link set eth0 up")
    links.wait_until_up("guest", "peer")
    assert sender.send(eth0, "eth0", FRAME) == (SendOutcome.GONE, errno.ENODEV)
    assert sender.send(eth0, "x", FRAME) == SENT
    assert sender.send(eth1, "eth0", FRAME) == SENT
    assert len(arrived(wires["eth0"])) == 1
    assert len(arrived(wires["eth1"])) == 2


@pytest.mark.parametrize("name", [b"\xff\xfe", b"thirteenlong\xff"])
def test_a_link_whose_name_is_not_utf8_gets_its_frame(
    links: TinyLab, sender: PacketSender, wires: dict[str, socket.socket], name: bytes
) -> None:
    eth0, text = index(links, "eth0"), os.fsdecode(name)
    for change in (["down"], ["name", text]):
        links.run("guest", ["ip", "link", "set", "eth0", *change])
    assert sender.send(eth0, text, FRAME) == (SendOutcome.LINK_DOWN, errno.ENETDOWN)
    links.run("guest", ["ip", "link", "set", text, "up"])
    links.wait_until_up("peer")
    assert sender.send(eth0, text, FRAME) == SENT
    assert sender.send(index(links, "eth1"), text, FRAME) == (SendOutcome.GONE, errno.ENODEV)
    assert sender.send(eth0, text + "x", FRAME)[0] is not SendOutcome.SENT
    assert len(arrived(wires["eth0"])) == 1


def test_a_name_that_is_not_utf8_and_too_long_drops_the_frame(
    links: TinyLab, sender: PacketSender
) -> None:
    name = os.fsdecode(b"fourteen-bytes\xff")
    links.run("guest", ["ip", "link", "add", "dev", name, "type", "veth", "peer", "name", "p"])
    assert sender.send(index(links, name), name, FRAME) == (SendOutcome.DROPPED, errno.EILSEQ)
    assert sender.send(index(links, "eth0"), "eth0", FRAME) == SENT


def limit_rate(links: TinyLab, queue: int) -> None:
    """Let eth0 queue so many bytes and send hardly any."""
    links.run("guest", f"tc qdisc add dev eth0 root tbf rate 8bit burst 100 limit {queue}".split())


def test_a_full_queue_drops_the_frame(links: TinyLab, sender: PacketSender) -> None:
    limit_rate(links, 200)
    outcomes = [sender.send(index(links, "eth0"), "eth0", FRAME) for _ in range(10)]
    assert outcomes[0] == SENT
    assert outcomes[-1] == (SendOutcome.DROPPED, errno.ENOBUFS)
    assert sender.send(index(links, "eth1"), "eth1", FRAME) == SENT


def test_a_full_send_buffer_gives_the_next_link_its_own_socket(
    links: TinyLab, sender: PacketSender
) -> None:
    eth0, eth1 = index(links, "eth0"), index(links, "eth1")
    limit_rate(links, 100_000_000)
    while (outcome := sender.send(eth0, "eth0", FRAME)) == SENT:
        pass
    assert outcome == (SendOutcome.DROPPED, errno.EAGAIN)
    before = open_descriptors()
    assert sender.send(eth1, "eth1", FRAME) == (SendOutcome.DROPPED, errno.EAGAIN)
    for _ in range(1000):
        assert sender.send(eth1, "eth1", FRAME) == SENT
    # The link that keeps its frames gets one socket, not one for each frame.
    for _ in range(2000):
        last = sender.send(eth0, "eth0", FRAME)
    assert last == (SendOutcome.DROPPED, errno.EAGAIN)
    assert len(open_descriptors() - before) == 1
    assert OWN_SOCKETS < 1000


def test_frames_are_sent_without_free_descriptors(links: TinyLab, sender: PacketSender) -> None:
    eth0, eth1 = index(links, "eth0"), index(links, "eth1")
    with descriptors_left(0):
        for name, ifindex in (("eth0", eth0), ("eth1", eth1), ("eth0", eth0)):
            assert sender.send(ifindex, name, FRAME) == SENT
