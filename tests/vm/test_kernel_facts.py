"""What this project assumes of kernels and QEMU, on each kernel that the tests have.

A kernel or a QEMU that behaves differently fails here first, and not somewhere in the
agent's own tests.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm import kernels
from tests.vm.conftest import ANNOUNCED, CARD, MAC, ONE_ADDRESS
from tests.vm.frames import Announcement
from tests.vm.qemu import HINT_PORT, Card, QemuMachine
from tests.vm.receiver import wait_for

E1000 = Card("net1", "52:54:00:00:00:02", model="e1000")
ANNOUNCE_SELF = {"initial": 50, "max": 100, "rounds": 1, "step": 50}  # milliseconds

# What a port looks like to a program that has it open.
PORT = """
import os, select
from guest_control import open_port

def poll_bits():
    poller = select.poll()
    poller.register(port, select.POLLIN | select.POLLOUT)
    bits = dict(poller.poll(0)).get(port, 0)
    names = {1: "IN", 4: "OUT", 8: "ERR", 16: "HUP"}
    return [name for bit, name in names.items() if bits & bit]

def attempt(call, *arguments):
    try:
        got = call(*arguments)
        return got.decode() if isinstance(got, bytes) else got
    except OSError as error:
        return os.strerror(error.errno)
"""
AGAIN, BUSY = "Resource temporarily unavailable", "Device or resource busy"
NO_HOST = [["IN", "HUP"], "", AGAIN]


@pytest.fixture(scope="module", params=kernels.KERNELS)
def guest(request: pytest.FixtureRequest) -> Iterator[QemuMachine]:
    """The same guest with each kernel; the full one has a driver for emulated hardware too."""
    cards = [CARD, E1000] if request.param == "bookworm" else [CARD]
    with QemuMachine(cards=cards, kernel=request.param) as booted:
        booted.shell(ONE_ADDRESS)
        if E1000 in cards:
            booted.insert("e1000")
            booted.ip("addr add 198.51.100.1/24 dev eth1\nlink set eth1 up")
            path = "/sys/class/net/eth1/operstate"
            booted.wait_until(lambda: booted.read(path) == "up\n", "eth1 up")
        booted.python(PORT)
        yield booted


def test_announce_self_reaches_the_kernel_as_notify_peers_of_virtio_cards_only(
    guest: QemuMachine,
) -> None:
    cable, monitor = guest.cables["net0"], guest.spawn("ip", "monitor", "link")

    def heard() -> bool:
        """Whether the monitor, which takes its time to start, has seen the event."""
        guest.qmp("announce-self", **ANNOUNCE_SELF)
        return "event NOTIFY PEERS" in monitor.output

    guest.wait_until(heard, "the event")
    monitor.kill()
    # QEMU pads its RARP, as the agent pads its frames; the kernel does not pad.
    cable.wait_for_agent(Announcement("rarp", MAC))
    wait_for(lambda: set(cable.announcements(padded=False)) == {ANNOUNCED}, "the kernel's ARP")
    if "net1" in guest.cables:
        guest.cables["net1"].wait_for_agent(Announcement("rarp", E1000.mac))
        assert "eth1" not in monitor.output
        assert guest.cables["net1"].announcements(padded=False) == []


def look(guest: QemuMachine) -> list[object]:
    """Poll bits, what a read gives, what a write gives."""
    source = "[poll_bits(), attempt(os.read, port, 4096), attempt(os.write, port, b'x\\n')]"
    seen: list[object] = guest.python(f"result = {source}")
    return seen


def wait_for_bits(guest: QemuMachine, *bits: str) -> None:
    """Wait for these poll bits: the guest is told of changes by interrupts, a little later."""
    wait_for(
        lambda: guest.python("result = poll_bits()") == list(bits), f"poll bits {bits}", step=0.02
    )


def test_port_in_each_state_of_its_host(guest: QemuMachine) -> None:
    guest.python("port = open_port(name)", name=HINT_PORT)
    assert guest.python("result = attempt(open_port, name)", name=HINT_PORT) == BUSY
    assert look(guest) == NO_HOST

    with guest.hint() as host:
        wait_for_bits(guest, "OUT")
        assert look(guest) == [["OUT"], AGAIN, 2]
        assert wait_for(host.take_lines, "a line") == [b"x"]
        host.send(b"a line\n")
        wait_for_bits(guest, "IN", "OUT")
        assert look(guest) == [["IN", "OUT"], "a line\n", 2]
        host.send(b"unread\n")
        wait_for_bits(guest, "IN", "OUT")
    wait_for_bits(guest, "IN", "HUP")
    assert look(guest) == [["IN", "HUP"], "unread\n", AGAIN]
    assert look(guest) == NO_HOST

    with guest.hint() as host:
        wait_for_bits(guest, "OUT")
        host.send(b"then half closed\n")
        host.half_close()
        wait_for_bits(guest, "IN", "HUP")
        assert look(guest) == [["IN", "HUP"], "then half closed\n", AGAIN]

    guest.unplug_port()
    wait_for_bits(guest, "HUP")
    assert look(guest) == [["HUP"], "No such device", "No such device"]
    guest.python("os.close(port)")
    guest.plug_port()
    again = "port = result = attempt(open_port, name)"
    wait_for(
        lambda: isinstance(guest.python(again, name=HINT_PORT), int), "the port again", step=0.05
    )
    assert look(guest) == NO_HOST
