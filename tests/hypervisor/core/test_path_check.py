"""The check after a failover, against a network that is simulated; the times are given."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether

from garp_agent.hypervisor.core.path_check import PathCheck
from garp_agent.hypervisor.core.path_probes import ProbePath, ProbeSeen, ProbeTarget, decode_probe
from tests.world import mac, property_settings

BOND, STANDBY, ACTIVE = 9, 3, 2
PATH = ProbePath(BOND, STANDBY, ACTIVE)
RUN = b"\x01\x02\x03\x04\x05\x06\x07\x08"
OURS = (mac("02:00:00:00:00:03"), mac("02:00:00:00:00:02"))  # of the standby and the active port
VLAN = ((0x8100, 100),)
ONE = ProbeTarget(mac("52:54:00:00:00:01"), VLAN, PATH, "one")
TWO = ProbeTarget(mac("52:54:00:00:00:02"), VLAN, PATH, "two")
HOST = ProbeTarget(mac("52:54:00:00:00:0a"), (), PATH, "(host)")
BEGAN = 100.0


class Network:
    """Delivers the frames of a check: those of the path from ``opens`` on, others as told."""

    def __init__(self, targets: list[ProbeTarget], opens: float, healed: dict[bytes, float]):
        self.check = PathCheck(PATH, targets, RUN, OURS, BEGAN)
        self.opens = opens
        self.healed = healed  # when the network learns the place of an address
        self.sent: list[tuple[float, int, bytes, bytes]] = []  # time, port, destination, source
        self.opened_at = inf

    def run(self, until: float) -> None:
        """Send what is due, each frame at its time."""
        now = BEGAN
        while now <= until:
            while (out := self.check.next_frame(now)) is not None:
                layer = Ether(out.frame)
                destination, source = mac(layer.dst), mac(layer.src)
                self.sent.append((now, out.port, destination, source))
                self._carry(out.port, destination, out.frame, now)
            now = max(self.check.deadline(), now)

    def _carry(self, port: int, destination: bytes, frame: bytes, now: float) -> None:
        probe = decode_probe(frame, RUN)
        assert probe is not None
        if now < self.opens or now < self.healed.get(destination, BEGAN):
            return
        was_open = self.check.is_open
        self.check.seen(STANDBY if port == ACTIVE else ACTIVE, probe, now)
        if self.check.is_open and not was_open:
            self.opened_at = now

    def times(self, port: int, destination: bytes) -> list[float]:
        return [each[0] for each in self.sent if each[1:3] == (port, destination)]


def test_path_that_forwards_at_once_is_open_at_once_and_addresses_follow() -> None:
    network = Network([HOST, ONE, TWO], BEGAN, {TWO.address: BEGAN + 0.05})
    network.run(BEGAN + 1.0)
    assert network.opened_at == BEGAN
    assert len(network.times(ACTIVE, OURS[0])) == 1  # the other VLAN is not needed any more
    assert network.check.is_over
    assert network.check.delivered == {
        0: BEGAN,
        1: pytest.approx(BEGAN + 0.001),
        2: pytest.approx(BEGAN + 0.062),
    }
    assert network.times(STANDBY, TWO.address) == pytest.approx(
        [BEGAN + each for each in (0.002, 0.022, 0.042, 0.062)]
    )


def test_path_that_forwards_late_is_open_a_tenth_of_a_second_later_at_most() -> None:
    network = Network([ONE], BEGAN + 12.34, {})
    network.run(BEGAN + 13.0)
    assert BEGAN + 12.34 <= network.opened_at < BEGAN + 12.45
    assert network.times(STANDBY, ONE.address) == [network.opened_at]
    path = network.times(ACTIVE, OURS[0])
    gaps = [later - earlier for earlier, later in zip(path, path[1:])]
    assert gaps == pytest.approx([0.1] * 124)
    assert len(network.times(STANDBY, OURS[1])) == 13  # frames that teach: one a second


def test_path_is_probed_in_each_vlan_of_its_addresses() -> None:
    check = PathCheck(PATH, [ONE, TWO, HOST], RUN, OURS, BEGAN)
    vlans = []
    while (out := check.next_frame(BEGAN)) is not None:
        if out.port == ACTIVE:
            probe = decode_probe(out.frame, RUN)
            assert probe is not None
            vlans.append(probe.tags)
    assert vlans == [VLAN, ()]


def test_path_that_never_forwards_is_given_up() -> None:
    network = Network([ONE], inf, {})
    network.run(BEGAN + 1000.0)
    assert network.check.is_over
    assert (network.check.is_open, network.check.delivered) == (False, {})
    assert max(network.times(ACTIVE, OURS[0])) == pytest.approx(BEGAN + 120, abs=0.11)
    assert network.times(STANDBY, ONE.address) == []


def test_address_that_is_never_reached_is_probed_less_and_less() -> None:
    network = Network([ONE], BEGAN, {ONE.address: inf})
    network.run(BEGAN + 1000.0)
    times = network.times(STANDBY, ONE.address)
    counts = [sum(low <= each - BEGAN < high for each in times) for low, high in ((0, 1), (1, 5))]
    assert counts[0] == pytest.approx(30, abs=2)
    assert counts[1] == pytest.approx(40, abs=2)
    assert len(times) < 130
    assert max(times) == pytest.approx(BEGAN + 60, abs=1.1)
    assert network.check.is_over


def test_only_the_right_port_and_vlan_count() -> None:
    check = PathCheck(PATH, [ONE], RUN, OURS, BEGAN)
    out = check.next_frame(BEGAN)
    assert out is not None
    teaching = decode_probe(out.frame, RUN)
    assert teaching is not None
    assert not check.seen(ACTIVE, teaching, BEGAN)
    assert not check.seen(STANDBY, teaching, BEGAN)
    out = check.next_frame(BEGAN)
    assert out is not None
    probe = decode_probe(out.frame, RUN)
    assert probe is not None
    assert not check.seen(ACTIVE, probe, BEGAN)
    assert check.seen(STANDBY, probe, BEGAN)
    assert not check.seen(STANDBY, probe, BEGAN)  # a copy
    assert not check.seen(STANDBY, ProbeSeen(0, VLAN), BEGAN)
    assert not check.seen(ACTIVE, ProbeSeen(0, ()), BEGAN)
    assert not check.seen(ACTIVE, ProbeSeen(7, VLAN), BEGAN)
    assert check.seen(ACTIVE, ProbeSeen(0, VLAN), BEGAN)
    assert not check.seen(ACTIVE, ProbeSeen(0, VLAN), BEGAN)
    assert check.delivered == {0: BEGAN}


@property_settings(25)
@given(
    st.lists(st.floats(0.0, 90.0), min_size=1, max_size=20),
    st.floats(0.0, 150.0),
)
def test_each_address_is_delivered_soon_after_the_network_knows_it(
    heals: list[float], opens: float
) -> None:
    """At most 1,000 frames a second, and each port has one source."""
    targets = [ONE._replace(address=bytes((2, 0, 0, 0, 9, n))) for n in range(len(heals))]
    times = {each.address: BEGAN + after for each, after in zip(targets, heals)}
    network = Network(targets, BEGAN + opens, times)
    network.run(BEGAN + 400.0)
    check = network.check
    assert check.is_over
    assert {(port, source) for _, port, _, source in network.sent} <= {
        (STANDBY, OURS[0]),
        (ACTIVE, OURS[1]),
    }
    if opens > 120.0:
        assert not check.is_open
        return
    for index, target in enumerate(targets):
        known = max(times[target.address], network.opened_at)
        if known < network.opened_at + 59.0:
            wait = 1.1 if known > network.opened_at + 4.9 else 0.11
            assert check.delivered[index] <= known + wait + 0.001 * len(heals)
    sent = [each[0] for each in network.sent]
    assert all(
        sum(at <= each < at + 1.0 for each in sent) <= 1040 for at in sent[:: 1 + len(sent) // 20]
    )
