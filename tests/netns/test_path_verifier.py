"""The watcher's path verifier: real ports and tables of this machine, in a bond that is made up.

The kernel of a test machine may have no bonds; tests/vm has a real one, and the whole watcher.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bench import lab
from garp_agent.hypervisor.core.bonds import Follower
from garp_agent.hypervisor.core.failover_record import AddressesReached, PathForwards, PathLost
from garp_agent.hypervisor.core.linkstate import (
    LINK_UP,
    LINKS,
    STATE_LISTENING,
    Bond,
    BondPort,
    LinkReport,
)
from garp_agent.hypervisor.daemon import NO_PROBES
from garp_agent.hypervisor.guest_path_lookup import dumped
from garp_agent.hypervisor.io.probe_socket import ProbeSender
from garp_agent.hypervisor.path_verifier import (
    HOLD,
    LATELY,
    NEWS,
    PROOF_LASTS,
    READ_TABLES,
    PathVerifier,
)
from garp_agent.runtime.exits import EXIT_NO_PERMISSION
from garp_agent.runtime.reactor import Reactor
from tests.hypervisor.watching import COMMAND, ENVIRONMENT, run, watching
from tests.world import mac

BOND = 900  # ifindex
GUEST = "52:54:00:12:34:56"
PATIENCE = 30.0
WITHOUT = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")
NAMES = frozenset({"bond0", "br0"})


class Network(lab.Lab):
    """guest eth0 -- tap host; host eth0, eth1 -- switch.  eth0 is the active port."""

    roles = ("guest", "host", "switch")

    def build(self) -> None:
        self.wire(
            ("guest", "eth0", "host", "tap"),
            ("host", "eth0", "switch", "port-a"),
            ("host", "eth1", "switch", "port-b"),
        )
        self.bridge("switch", "port-a", "port-b")
        self.ip("switch", "link set port-a up", "link set port-b up")
        self.bridge("host", "tap")
        self.ip("host", "link set tap up", "link set br0 address 02:00:5e:00:53:0a")
        self.host("guest", "eth0", GUEST)
        for port in ("eth0", "eth1"):  # the ports of a bond have one MAC
            self.host("host", port, "02:00:5e:00:53:0a")
        self.wait_until_up("guest", "host", "switch")
        self.send("guest", "eth0", GUEST)
        self.follower = Follower()
        with self.entered("host"):
            for event in dumped(LINKS, PATIENCE):
                self.follower.handle(event, 0.0)
        links = self.follower.table.links
        self.index = {link.name: link.ifindex for link in links.values()}
        bond = links[self.index["eth0"]]._replace(
            ifindex=BOND,
            name="bond0",
            kind="bond",
            port_kind="bridge",
            lower_ifindex=0,
            master_ifindex=self.index["br0"],
            bond=Bond(1, self.index["eth0"]),
        )
        self.follower.handle(LinkReport(bond), 0.0)
        for name in ("eth0", "eth1"):
            self.put(name)

    def add_third_port(self) -> None:
        """Give the bond eth2, with its end port-c in the switch."""
        self.wire(("host", "eth2", "switch", "port-c"))
        self.ip("switch", "link set port-c master br0 up")
        self.host("host", "eth2", "02:00:5e:00:53:0a")
        self.wait_until_up("host", "switch")
        with self.entered("host"):
            for event in dumped(LINKS, PATIENCE):
                if isinstance(event, LinkReport) and event.link.name == "eth2":
                    self.index["eth2"] = event.link.ifindex
                    self.follower.handle(event, 0.0)
        self.put("eth2")

    def put(self, name: str, **changes: Any) -> None:
        """Make a link a port of the bond."""
        link = self.follower.table.links[self.index[name]]
        port = link._replace(
            kind="",
            master_ifindex=BOND,
            port_kind="bond",
            lower_ifindex=0,
            bond_port=BondPort(False, LINK_UP),
        )
        self.follower.handle(LinkReport(port._replace(**changes)), 0.0)

    def send(self, role: str, port: str, source: str) -> None:
        """Send a broadcast with this source; return when the host, or the switch, has it."""
        listener = ("host", "tap") if role == "guest" else ("switch", "port-a")
        with self.packet_socket(*listener) as heard, self.packet_socket(role, port) as out:
            heard.settimeout(PATIENCE)
            out.send(bytes([255] * 6) + mac(source) + b"\x88\xb6" + bytes(46))
            while heard.recv(2048)[6:12] != mac(source):
                pass

    def forward(self, port: str, forwards: bool) -> None:
        state = 3 if forwards else 1  # BR_STATE_FORWARDING, BR_STATE_LISTENING
        self.ip("switch", f"link set {port} type bridge_slave state {state}")


class Running:
    """A verifier in the host's namespace."""

    def __init__(self, network: Network, read_tables: float = READ_TABLES) -> None:
        with network.entered("host"):
            self._reactor = Reactor()
            self.verifier = PathVerifier(
                network.follower, self._reactor, ProbeSender(), read_tables
            )
        self._network = network
        self.events: list[PathForwards | PathLost | AddressesReached] = []

    def close(self) -> None:
        self.verifier.close()
        self._reactor.close()

    def until(self, condition: Callable[[], object]) -> None:
        """Run until a condition holds."""
        end = time.monotonic() + PATIENCE
        while not condition():
            now = time.monotonic()
            assert now < end, f"it did not come: {self.events}"
            with self._network.entered("host"):  # sockets are opened on demand
                self.events += self.verifier.advance(now)
                ready = self._reactor.wait(min(self.verifier.deadline(), now + 0.2))
                self._reactor.call(ready, time.monotonic())

    def prove(self) -> None:
        """Run until the check at the start has seen the path forward."""
        self.until(lambda: self.verifier.proven)

    def begin(self, number: int) -> bool:
        with self._network.entered("host"):
            return self.verifier.begin(number, NAMES, time.monotonic())

    def last(self) -> AddressesReached:
        return [each for each in self.events if isinstance(each, AddressesReached)][-1]

    def forwards(self) -> list[PathForwards]:
        return [each for each in self.events if isinstance(each, PathForwards)]


