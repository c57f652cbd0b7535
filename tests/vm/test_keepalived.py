"""An address that a real keepalived moves away is not announced any more.

A blind periodic announcer would steal the traffic back every few seconds from the
machine that the address has moved to.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

from tests.vm.agent import Agent
from tests.vm.conftest import CARD, MAC
from tests.vm.fabric import checksum
from tests.vm.machine import Machine
from tests.vm.pump import PUMP
from tests.vm.wire import Frame, Told

OWN, VIRTUAL, RIVAL = "192.0.2.1", "192.0.2.200", "192.0.2.2"
CONFIGURATION = f"""
vrrp_instance vip {{
    interface eth0
    state MASTER
    virtual_router_id 51
    priority 100
    advert_int 1
    virtual_ipaddress {{
        {VIRTUAL}/24
    }}
}}
"""


@pytest.fixture(scope="module")
def guest() -> Iterator[Machine]:
    """A guest with keepalived in it."""
    with Machine(cards=[CARD], hint_port=False, extras=True) as booted:
        booted.ip(f"addr add {OWN}/24 dev eth0\nlink set eth0 up")
        booted.write("/etc/keepalived.conf", CONFIGURATION)
        booted.spawn(
            *("keepalived", "--vrrp", "--dont-fork", "--log-console"),
            *("--use-file", "/etc/keepalived.conf"),
        )
        yield booted


def advertisement(priority: int) -> bytes:
    """A VRRPv2 advertisement of another router, RFC 3768 section 5."""
    message = struct.pack("!BBBBBBH4s8x", 0x21, 51, priority, 1, 0, 1, 0, _packed(VIRTUAL))
    message = message[:6] + struct.pack("!H", checksum(message)) + message[8:]
    header = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x45, 0, 20 + len(message), 0, 0, 255, 112, 0),
        _packed(RIVAL),
        _packed("224.0.0.18"),
    )
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return bytes.fromhex("01005e000012 00005e000133 0800") + header + message


def _packed(address: str) -> bytes:
    return IPv4Address(address).packed


def by_the_agent(frame: Frame, address: str) -> bool:
    """keepalived's own announcements are not padded."""
    return frame.padded and frame.told == Told("arp-request", MAC, address)


def addresses(agent: Agent) -> list[str]:
    """What the agent would announce."""
    links = agent.status()["links"]
    return [each["address"] for link in links for each in link["addresses"] if not each["skipped"]]


def test_an_address_that_keepalived_moves(guest: Machine) -> None:
    wire = guest.wires["net0"]
    agent = Agent(guest, interval="200ms").started()
    PUMP.wait_for(lambda: any(by_the_agent(f, VIRTUAL) for f in wire.frames), "the virtual address")

    def moved() -> bool:
        wire.send(advertisement(priority=255))
        return VIRTUAL not in addresses(agent)

    PUMP.wait_for(moved, "keepalived giving way", step=0.2)
    since = wire.mark

    def refreshed() -> bool:
        wire.send(advertisement(priority=255))
        return sum(by_the_agent(frame, OWN) for frame in wire.frames[since:]) >= 10

    PUMP.wait_for(refreshed, "ten more refreshes", step=0.2)
    assert not any(by_the_agent(frame, VIRTUAL) for frame in wire.frames[since:])

    # The rival falls silent, the address comes back, and the agent announces it at once.
    since = wire.mark
    PUMP.wait_for(
        lambda: any(by_the_agent(frame, VIRTUAL) for frame in wire.frames[since:]), "its return"
    )
    agent.stop()
