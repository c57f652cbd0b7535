"""The stream of kernel events, from the real kernel."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from bench.lab import GUEST_ADDRESS, TinyLab
from garp_agent.guest.core import kernel
from garp_agent.guest.core.inventory import Inventory
from garp_agent.guest.core.kernel import GUEST
from garp_agent.guest.core.model import (
    AddressGone,
    AddressSeen,
    ForwardingSeen,
    LinkSeen,
)
from garp_agent.runtime.netlink import BATCH, RETRY, Netlink
from garp_agent.wire import rtnetlink
from garp_agent.wire.model import DumpComplete, DumpStarted, LinkGone

pytestmark = pytest.mark.netns

INTERVAL = 300.0
TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.guest.core.model import KernelChange

    Events = Netlink[KernelChange]


@pytest.fixture
def netlink(tiny_lab: TinyLab) -> Iterator[Events]:
    with tiny_lab.entered("guest"):
        made = Netlink(INTERVAL, GUEST)
    yield made
    made.close()


def everything(netlink: Events, now: float = 0.0) -> list[Any]:
    """What there is to hear by now: a dump is answered as it is read, without any waiting."""
    return [*netlink.reconcile(now), *netlink.read(now)]


def addresses(inventory: Inventory) -> set[str]:
    return {
        socket.inet_ntoa(item.address)
        for ifindex in inventory.links
        for item in inventory.addresses(ifindex)
        if len(item.address) == 4
    }


def fold(events: list[Any], inventory: Inventory) -> Inventory:
    for event in events:
        inventory.apply(event)
    return inventory


def test_it_begins_with_all_there_is(netlink: Events) -> None:
    assert netlink.deadline() <= 0.0
    events = everything(netlink)
    assert (events[0], events[-1]) == (DumpStarted(), DumpComplete())
    kinds = [type(event) for event in events[1:-1]]
    # Forwarding before links before addresses: each is of use to the next.
    order = [ForwardingSeen, LinkSeen, AddressSeen]
    assert kinds == sorted(kinds, key=order.index)
    inventory = fold(events, Inventory())
    assert {link.name for link in inventory.links.values()} == {"lo", "eth0"}
    assert addresses(inventory) == {"127.0.0.1", GUEST_ADDRESS}
    assert netlink.deadline() == INTERVAL


def test_then_with_what_happens(netlink: Events, tiny_lab: TinyLab) -> None:
    everything(netlink)
    assert netlink.read(1.0) == []
    tiny_lab.ip("guest", "address add 192.0.2.50/24 dev eth0", "address del 192.0.2.50/24 dev eth0")
    seen, gone = netlink.read(1.0)
    assert isinstance(seen, AddressSeen)
    assert gone == AddressGone(seen.address)
    tiny_lab.ip("guest", "link add x0 type veth peer name x1", "link del x0")
    events = netlink.read(1.0)
    named = {event.link.name for event in events if isinstance(event, LinkSeen)}
    assert named == {"x0", "x1"}
    assert len([event for event in events if isinstance(event, LinkGone)]) == 2


def test_everything_is_asked_anew_when_it_is_time(netlink: Events) -> None:
    everything(netlink, 0.0)
    assert everything(netlink, INTERVAL - 0.1) == []
    assert everything(netlink, INTERVAL)[-1] == DumpComplete()
    assert netlink.deadline() == 2 * INTERVAL


def overrun(where: TinyLab) -> None:
    """More than the buffer holds; the last to come are the last to go."""
    each = [f"10.{n // 250}.{n % 250}.1/32 dev eth0" for n in range(3000)]
    where.ip("guest", *(f"address add {one}" for one in each))
    where.ip("guest", *(f"address del {one}" for one in each))


def test_an_overrun_is_made_good(netlink: Events, tiny_lab: TinyLab) -> None:
    inventory = fold(everything(netlink), Inventory())
    overrun(tiny_lab)
    events = netlink.read(1.0)
    assert len([event for event in events if event == DumpStarted(overrun=True)]) == 1
    assert events[-1] == DumpComplete()
    # Nothing of what waited before counts as a part of the dump.
    start = events.index(DumpStarted(overrun=True))
    told = [event.address.address for event in events[start:] if isinstance(event, AddressSeen)]
    assert told == [socket.inet_aton("127.0.0.1"), socket.inet_aton(GUEST_ADDRESS)]
    assert addresses(fold(events, inventory)) == {"127.0.0.1", GUEST_ADDRESS}
    assert netlink.read(1.0) == []


def test_an_overrun_in_the_middle_of_a_dump(netlink: Events, tiny_lab: TinyLab) -> None:
    inventory = fold(netlink.reconcile(0.0), Inventory())
    overrun(tiny_lab)
    events = netlink.read(0.0)
    assert events[-1] == DumpComplete()
    assert events.count(DumpComplete()) == 1
    assert addresses(fold(events, inventory)) == {"127.0.0.1", GUEST_ADDRESS}


def test_an_overrun_before_the_first_dump(netlink: Events, tiny_lab: TinyLab) -> None:
    overrun(tiny_lab)
    inventory = fold(everything(netlink), Inventory())
    assert inventory.complete
    assert addresses(inventory) == {"127.0.0.1", GUEST_ADDRESS}


def test_a_batch_holds_all_that_can_wait(netlink: Events, tiny_lab: TinyLab) -> None:
    everything(netlink)
    tiny_lab.ip("guest", *(f"address add 10.0.0.{n}/32 dev eth0" for n in range(1, 250)))
    assert len(netlink.read(1.0)) == 249
    # As many as there are with the largest buffer, of the smallest datagrams.
    assert BATCH * 768 > 2 * (1 << 20)


def test_nobody_but_the_kernel_is_believed(netlink: Events, tiny_lab: TinyLab) -> None:
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
        port = netlink._socket.getsockname()[0]
        forger.sendto(message, (port, 0))
        assert netlink.read(1.0) == []
        tiny_lab.ip("guest", "address add 192.0.2.51/24 dev eth0")
        assert len(netlink.read(1.0)) == 1


def nonsense(sequence: int) -> bytes:
    """A dump that the kernel refuses: RTM_GETSTATS without a filter."""
    return rtnetlink._dump(94, sequence, bytes(12))


def unsupported(sequence: int) -> bytes:
    """What asking for IPv6 is in a kernel without it: EOPNOTSUPP."""
    return rtnetlink._dump(250, sequence, b"")


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_dump_that_is_refused_is_asked_for_again(tiny_lab: TinyLab, step: int) -> None:
    refusals = [nonsense]
    asked = GUEST.steps[step]

    def refused_once(sequence: int) -> bytes:
        return refusals.pop()(sequence) if refusals else asked(sequence)

    steps = (*GUEST.steps[:step], refused_once, *GUEST.steps[step + 1 :])
    with tiny_lab.entered("guest"):
        netlink = Netlink(INTERVAL, GUEST._replace(steps=steps))
    events = everything(netlink, 0.0)
    assert events[0] == DumpStarted()
    assert DumpComplete() not in events
    assert netlink.deadline() == RETRY
    assert everything(netlink, RETRY)[-1] == DumpComplete()
    assert netlink.deadline() == RETRY + INTERVAL
    netlink.close()


def test_without_ipv6_in_the_kernel_the_rest_is_told(tiny_lab: TinyLab) -> None:
    with tiny_lab.entered("guest"):
        netlink = Netlink(INTERVAL, GUEST._replace(steps=(unsupported, *GUEST.steps[1:])))
    events = everything(netlink)
    assert events[-1] == DumpComplete()
    assert {type(event) for event in events[1:-1]} == {LinkSeen, AddressSeen}
    netlink.close()


def test_forwarding_is_told_as_it_changes(tiny_lab6: TinyLab) -> None:
    with tiny_lab6.entered("guest"):
        netlink = Netlink(INTERVAL, GUEST)
    inventory = fold(everything(netlink), Inventory())
    (eth0,) = (index for index, link in inventory.links.items() if link.name == "eth0")
    for value in (1, 0, 1):
        tiny_lab6.run("guest", ["sysctl", "-qw", f"net.ipv6.conf.all.forwarding={value}"])
        fold(netlink.read(1.0), inventory)
        assert inventory.forwards(eth0) == bool(value)
    netlink.close()


class Failing:
    """A socket on which the kernel has no memory for the next call of one kind."""

    def __init__(self, real: socket.socket, call: str) -> None:
        self._real = real
        self._fails = [call]

    def __getattr__(self, name: str) -> Any:
        if name in self._fails:
            self._fails.remove(name)

            def fail(*_arguments: object) -> None:
                raise OSError(errno.ENOMEM, "no memory")

            return fail
        return getattr(self._real, name)


@pytest.mark.parametrize("call", ["send", "recvfrom"])
def test_what_the_kernel_has_no_memory_for_is_asked_for_again(netlink: Events, call: str) -> None:
    """Which the kernel here never lacks."""
    everything(netlink)
    netlink._socket = Failing(netlink._socket, call)  # type: ignore[assignment]
    events = everything(netlink, INTERVAL)
    events += everything(netlink, INTERVAL + RETRY)
    inventory = fold(events, Inventory())
    assert inventory.complete
    assert GUEST_ADDRESS in addresses(inventory)
    assert netlink.deadline() == 2 * INTERVAL + (RETRY if call == "send" else 0.0)