@pytest.fixture
def network(labs: None) -> Iterator[Network]:
    with Network() as made:
        yield made


def test_addresses_are_reached_when_the_network_has_learnt_them(network: Network) -> None:
    with closing(Running(network)) as running:
        running.prove()
        assert running.events == []  # the check at the start belongs to no failover
        network.send("host", "eth1", GUEST)  # the switch has the guest behind the standby port
        running.begin(7)
        running.until(running.forwards)
        running.until(lambda: running.events and running.last().found.reached == 1)
        assert (running.last().ports, running.last().is_over) == (frozenset({"br0"}), False)
        assert running.last().found.addresses == 2
        network.send("host", "eth0", GUEST)
        running.until(lambda: running.last().is_over)
    found = running.last().found
    assert running.last()[::2] == (7, frozenset({"br0", "tap"}))
    assert found.forwards_after is not None
    assert found.slowest is not None
    assert (found.reached, found.slowest > found.forwards_after) == (2, True)
    assert [each.number for each in running.forwards()] == [7]


def test_many_addresses_that_are_reached_are_reported_together(network: Network) -> None:
    """The watcher looks at all guests at each report."""
    guests = [f"52:54:00:00:00:{number:02x}" for number in range(40)]
    for guest in guests:
        network.send("guest", "eth0", guest)
        network.send("host", "eth0", guest)
    network.send("host", "eth0", GUEST)
    with closing(Running(network)) as running:
        running.prove()
        began = time.monotonic()
        running.begin(1)
        running.until(lambda: running.events and running.last().found.reached > len(guests))
        seconds = time.monotonic() - began
    reports = [each for each in running.events if isinstance(each, AddressesReached)]
    assert len(reports) <= 2 + seconds / NEWS


def test_path_that_forwards_late_is_reported_as_late(network: Network) -> None:
    with closing(Running(network)) as running:
        running.prove()
        network.forward("port-a", False)
        running.begin(1)
        began = time.monotonic()
        running.until(lambda: time.monotonic() > began + 0.2)
        assert running.forwards() == []
        network.forward("port-a", True)
        running.until(running.forwards)
    assert running.forwards() == [PathForwards(1, True)]


