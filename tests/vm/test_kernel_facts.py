"""What this project takes for granted about kernels and QEMU, on each kernel at hand.

A kernel or QEMU that behaves otherwise shows here first, and not as a riddle in the
agent's own tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm import guest_lib, images
from tests.vm.conftest import CARD, MAC
from tests.vm.machine import HINT_PORT, Machine
from tests.vm.pump import PUMP
from tests.vm.wire import Told

NOTIFY_PEERS = 4


@pytest.fixture(scope="module", params=images.KERNELS)
def guest(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The same guest with each kernel."""
    with Machine(cards=[CARD], kernel=request.param) as booted:
        booted.ip("link set eth0 up\naddr add 192.0.2.1/24 dev eth0")
        booted.python(guest_lib.LINK_EVENTS + guest_lib.PORT)
        yield booted


def test_announce_self_reaches_the_guest_as_notify_peers(guest: Machine) -> None:
    wire = guest.wires["net0"]
    since = wire.mark
    guest.qmp("announce-self", initial=50, max=100, rounds=1, step=50)
    event = f"result = wait_for_event({NOTIFY_PEERS})"
    assert guest.python(event) == "eth0"
    by_qemu, by_kernel = Told("rarp", MAC, ""), Told("arp-request", MAC, "192.0.2.1")
    wire.wait_for(lambda told: {by_qemu, by_kernel} <= set(told), "RARP and ARP", since)
    arp = next(frame for frame in wire.frames[since:] if frame.told == by_kernel)
    assert not arp.padded  # by which the kernel's announcements differ from the agent's


def look(guest: Machine) -> list[object]:
    """Poll bits, what a read gives, what a write gives, poll bits again."""
    source = "[poll_bits(), attempt(os.read, port, 4096), attempt(os.write, port, b'x\\n')]"
    seen: list[object] = guest.python(f"result = {source}")
    return seen


def wait_for_bits(guest: Machine, *bits: str) -> None:
    """The guest learns of a change through interrupts, a little later."""
    PUMP.wait_for(
        lambda: guest.python("result = poll_bits()") == list(bits), f"poll bits {bits}", step=0.02
    )


def test_states_of_a_port(guest: Machine) -> None:
    guest.python("port = open_port(name)", name=HINT_PORT)
    assert guest.python("result = attempt(open_port, name)", name=HINT_PORT) == (
        "Device or resource busy"
    )
    never_connected = [["IN", "HUP"], "", "BlockingIOError"]
    assert look(guest) == never_connected

    host = guest.hint()
    wait_for_bits(guest, "OUT")
    assert look(guest) == [["OUT"], "BlockingIOError", 2]
    assert host.wait_for_line() == b"x"

    host.send(b"a line\n")
    wait_for_bits(guest, "IN", "OUT")
    assert look(guest) == [["IN", "OUT"], "a line\n", 2]

    host.send(b"unread\n")
    wait_for_bits(guest, "IN", "OUT")
    host.close()
    wait_for_bits(guest, "IN", "HUP")
    assert look(guest) == [["IN", "HUP"], "unread\n", "BlockingIOError"]
    assert look(guest) == never_connected

    host = guest.hint()
    wait_for_bits(guest, "OUT")
    host.send(b"then half closed\n")
    host.half_close()
    wait_for_bits(guest, "IN", "HUP")
    assert look(guest) == [["IN", "HUP"], "then half closed\n", "BlockingIOError"]
    host.close()


def test_a_port_that_is_unplugged(guest: Machine) -> None:
    guest.python("if 'port' not in globals(): port = open_port(name)", name=HINT_PORT)
    guest.unplug_port()
    wait_for_bits(guest, "HUP")
    assert look(guest) == [["HUP"], "No such device", "No such device"]
    guest.python("os.close(port)")
    guest.plug_port()
    again = "port = result = attempt(open_port, name)"
    PUMP.wait_for(
        lambda: isinstance(guest.python(again, name=HINT_PORT), int), "the port again", step=0.05
    )
    assert look(guest) == [["IN", "HUP"], "", "BlockingIOError"]
