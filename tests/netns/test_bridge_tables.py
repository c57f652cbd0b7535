"""The bridges' tables of the running kernel; the times are given."""

from __future__ import annotations

import select
import subprocess
from contextlib import closing

from bench import lab
from garp_agent.hypervisor.bridge_table_reader import BridgeTableReader
from garp_agent.hypervisor.core.guest_ports import GuestPlace, GuestPorts
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import LINKS
from garp_agent.hypervisor.core.topology import Topology
from garp_agent.hypervisor.guest_path_lookup import dumped
from tests.world import mac

PATIENCE = 30.0
GUEST = "52:54:00:12:34:56"


class Ports(GuestPorts):
    """Ports that keep when the tables were read."""

    def __init__(self, table: LinkTable) -> None:
        super().__init__(table, Topology(table))
        self.reads: list[float] = []

    def has_read(self, now: float) -> None:
        self.reads.append(now)
        super().has_read(now)


def test_tables_are_read_again_while_a_guest_is_looked_for(tiny_lab: lab.TinyLab) -> None:
    """At most every 5 s; without such a guest each minute."""
    tiny_lab.ip("guest", "link add br0 up type bridge", "link add near type veth peer far")
    tiny_lab.ip("guest", "link set near up master br0", "link set far up")
    table = LinkTable()
    with lab.entered(tiny_lab.namespace("guest")):
        for event in dumped(LINKS, PATIENCE):
            table.apply(event)
        ports = Ports(table)
        with closing(BridgeTableReader(ports)) as reader:

            def read(now: float) -> None:
                reader.advance(now)
                while now not in ports.reads:
                    assert select.select([reader], [], [], PATIENCE)[0], "no message came"
                    reader.read(now)

            ports.look_for([mac(GUEST)], 0.0)
            read(0.0)
            missing = f"{GUEST} is behind no known port"
            assert ports.place([mac(GUEST)]) == GuestPlace(frozenset(), missing, False)
            command = ["bridge", "fdb", "add", GUEST, "dev", "near", "master", "static"]
            subprocess.run(command, check=True)
            reader.advance(4.9)
            assert reader.deadline() == 5.0
            read(5.0)
            [near] = [link.ifindex for link in table.links.values() if link.name == "near"]
            assert ports.place([mac(GUEST)]) == GuestPlace(frozenset({near}), "", True)
            ports.look_for([mac(GUEST)], 6.0)
            reader.advance(64.9)
            assert reader.deadline() == 65.0
            read(65.0)
            assert ports.reads == [0.0, 5.0, 65.0]


def test_guest_is_found_among_many_entries_in_parts(tiny_lab: lab.TinyLab) -> None:
    """A turn reads a part of the tables, so that it delays no hint."""
    tiny_lab.ip("guest", "link add br0 up type bridge", "link add near type veth peer far")
    tiny_lab.ip("guest", "link set near up master br0", "link set far up")
    table = LinkTable()
    add = "fdb add 52:54:00:00:{:02x}:{:02x} dev near master static\n"
    lines = "".join(add.format(n >> 8, n & 255) for n in range(8000))
    with lab.entered(tiny_lab.namespace("guest")):
        subprocess.run(["bridge", "-batch", "-"], input=lines, text=True, check=True)
        for event in dumped(LINKS, PATIENCE):
            table.apply(event)
        ports = Ports(table)
        with closing(BridgeTableReader(ports)) as reader:
            reader.advance(0.0)
            turns = 0
            while not ports.reads:
                assert select.select([reader], [], [], PATIENCE)[0], "no message came"
                reader.read(0.0)
                turns += 1
    assert turns > 1