def test_newer_failover_replaces_the_check_of_an_older_one(network: Network) -> None:
    with closing(Running(network)) as running:
        running.prove()
        network.forward("port-a", False)
        running.begin(1)
        network.forward("port-a", True)
        running.begin(2)
        running.until(running.forwards)
    assert {each.number for each in running.events} == {2}


def test_sockets_of_an_older_check_are_closed_only_when_no_failover_is_new(
    network: Network,
) -> None:
    """Closing one can wait for the kernel, and frames and replies would wait with it."""

    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    with closing(Running(network)) as running:
        running.prove()
        proven = opened()  # with the sockets of the proof
        network.forward("port-a", False)
        running.begin(1)
        running.begin(2)
        assert opened() == proven + 4
        running.until(lambda: opened() == proven)  # those of the second check instead
        assert running.verifier.checked


def test_hints_wait_for_a_port_that_got_its_carrier_lately(network: Network) -> None:
    with closing(Running(network)) as running:
        running.verifier.note_links(0.0)
        running.prove()
        assert running.verifier.hold(NAMES, 0.0) == 0.0  # it had its carrier before the start
        network.put("eth0", flags=0)
        running.verifier.note_links(100.0)
        assert running.verifier.hold(NAMES, 100.0) == 0.0  # no carrier: no path to wait for
        network.put("eth0", flags=network.follower.table.links[network.index["eth1"]].flags)
        running.verifier.note_links(200.0)
        assert running.verifier.hold(NAMES, 200.0) == HOLD
        assert running.verifier.hold(frozenset({"br0"}), 200.0) == 0.0  # no bond is in it
        assert running.verifier.hold(NAMES, 200.0 + LATELY) == 0.0
        network.put("eth1", flags=0)
        running.verifier.note_links(210.0)
        network.put("eth1", flags=network.follower.table.links[network.index["eth0"]].flags)
        running.verifier.note_links(220.0)
        assert running.verifier.hold(NAMES, 230.0) == 0.0  # eth1 may not forward yet


@pytest.mark.parametrize(("away", "hold"), [(PROOF_LASTS / 2, HOLD), (PROOF_LASTS + 1, 0.0)])
def test_proof_is_not_used_for_a_port_that_was_down_for_long(
    network: Network, away: float, hold: float
) -> None:
    with closing(Running(network)) as running:
        running.verifier.note_links(0.0)
        running.prove()
        back = time.monotonic() + away
        network.put("eth0", flags=0)
        running.verifier.note_links(back - 1.0)
        network.put("eth0", flags=network.follower.table.links[network.index["eth1"]].flags)
        running.verifier.note_links(back)
        assert running.verifier.hold(NAMES, back) == hold


def test_hints_do_not_wait_where_the_path_has_never_worked(network: Network) -> None:
    network.forward("port-b", False)
    with closing(Running(network)) as running:
        running.verifier.note_links(0.0)
        running.until(lambda: running.verifier.is_checking)
        network.put("eth0", flags=0)
        running.verifier.note_links(100.0)
        network.put("eth0", flags=network.follower.table.links[network.index["eth1"]].flags)
        running.verifier.note_links(200.0)
        assert running.verifier.hold(NAMES, 200.0) == 0.0


def test_proof_does_not_outlive_a_change_in_the_network(network: Network) -> None:
    """Otherwise hints would wait for a path that probes can never show."""
    ports = {network.index["eth0"], network.index["eth1"]}
    with closing(Running(network, read_tables=0.1)) as running:
        running.until(lambda: running.verifier.proven.keys() == ports)
        network.forward("port-b", False)
        running.until(lambda: running.verifier.proven.keys() == {network.index["eth0"]})
        network.forward("port-b", True)
        running.until(lambda: running.verifier.proven.keys() == ports)
    assert running.events == []


