"""Netlink on the real kernel: dumps, live events, overruns and refused dumps."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from bench.lab import GUEST_ADDRESS, TinyLab
from garp_agent.guest.core import kernel
from garp_agent.guest.core.inventory import Inventory
from garp_agent.guest.core.kernel import GUEST
from garp_agent.guest.core.model import AddressGone, AddressSeen, ForwardingSeen, LinkSeen
from garp_agent.runtime.netlink import BATCH, RETRY, Netlink
from garp_agent.wire import rtnetlink
from garp_agent.wire.model import DumpComplete, DumpStarted, LinkGone

pytestmark = pytest.mark.netns

INTERVAL = 300.0
HERE = {"127.0.0.1", GUEST_ADDRESS}
if TYPE_CHECKING:
    Events = Netlink[Any]


@pytest.fixture
def netlink(tiny_lab: TinyLab) -> Iterator[Events]:
    with tiny_lab.entered("guest"), closing(Netlink(INTERVAL, GUEST)) as made:
        yield made


def everything(netlink: Events, now: float = 0.0) -> list[Any]:
    """Return all events so far.  The kernel answers a dump while it is read, without a wait."""
    return [*netlink.reconcile(now), *netlink.read(now)]


def addresses(events: list[Any]) -> set[str]:
    """Return the IPv4 addresses that there are after these events."""
    inventory = Inventory()
    for event in events:
        inventory.apply(event)
    found = [each.address for ifindex in inventory.links for each in inventory.addresses(ifindex)]
    return {socket.inet_ntoa(address) for address in found if len(address) == 4}


def test_stream_begins_with_a_dump_that_is_repeated_after_the_interval(netlink: Events) -> None:
    assert netlink.deadline() <= 0.0
    first, *dumped, last = everything(netlink)
    assert (first, last) == (DumpStarted(), DumpComplete())
    kinds = [type(event) for event in dumped]
    # Forwarding, links, addresses: each is needed to understand the next.
    assert kinds == sorted(kinds, key=[ForwardingSeen, LinkSeen, AddressSeen].index)
    assert {event.link.name for event in dumped if type(event) is LinkSeen} == {"lo", "eth0"}
    assert addresses(dumped) == HERE
    assert netlink.deadline() == INTERVAL
    assert everything(netlink, INTERVAL - 0.1) == []
    assert everything(netlink, INTERVAL)[-1] == DumpComplete()
    assert netlink.deadline() == 2 * INTERVAL


def test_live_events_follow_the_dump(netlink: Events, tiny_lab: TinyLab) -> None:
    everything(netlink)
    assert netlink.read(1.0) == []
    tiny_lab.ip("guest", "address add 192.0.2.50/24 dev eth0", "address del 192.0.2.50/24 dev eth0")
    seen, gone = netlink.read(1.0)
    assert isinstance(seen, AddressSeen)
    assert gone == AddressGone(seen.address)
    tiny_lab.ip("guest", "link add x0 type veth peer name x1", "link del x0")
    events = netlink.read(1.0)
    assert {event.link.name for event in events if isinstance(event, LinkSeen)} == {"x0", "x1"}
    assert len([event for event in events if isinstance(event, LinkGone)]) == 2


def overrun(where: TinyLab) -> None:
    """Cause more events than the buffer holds; the kernel loses the latest ones."""
    each = [f"10.{n // 250}.{n % 250}.1/32 dev eth0" for n in range(3000)]
    where.ip("guest", *(f"address {verb} {one}" for verb in ("add", "del") for one in each))


def test_overrun_starts_a_dump_that_corrects_the_inventory(
    netlink: Events, tiny_lab: TinyLab
) -> None:
    before = everything(netlink)
    overrun(tiny_lab)
    events = netlink.read(1.0)
    assert events.count(DumpStarted(overrun=True)) == 1
    assert events[-1] == DumpComplete()
    # Events that waited before the dump do not count as a part of it.
    dump = events[events.index(DumpStarted(overrun=True)) :]
    assert len([event for event in dump if isinstance(event, AddressSeen)]) == len(HERE)
    assert addresses([*before, *events]) == HERE
    assert netlink.read(1.0) == []


def test_what_waited_before_a_dump_does_not_count_as_part_of_it(
    netlink: Events, tiny_lab: TinyLab
) -> None:
    """The caller had no memory after an overrun: the news of an address is old, its end is lost."""
    events = everything(netlink)
    tiny_lab.ip("guest", "address add 192.0.2.50/24 dev eth0")
    overrun(tiny_lab)
    tiny_lab.ip("guest", "address del 192.0.2.50/24 dev eth0")
    assert netlink.read(1.0, 1) == []  # the notice of the overrun
    netlink.lose(1.0)
    events += everything(netlink, 1.0 + RETRY)
    assert events[-1] == DumpComplete()
    assert addresses(events) == HERE


def test_dump_that_the_kernel_does_not_end_is_tried_again(netlink: Events) -> None:
    everything(netlink)
    netlink.reconcile(INTERVAL)  # asks
    while True:  # its datagrams are lost
        try:
            netlink._socket.recv(1 << 16)
        except BlockingIOError:
            break
    assert netlink.read(INTERVAL) == []
    assert netlink.deadline() == INTERVAL + RETRY
    assert everything(netlink, INTERVAL + RETRY)[-1] == DumpComplete()


@pytest.mark.parametrize("during", [False, True])
def test_overrun_before_or_during_the_first_dump_leaves_one_dump(
    netlink: Events, tiny_lab: TinyLab, during: bool
) -> None:
    events: list[Any] = netlink.reconcile(0.0) if during else []
    overrun(tiny_lab)
    events += everything(netlink)
    assert (events[-1], events.count(DumpComplete())) == (DumpComplete(), 1)
    assert addresses(events) == HERE


def test_one_read_takes_all_that_waits(netlink: Events, tiny_lab: TinyLab) -> None:
    everything(netlink)
    tiny_lab.ip("guest", *(f"address add 10.0.0.{n}/32 dev eth0" for n in range(1, 250)))
    assert len(netlink.read(1.0)) == 249
    # The largest buffer, full of the smallest datagrams.
    assert BATCH * 768 > 2 * (1 << 20)


def test_datagram_of_another_process_is_ignored(netlink: Events, tiny_lab: TinyLab) -> None:
    everything(netlink)
    with tiny_lab.entered("guest"):
        recorder = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        forger = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with recorder, forger:
        recorder.bind((0, 1 << (rtnetlink.RTNLGRP_IPV4_IFADDR - 1)))
        tiny_lab.ip("guest", "address add 192.0.2.50/24 dev eth0")
        message = recorder.recv(1 << 16)
        (event,) = netlink.read(1.0)
        assert kernel.decode(message) == [event]
        forger.sendto(message, (netlink._socket.getsockname()[0], 0))
        assert netlink.read(1.0) == []
        tiny_lab.ip("guest", "address add 192.0.2.51/24 dev eth0")
        assert len(netlink.read(1.0)) == 1


# -- what the kernel refuses ----------------------------------------------------------------


def replaced(step: int, message_type: int, body: bytes) -> Any:
    """Return the dump of a guest with another request in the place of one step."""
    steps = list(GUEST.steps)
    steps[step] = lambda sequence: rtnetlink.request(message_type, sequence, body)
    return GUEST._replace(steps=tuple(steps))


@pytest.mark.parametrize("step", [0, 1, 2])
def test_refused_dump_is_tried_again(netlink: Events, step: int) -> None:
    netlink._subject = replaced(step, 94, bytes(12))  # RTM_GETSTATS without a filter: EINVAL
    events = everything(netlink, 0.0)
    assert events[0] == DumpStarted()
    assert DumpComplete() not in events
    assert netlink.deadline() == RETRY
    netlink._subject = GUEST
    assert everything(netlink, RETRY)[-1] == DumpComplete()
    assert netlink.deadline() == RETRY + INTERVAL


def test_kernel_without_ipv6_completes_the_dump(netlink: Events) -> None:
    netlink._subject = replaced(0, 250, b"")  # EOPNOTSUPP, as for IPv6 in a kernel without it
    events = everything(netlink)
    assert events[-1] == DumpComplete()
    assert {type(event) for event in events[1:-1]} == {LinkSeen, AddressSeen}


class Failing:
    """A socket on which one call fails once.  The kernel here never lacks memory."""

    def __init__(self, real: Any, call: str) -> None:
        self._real = real
        self._fails = [call]

    def __getattr__(self, name: str) -> Any:
        if name in self._fails:
            self._fails.remove(name)
            raise OSError(errno.ENOMEM, "no memory")
        return getattr(self._real, name)


@pytest.mark.parametrize("call", ["send", "recvfrom"])
def test_what_the_kernel_has_no_memory_for_is_asked_for_again(netlink: Events, call: str) -> None:
    everything(netlink)
    netlink._socket = Failing(netlink._socket, call)  # type: ignore[assignment]
    events = everything(netlink, INTERVAL)
    events += everything(netlink, INTERVAL + RETRY)
    assert addresses(events) == HERE
    assert DumpComplete() in events
    assert netlink.deadline() == 2 * INTERVAL + (RETRY if call == "send" else 0.0)
