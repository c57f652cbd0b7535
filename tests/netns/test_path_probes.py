"""Path probes between two ports of this machine, through a bridge that is the network.

The driver and its sockets; the real bond is in tests/vm.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from bench import lab
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import LINKS
from garp_agent.hypervisor.core.path_probes import (
    ProbePath,
    ProbeSeen,
    ProbeTarget,
    encode_probe,
)
from garp_agent.hypervisor.core.probe_series import (
    DELIVERED,
    LOST,
    NOT_SENT,
    Pace,
    ProbeResult,
    ProbeSeries,
)
from garp_agent.hypervisor.guest_path_lookup import dumped
from garp_agent.hypervisor.io.bond_switch import activate_port
from garp_agent.hypervisor.io.probe_socket import BATCH, ProbeReceiver, ProbeSender
from garp_agent.hypervisor.probe_driver import WAIT, ProbeDriver
from tests.world import mac

GUEST, OTHER = mac("52:54:00:12:34:56"), mac("52:54:00:12:34:57")
VLAN, STACKED = ((0x8100, 100),), ((0x88A8, 50), (0x8100, 7))
FAR = {"eth0": "port-a", "eth1": "port-b"}  # the switch's ends
PACE = Pace(0.005, 0.01)


class Network(lab.Lab):
    """host eth0, eth1 -- switch; eth0 is the port of a bridge, as of a bond's."""

    roles = ("host", "switch")

    def build(self) -> None:
        self.wire(("host", "eth0", "switch", "port-a"), ("host", "eth1", "switch", "port-b"))
        self.bridge("switch", *FAR.values())
        self.ip("switch", *(f"link set {port} up" for port in FAR.values()))
        self.bridge("host", "eth0")
        self.host("host", "eth0", "02:00:5e:00:53:0a")
        self.host("host", "eth1", "02:00:5e:00:53:0b")
        self.wait_until_up("host", "switch")
        table = LinkTable()
        with self.entered("host"):
            for event in dumped(LINKS, 30.0):
                table.apply(event)
        self.table = table
        index = {link.name: link.ifindex for link in table.links.values()}
        self.path = ProbePath(index["br0"], index["eth1"], index["eth0"])

    def teach(self, port: str, address: bytes, tags: bytes = b"") -> None:
        """Send a frame of a guest out of a port; when it has arrived, the switch knows it."""
        with (
            self.packet_socket("switch", FAR[port]) as heard,
            self.packet_socket("host", port) as out,
        ):
            heard.settimeout(30)
            frame = bytes([255] * 6) + address + tags + b"\x88\xb6" + bytes(46)
            out.send(frame)
            while heard.recv(2048)[6:12] != address:
                pass

    def probe(self, *targets: tuple[bytes, tuple[tuple[int, int], ...]]) -> list[ProbeResult]:
        """Probe from eth1 to eth0."""
        series = ProbeSeries([ProbeTarget(*each, self.path) for each in targets], PACE, rounds=3)
        with self.entered("host"), ProbeDriver(self.table, [self.path]) as driver:
            driver.run_to_end(series)
        return series.results()


@pytest.fixture
def network(labs: None) -> Iterator[Network]:
    with Network() as made:
        yield made


def verdicts(results: list[ProbeResult]) -> list[tuple[str, int]]:
    return [(each.verdict, each.arrived) for each in results]


@pytest.mark.parametrize("tags", [(), VLAN, STACKED], ids=["untagged", "VLAN", "stacked"])
def test_probe_is_delivered_where_the_network_has_the_guest(
    network: Network, tags: tuple[tuple[int, int], ...]
) -> None:
    network.teach("eth0", GUEST)
    network.teach("eth1", OTHER)
    results = network.probe((GUEST, tags), (OTHER, tags))
    assert verdicts(results) == [(DELIVERED, 3), (LOST, 0)]
    assert results[0].fastest is not None
    assert results[1].fastest is None
    network.teach("eth0", OTHER)
    assert verdicts(network.probe((OTHER, tags))) == [(DELIVERED, 3)]


class Stopped(ProbeSeries):
    """A series whose process gets no CPU after it has read the first probes."""

    def seen(self, path_active: int, probe: ProbeSeen, now: float) -> None:
        if not self.arrivals:
            time.sleep(1.1 * WAIT)
        super().seen(path_active, probe, now)