@pytest.mark.parametrize(("far", "joined"), [("port-b", "eth2"), ("port-c", "eth1")])
def test_standby_port_that_is_joined_is_asked_before_one_that_is_not(
    network: Network, far: str, joined: str
) -> None:
    network.add_third_port()
    network.forward(far, False)
    with closing(Running(network)) as running:
        running.until(lambda: running.verifier.proven and not running.verifier.is_checking)
        assert running.verifier.proven.keys() == {network.index["eth0"], network.index[joined]}
        running.begin(7)
        running.until(running.forwards)


def test_standby_port_that_got_its_carrier_lately_is_asked_last(network: Network) -> None:
    network.add_third_port()
    with closing(Running(network)) as running:
        running.verifier.note_links(0.0)
        running.until(lambda: len(running.verifier.proven) == 3)
        now = time.monotonic()
        network.put("eth1", flags=0)
        running.verifier.note_links(now)
        network.put("eth1", flags=network.follower.table.links[network.index["eth2"]].flags)
        running.verifier.note_links(now)
        network.forward("port-b", False)
        running.begin(7)
        running.until(running.forwards)


def test_check_is_given_up_when_the_standby_port_loses_its_carrier(network: Network) -> None:
    """No probe could show the path any more, so hints must not wait for one."""
    with closing(Running(network)) as running:
        running.verifier.note_links(0.0)
        running.prove()
        network.forward("port-a", False)
        running.begin(7)
        network.put("eth1", flags=0)
        running.verifier.note_links(time.monotonic())
        running.until(lambda: running.events)
        assert running.events == [PathLost(7)]
        assert not running.verifier.is_checking
        assert len(running.verifier.proven) == 2  # that says nothing about the network


def test_check_goes_on_with_another_standby_port(network: Network) -> None:
    network.add_third_port()
    with closing(Running(network)) as running:
        running.prove()
        network.forward("port-a", False)
        running.begin(7)
        network.put("eth1", flags=0)
        running.verifier.note_links(time.monotonic())
        running.until(lambda: (BOND, network.index["eth2"]) in running.verifier.checked)
        network.forward("port-a", True)
        running.until(running.forwards)


def test_check_without_an_address_to_probe_does_not_begin(network: Network) -> None:
    """So that no hint waits for it."""
    with closing(Running(network)) as running:
        running.prove()
        assert running.begin(1)
        bond = network.follower.table.links[BOND]
        network.follower.handle(LinkReport(bond._replace(port_state=STATE_LISTENING)), 0.0)
        assert not running.begin(2)


@pytest.mark.parametrize(
    ("options", "prefix", "why_not"),
    [
        ((), (), None),
        (("--verify",), (), None),
        ((), WITHOUT, NO_PROBES),
        (("--no-verify",), (), "--no-verify was given"),
    ],
)
def test_watcher_verifies_where_it_may_unless_told_otherwise(
    tiny_lab: lab.TinyLab,
    short_path: Path,
    options: tuple[str, ...],
    prefix: tuple[str, ...],
    why_not: str | None,
) -> None:
    inside = ("ip", "netns", "exec", tiny_lab.namespace("guest"), *prefix)
    with watching(short_path, *options, prefix=inside) as watcher:
        told = watcher.ask()
        assert (told["verifies"], told["not_verified"]) == (why_not is None, why_not)
        status = run("status", "--status-socket", watcher.status_socket)[1]
        assert ("not verified" in status, str(why_not) in status) == (bool(why_not),) * 2
        code, log = watcher.stop()
    assert (code, log.count("failovers-not-verified")) == (0, int(why_not == NO_PROBES))


def test_watcher_that_must_verify_and_may_not_ends_at_its_start(tmp_path: Path) -> None:
    status_socket = tmp_path / "s"
    command = [*WITHOUT, *COMMAND, "watch", "--verify", "--status-socket", str(status_socket)]
    options: Any = {"capture_output": True, "text": True, "env": ENVIRONMENT, "timeout": PATIENCE}
    done = subprocess.run(command, check=False, **options)
    assert (done.returncode, done.stdout) == (EXIT_NO_PERMISSION, "")
    assert done.stderr.startswith(f"garp-hint: --verify: {NO_PROBES} (Operation not permitted)")
    assert not status_socket.exists()
