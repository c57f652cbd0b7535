"""Forwarding tables that are read together and one by one are the same.  Numbers: neighbour.h."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core import bridge_tables
from garp_agent.hypervisor.core.bridge_tables import PortAddresses, TableEntry, read_entry
from garp_agent.hypervisor.core.learning_state import LEARNING_TABLES
from garp_agent.wire import rtnetlink
from garp_agent.wire.rtnetlink import DecodeError, attribute
from tests import golden
from tests.hypervisor.core.learning import Host, bridge, guest, port
from tests.world import property_settings

BRIDGE, PORT, UPLINK = 10, 20, 3


def message(number: int, **changes: Any) -> bytes:
    """A message for guest(number) as Linux 6 writes it, but for the changes."""
    given_values = {"type": 28, "multi": 2, "family": 7, "port": PORT, "state": 2, "flags": 0}
    values = {**given_values, "extended": 0, "vlan": 0, "order": (2, 9, 15, 3, 5), **changes}
    of_type = {
        2: guest(number),
        9: struct.pack("=I", BRIDGE),
        15: struct.pack("=I", values["extended"]),
        3: struct.pack("=IIII", 0, 0, number, 0),
        5: struct.pack("=H", values["vlan"]),
        6: struct.pack("=H", 9),  # NDA_PORT
    }
    chosen = [each for each in values["order"] if each != 5 or values["vlan"]]
    head = (values[each] for each in ("family", "port", "state", "flags"))
    body = struct.pack("=BxxxIHBx", *head)
    body += b"".join(attribute(each, of_type[each]) for each in chosen)
    return struct.pack("=IHHII", 16 + len(body), values["type"], values["multi"], 1, 0) + body


def one_by_one(datagram: bytes) -> list[Any]:
    return rtnetlink.decode({rtnetlink.RTM_NEWNEIGH: read_entry}, datagram)


def entries(decoded: list[Any]) -> list[Any]:
    """Return what was decoded, with the addresses of ports as entries."""
    found: list[Any] = []
    for each in decoded:
        if not isinstance(each, PortAddresses):
            found.append(each)
            continue
        for number, age in each.ages.items():
            mac, vlan = struct.unpack("=6sH", struct.pack("=Q", number))
            found.append(TableEntry(mac, *each[:2], vlan, age, each.is_trusted))
    return found


MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from([28, 29, 2]),
            "multi": st.sampled_from([0, 2, 18]),  # 18: a dump that changes interrupted
            "family": st.sampled_from([7, 2]),
            "port": st.sampled_from([PORT, PORT + 1]),
            "state": st.sampled_from([0x80, 0x40]),  # permanent; no ARP
            "flags": st.sampled_from([0x02, 0x10, 0x04]),  # self, told by others, master
            "extended": st.sampled_from([2, 1]),  # locked, managed
            "vlan": st.sampled_from([1, 4094]),
            "order": st.sampled_from(
                [(2,), (2, 9, 3), (5, 3, 15, 9, 2), (2, 3, 9, 15, 5), (2, 9, 15, 3, 6)]
            ),
        },
    ),
    max_size=12,
)


@given(MESSAGES, st.integers(0, 40))
@property_settings(300)
def test_entries_read_together_are_those_read_one_by_one(
    changes: list[dict[str, Any]], cut: int
) -> None:
    whole = b"".join(message(number, **each) for number, each in enumerate(changes))
    for datagram in (whole, whole[: max(0, len(whole) - cut)]):
        try:
            expected = one_by_one(datagram)
        except DecodeError:
            with pytest.raises(DecodeError):
                LEARNING_TABLES.decode(datagram)
            continue
        assert entries(LEARNING_TABLES.decode(datagram)) == expected


@pytest.mark.parametrize("vlans", [(0,), (7,), (0, 7)])
def test_messages_of_the_usual_form_are_all_read_together(vlans: tuple[int, ...]) -> None:
    numbers = range(20)
    datagram = b"".join(message(n, vlan=vlans[n % len(vlans)]) for n in numbers)
    [found], offset = bridge_tables.read_usual(datagram)
    assert offset == len(datagram)
    assert (found.port_ifindex, found.bridge_ifindex, len(found.ages)) == (PORT, BRIDGE, 20)


def test_recorded_table_read_together_has_the_same_entries() -> None:
    recorded = golden.read("topology/learning-table")
    assert entries(LEARNING_TABLES.decode(recorded)) == one_by_one(recorded)


def test_memory_keeps_the_same_of_entries_read_together() -> None:
    datagram = b"".join(
        message(number, port=where, vlan=number % 3, extended=number // 9)
        for number, where in enumerate([PORT, PORT, UPLINK, PORT + 1, PORT + 1, UPLINK] * 3)
    )
    kept = []
    for decoded in (LEARNING_TABLES.decode(datagram), one_by_one(datagram)):
        host = Host(bridge(BRIDGE, "br0"), port(PORT, "p0", BRIDGE), port(PORT + 1, "p1", BRIDGE))
        host.hear(50.0, sent=[PORT, PORT + 1])
        host.hear(100.0, *decoded)
        ports = [sorted(host.memory.heard(each)) for each in (PORT, PORT + 1)]
        untrusted = [host.memory.untrusted(each) for each in (PORT, PORT + 1)]
        kept.append((ports, sorted(host.memory.outside(BRIDGE)), untrusted))
    assert kept[0] == kept[1]
    assert all(kept[0][0])
    assert kept[0][1]
