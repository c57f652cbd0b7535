"""Options of bonds and bridges from the kernel's bytes."""

from __future__ import annotations

from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.diagnosis.host import link_settings
from garp_agent.diagnosis.host.link_settings import BondSettings, BridgeSettings, LinkSettings
from garp_agent.hypervisor.core.bridge_vlans import PortVlans
from garp_agent.wire.rtnetlink import DecodeError, DumpDone
from tests import golden
from tests.world import property_settings


def test_bond_of_the_real_driver_has_its_settings() -> None:
    told = link_settings.decode(golden.read("rtnetlink/link-bond-failover"))
    assert told == [LinkSettings(6, BondSettings(mode=1, miimon=10))]


def attribute(kind: int, value: bytes) -> bytes:
    return pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def link(family: int, *attributes: bytes) -> bytes:
    body = pack("=BxHiII", family, 1, 5, 0, 0) + b"".join(attributes)
    return pack("=IHHII", 16 + len(body), 16, 0, 0, 0) + body


def info(kind: str, *options: bytes) -> bytes:
    data = attribute(1, kind.encode() + b"\0") + attribute(2, b"".join(options))
    return link(0, attribute(18, data))


def test_every_option_of_a_bond_is_read_by_its_number() -> None:
    """The numbers are IFLA_BOND_* in <linux/if_link.h>."""
    numbers = {1: 4, 3: 100, 4: 300, 5: 200, 7: 50, 30: 3, 11: 9, 12: 2, 13: 1, 17: 1}
    bytes_of = {1: 1, 30: 1, 12: 1, 13: 1, 17: 1}
    options = (
        attribute(number, value.to_bytes(bytes_of.get(number, 4), "little"))
        for number, value in numbers.items()
    )
    [told] = link_settings.decode(info("bond", *options))
    assert told == LinkSettings(5, BondSettings(*numbers.values()))


@pytest.mark.parametrize(("stp", "is_on"), [(0, False), (1, True), (2, True)])
def test_bridge_has_its_times_in_seconds(stp: int, is_on: bool) -> None:
    """IFLA_BR_FORWARD_DELAY (1) in hundredths, IFLA_BR_STP_STATE (5)."""
    options = (attribute(1, pack("=I", 1500)), attribute(5, pack("=I", stp)))
    assert link_settings.decode(info("bridge", *options)) == [
        LinkSettings(5, BridgeSettings(is_on, 15.0))
    ]


def test_vlan_tables_of_the_kernel_are_read_too() -> None:
    told = link_settings.decode(golden.read("topology/learning-vlans"))
    assert {type(each) for each in told if not isinstance(each, DumpDone)} == {PortVlans}


def test_links_without_settings_are_left_out() -> None:
    assert link_settings.decode(link(0)) == []
    assert link_settings.decode(info("vlan", attribute(1, b"\5\0"))) == []
    assert link_settings.decode(info("bond")) == []  # a message without the bond's data


@property_settings(200)
@given(st.binary(max_size=64), st.sampled_from((0, 7)), st.sampled_from((18, 26)))
def test_any_bytes_are_decoded_or_refused(junk: bytes, family: int, kind: int) -> None:
    for data in (junk, link(family, attribute(kind, junk))):
        try:
            link_settings.decode(data)
        except DecodeError:
            pass
