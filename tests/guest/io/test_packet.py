"""Frames on real interfaces, and what each of the kernel's refusals is taken for."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.lab import ROOT, TinyLab
from garp_agent.guest.core.model import SendOutcome
from garp_agent.guest.io.packet import SET_APART, DryRun, PacketSender
from tests.runtime.descriptors import descriptors_left, open_descriptors

pytestmark = pytest.mark.netns

SENT = (SendOutcome.SENT, 0)
FRAME = bytes.fromhex("ffffffffffff 02005e005310 88b5") + b"hello".ljust(46, b"\0")


@pytest.fixture
def links(tiny_lab: TinyLab) -> TinyLab:
    """guest eth0, eth1 -- eth0, eth1 peer"""
    tiny_lab.wire(("guest", "eth1", "peer", "eth1"))
    tiny_lab.ip("guest", "link set eth1 up")
    tiny_lab.ip("peer", "link set eth1 up")
    tiny_lab.wait_until_up("guest", "peer")
    return tiny_lab


@pytest.fixture
def sender(links: TinyLab) -> Iterator[PacketSender]:
    with links.entered("guest"):  # and the test with it
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
    """A veth pair hands a frame over before send() returns."""
    frames = []
    wire.setblocking(False)
    while True:
        try:
            frames.append(wire.recv(2048))
        except OSError:
            return frames


def test_a_frame_goes_out_of_its_link_as_it_is(
    links: TinyLab, sender: PacketSender, wires: dict[str, socket.socket]
) -> None:
    for name in ("eth0", "eth1", "eth1", "eth0"):
        assert sender.send(index(links, name), name, FRAME) == SENT
    assert arrived(wires["eth0"]) == [FRAME] * 2
    assert arrived(wires["eth1"]) == [FRAME] * 2


def test_a_link_that_is_down(links: TinyLab, sender: PacketSender) -> None:
    eth0 = index(links, "eth0")
    for _ in range(2):
        links.ip("guest", "link set eth0 down")
        assert sender.send(eth0, "eth0", FRAME) == (SendOutcome.LINK_DOWN, errno.ENETDOWN)
        links.ip("guest", "link set eth0 up")
        links.wait_until_up("guest")
        assert sender.send(eth0, "eth0", FRAME) == SENT


@pytest.mark.parametrize("bound", [True, False])
def test_a_link_that_is_gone(links: TinyLab, sender: PacketSender, bound: bool) -> None:
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


def test_a_renamed_link_keeps_its_socket(
    links: TinyLab, sender: PacketSender, wires: dict[str, socket.socket]
) -> None:
    eth0 = index(links, "eth0")
    assert sender.send(eth0, "eth0", FRAME) == SENT
    links.ip("guest", "link set eth0 down", "link set eth0 name other", "link set other up")
    links.wait_until_up("guest", "peer")
    assert sender.send(eth0, "eth0", FRAME) == SENT  # we have not heard of it yet
    assert len(arrived(wires["eth0"])) == 2


def test_no_frame_goes_out_of_a_link_that_took_the_name(
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


def test_a_name_that_is_no_text(links: TinyLab, sender: PacketSender) -> None:
    name = os.fsdecode(b"\xff\xfe")
    links.run("guest", ["ip", "link", "add", "dev", name, "type", "veth", "peer", "name", "p"])
    ifindex = index(links, name)
    assert sender.send(ifindex, name, FRAME) == (SendOutcome.DROPPED, errno.EILSEQ)
    assert sender.send(index(links, "eth0"), "eth0", FRAME) == SENT


def test_a_full_queue(links: TinyLab, sender: PacketSender) -> None:
    eth0, eth1 = index(links, "eth0"), index(links, "eth1")
    qdisc = "tc qdisc add dev eth0 root tbf rate 8bit burst 100 limit 200"
    links.run("guest", qdisc.split())
    outcomes = [sender.send(eth0, "eth0", FRAME) for _ in range(10)]
    assert outcomes[0] == SENT
    assert outcomes[-1] == (SendOutcome.DROPPED, errno.ENOBUFS)
    assert sender.send(eth1, "eth1", FRAME) == SENT


def test_a_full_send_buffer_sets_its_link_apart(links: TinyLab, sender: PacketSender) -> None:
    eth0, eth1 = index(links, "eth0"), index(links, "eth1")
    qdisc = "tc qdisc add dev eth0 root tbf rate 8bit burst 100 limit 100000000"
    links.run("guest", qdisc.split())
    while (outcome := sender.send(eth0, "eth0", FRAME)) == SENT:
        pass
    assert outcome == (SendOutcome.DROPPED, errno.EAGAIN)
    before = open_descriptors()
    assert sender.send(eth1, "eth1", FRAME) == (SendOutcome.DROPPED, errno.EAGAIN)
    for _ in range(1000):
        assert sender.send(eth1, "eth1", FRAME) == SENT
    # The one that keeps its frames gets no more than that one socket either.
    for _ in range(2000):
        last = sender.send(eth0, "eth0", FRAME)
    assert last == (SendOutcome.DROPPED, errno.EAGAIN)
    assert len(open_descriptors() - before) == 1
    assert SET_APART < 1000


def test_out_of_descriptors_it_goes_on(links: TinyLab, sender: PacketSender) -> None:
    with descriptors_left(0):
        for name, ifindex in (("eth0", 100), ("eth1", 102), ("eth0", 100)):
            assert sender.send(ifindex, name, FRAME) == SENT
    assert (index(links, "eth0"), index(links, "eth1")) == (100, 102)


def test_without_the_capability_there_is_none() -> None:
    """In a process of its own, as it can't be got back."""
    script = "from garp_agent.guest.io.packet import PacketSender; PacketSender()"
    drop = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]
    done = subprocess.run(
        [*drop, sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT / "agent")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].startswith("PermissionError")


def test_a_dry_run_takes_all_and_sends_nothing(
    links: TinyLab, wires: dict[str, socket.socket]
) -> None:
    dry = DryRun()
    assert dry.send(100, "eth0", FRAME) == SENT
    assert dry.send(12345, "nothing", FRAME) == SENT
    dry.close()
    assert arrived(wires["eth0"]) == []