def test_process_that_gets_no_cpu_until_its_wait_is_over_still_reads_all_probes(
    network: Network,
) -> None:
    network.teach("eth0", GUEST)
    rounds = BATCH + 3
    series = Stopped([ProbeTarget(GUEST, (), network.path)], Pace(0.0, 0.0), rounds)
    with network.entered("host"), ProbeDriver(network.table, [network.path]) as driver:
        driver.run_to_end(series)
    assert verdicts(series.results()) == [(DELIVERED, rounds)]


def test_probe_that_cannot_be_sent_is_not_called_lost(network: Network) -> None:
    network.ip("host", "link set eth1 down")
    [result] = network.probe((GUEST, ()))
    assert (result.verdict, result.sent, result.errno) == (NOT_SENT, 0, errno.ENETDOWN)


def test_receiver_takes_frames_that_come_in_and_are_of_its_run(network: Network) -> None:
    """The frames before the last are one that the host sends itself, and one of another run."""
    own, other = b"r" * 8, b"s" * 8
    with network.entered("host"), closing(ProbeReceiver("eth0", own)) as receiver:
        with closing(ProbeSender()) as sender:
            assert sender.send("eth0", encode_probe(GUEST, OTHER, (), own, 1)) == 0
        with network.packet_socket("switch", "port-a") as switch:
            switch.send(encode_probe(GUEST, OTHER, (), other, 2))
            switch.send(encode_probe(GUEST, OTHER, VLAN, own, 3))
        assert select.select([receiver], [], [], 30.0)[0]
        assert receiver.read() == [ProbeSeen(3, VLAN)]


def test_ports_that_do_not_exist_are_reported(network: Network) -> None:
    with network.entered("host"):
        with closing(ProbeSender()) as sender:
            assert sender.send("eth7", bytes(60)) == errno.ENODEV
            assert sender.send("eth\udcff", bytes(60)) == errno.EILSEQ
        with pytest.raises(OSError, match="No such device"):
            ProbeReceiver("eth7", b"r" * 8)
        with pytest.raises(OSError, match="not UTF-8"):
            ProbeReceiver("eth\udcff", b"r" * 8)


def test_probe_leaves_through_the_link_that_has_the_name_now(network: Network) -> None:
    """A card whose driver is loaded again is a new link with the old name."""
    frame = encode_probe(GUEST, OTHER, (), b"r" * 8, 1)
    with network.entered("host"), closing(ProbeSender()) as sender:
        assert sender.send("eth1", frame) == 0
        network.ip("host", "link set eth1 down", "link set eth1 name old1")
        assert sender.send("eth1", frame) == errno.ENODEV
        network.wire(("host", "eth1", "switch", "port-c"))
        network.ip("host", "link set old1 up", "link set eth1 up")
        network.ip("switch", "link set port-c up")
        with network.packet_socket("switch", "port-c") as heard:
            heard.settimeout(30)
            assert sender.send("eth1", frame) == 0
            while heard.recv(2048) != frame:
                pass


def test_switch_of_a_link_that_is_no_bond_is_refused_with_the_reason(network: Network) -> None:
    _bond, standby, active = network.path
    with network.entered("host"), pytest.raises(OSError, match=r"No such device|not supported"):
        activate_port(active, standby)


def test_probe_of_an_earlier_series_does_not_count_for_a_later_one(network: Network) -> None:
    network.teach("eth0", GUEST)
    network.teach("eth1", OTHER)
    series = [
        ProbeSeries([ProbeTarget(each, (), network.path)], PACE, rounds=1)
        for each in (GUEST, OTHER)
    ]
    with network.entered("host"), ProbeDriver(network.table, [network.path]) as driver:
        driver.run(series[0], lambda _now: True)  # it has arrived, and is not read yet
        driver.run_to_end(series[1])
    assert verdicts(series[1].results()) == [(LOST, 0)]


def test_card_accepts_the_own_address_of_a_receiver(network: Network) -> None:
    def addresses() -> str:
        return network.run("host", ["bridge", "fdb", "show", "dev", "eth1"]).stdout

    with network.entered("host"), closing(ProbeReceiver("eth1", b"r" * 8, GUEST)):
        assert f"{GUEST.hex(':')} self permanent" in addresses()
    assert GUEST.hex(":") not in addresses()
