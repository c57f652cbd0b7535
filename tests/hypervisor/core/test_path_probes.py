"""Path probes: their bytes against scapy, their filter attached to a socket of this kernel."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from garp_agent.hypervisor.core import linkstate
from garp_agent.hypervisor.core.learning_plan import OWN, LearningEntry
from garp_agent.hypervisor.core.links import LinkTable
from garp_agent.hypervisor.core.linkstate import (
    Bond,
    BondPort,
    LinkReport,
    LinkSnapshot,
    VlanTag,
)
from garp_agent.hypervisor.core.path_probes import (
    OTHER_MODE,
    BondLeftOut,
    ProbePath,
    ProbePlan,
    ProbeSeen,
    ProbeTarget,
    decode_probe,
    encode_probe,
    plan_probe_paths,
    probe_filter,
    probe_source,
    targets_behind,
)
from tests.guest.core.test_bpf import kernel_filter
from tests.world import NO_CARRIER, RUNNING, mac, property_settings

GUEST = mac("52:54:00:12:34:56")
SOURCE = mac("02:00:5e:00:53:01")
RUN = b"\x01\x02\x03\x04\x05\x06\x07\x08"
C, S = 0x8100, 0x88A8

macs = st.binary(min_size=6, max_size=6)
runs = st.binary(min_size=8, max_size=8)
tag_lists = st.lists(st.tuples(st.sampled_from([C, S]), st.integers(1, 4094)), max_size=3).map(
    tuple
)


@pytest.mark.parametrize(
    ("tags", "written"),
    [
        ((), ""),
        (((C, 100),), "8100 0064"),
        (((S, 50), (C, 7)), "88a8 0032 8100 0007"),
    ],
)
def test_probe_frame_has_these_bytes(tags: tuple[tuple[int, int], ...], written: str) -> None:
    frame = encode_probe(GUEST, SOURCE, tags, RUN, 258)
    header = f"525400123456 02005e005301 {written} 88b5 0102030405060708 00000102"
    assert frame.rstrip(b"\0") == bytes.fromhex(header)
    assert len(frame) == 60 + 4 * len(tags)


@property_settings(200)
@given(macs, macs, tag_lists, runs, st.integers(0, 2**32 - 1))
def test_probe_frame_is_read_alike_by_scapy_and_by_the_decoder(
    destination: bytes,
    source: bytes,
    tags: tuple[tuple[int, int], ...],
    run: bytes,
    sequence: int,
) -> None:
    frame = encode_probe(destination, source, tags, run, sequence)
    layer: Packet = Ether(frame)
    assert (layer.dst, layer.src) == (destination.hex(":"), source.hex(":"))
    seen = []
    kind = layer.type
    while isinstance(layer.payload, (Dot1Q, Dot1AD)):
        layer = layer.payload
        seen.append((kind, layer.vlan))
        kind = layer.type
    assert (tuple(seen), kind) == (tags, 0x88B5)
    assert bytes(layer.payload)[:12] == run + sequence.to_bytes(4, "big")
    assert decode_probe(frame, run) == ProbeSeen(sequence, tags)
    if tags:  # as the kernel delivers it
        assert decode_probe(frame[:12] + frame[16:], run, tags[0]) == ProbeSeen(sequence, tags)
    assert decode_probe(frame, bytes(each ^ 1 for each in run)) is None


@property_settings(200)
@given(st.binary(max_size=80), st.none() | st.tuples(st.integers(0, 65535), st.integers(0, 65535)))
def test_decoder_takes_any_bytes(frame: bytes, stripped: tuple[int, int] | None) -> None:
    assert decode_probe(frame, RUN, stripped) is None


def test_priority_tag_is_no_vlan_and_priority_bits_are_no_part_of_one() -> None:
    frame = encode_probe(GUEST, SOURCE, (), RUN, 7)
    assert decode_probe(frame, RUN, (C, 0xE000)) == ProbeSeen(7, ())
    assert decode_probe(frame, RUN, (C, 0xE064)) == ProbeSeen(7, ((C, 100),))


def frame_of(*layers: object, kind: int = 0x88B5, run: bytes = RUN) -> bytes:
    packet = Ether(dst=GUEST.hex(":"), src=SOURCE.hex(":"))
    for layer in layers:
        packet = packet / layer
    packet.lastlayer().type = kind
    return bytes(packet / Raw(run + bytes(40)))


def test_filter_passes_the_probes_of_its_run_only() -> None:
    other = [RUN[:3] + b"\0" + RUN[4:], RUN[:7] + b"\0"]
    tagged = [(), (Dot1Q(vlan=100),), (Dot1AD(vlan=50), Dot1Q(vlan=7))]
    with kernel_filter(probe_filter(RUN)) as passes:
        for layers in tagged:
            assert passes(frame_of(*layers))
            assert not passes(frame_of(*layers, kind=0x0806))
            assert not any(passes(frame_of(*layers, run=each)) for each in other)
        assert not passes(frame_of()[:20])
        assert not passes(b"")


@property_settings(100)
@given(macs, tag_lists, runs, st.integers(0, 2**32 - 1), st.booleans())
def test_filter_agrees_with_the_decoder(
    destination: bytes, tags: tuple[tuple[int, int], ...], run: bytes, sequence: int, own: bool
) -> None:
    frame = encode_probe(destination, SOURCE, tags, run if own else RUN, sequence)
    with kernel_filter(probe_filter(run)) as passes:
        assert passes(frame) == (decode_probe(frame, run) is not None)


# -- between which ports ----------------------------------------------------------------

UP, BROKEN = BondPort(False, linkstate.LINK_UP), BondPort(False, linkstate.LINK_FAIL)


def bond(ifindex: int, name: str, active: int, mode: int = 1) -> LinkSnapshot:
    return LinkSnapshot(ifindex, name, RUNNING, kind="bond", bond=Bond(mode, active))


def port(ifindex: int, master: int, flags: int = RUNNING, state: BondPort = UP) -> LinkSnapshot:
    name = f"eth{ifindex}"
    return LinkSnapshot(ifindex, name, flags, master, port_kind="bond", bond_port=state)


def planned(*links: LinkSnapshot, names: tuple[str, ...] = ()) -> ProbePlan:
    table = LinkTable()
    for link in links:
        table.apply(LinkReport(link))
    return plan_probe_paths(table, names)


def test_each_standby_port_with_carrier_is_the_start_of_a_path() -> None:
    found = planned(
        bond(9, "bond0", active=2),
        *(port(2, 9), port(3, 9), port(4, 9), port(5, 9, NO_CARRIER), port(6, 9, state=BROKEN)),
    )
    assert found == ProbePlan((ProbePath(9, 3, 2), ProbePath(9, 4, 2)), ())


@pytest.mark.parametrize(
    ("links", "reason", "is_fault"),
    [
        ([bond(9, "b", 2, mode=4), port(2, 9), port(3, 9)], OTHER_MODE, False),
        ([bond(9, "b", 0), port(2, 9, NO_CARRIER)], "it has no active port with carrier", True),
        (
            [bond(9, "b", 2), port(2, 9, NO_CARRIER), port(3, 9)],
            "it has no active port with carrier",
            True,
        ),
        ([bond(9, "b", 2), port(2, 9)], "eth2 is its only port", True),
        (
            [bond(9, "b", 2), port(2, 9), port(3, 9, NO_CARRIER), port(4, 9, state=BROKEN)],
            "its standby port has no carrier: eth3, eth4",
            True,
        ),
    ],
    ids=["other mode", "no active port", "active port down", "one port", "standby down"],
)
def test_bond_without_a_path_is_left_out_with_the_reason(
    links: list[LinkSnapshot], reason: str, is_fault: bool
) -> None:
    assert planned(*links) == ProbePlan((), (BondLeftOut("b", reason, is_fault),))


def test_only_the_bonds_that_are_named_are_looked_at() -> None:
    links = [bond(9, "bond0", 2), port(2, 9), port(3, 9), bond(8, "bond1", 4, mode=4)]
    assert planned(*links, names=("bond0",)) == ProbePlan((ProbePath(9, 3, 2),), ())
    missing = planned(*links, names=("eth2", "bond0"))
    assert missing.left_out == (BondLeftOut("eth2", "there is no such bond", True),)
    other = planned(*links, names=("bond1",))
    assert other.left_out == (BondLeftOut("bond1", OTHER_MODE, True),)


@property_settings(200)
@given(st.lists(macs, min_size=1, max_size=5), st.booleans())
def test_sources_of_probes_are_local_and_differ_between_ports(
    addresses: list[bytes], same: bool
) -> None:
    """Under fail_over_mac=none, which is the default, the ports of a bond have one MAC."""
    addresses = addresses[:1] * len(addresses) if same else addresses
    table = LinkTable()
    ports = [
        port(10 + number, 9)._replace(hardware_address=address)
        for number, address in enumerate(addresses)
    ]
    for each in ports:
        table.apply(LinkReport(each))
    sources = [probe_source(table, each) for each in ports]
    assert [each[1:] for each in sources] == [each[1:] for each in addresses]
    assert all(each[0] & 3 == 2 for each in sources)
    assert not any(source == address for source, address in zip(sources, addresses))
    if same:
        assert len(set(sources)) == len(sources)


def test_each_address_behind_a_bond_is_a_target_of_each_path() -> None:
    paths = [ProbePath(9, 3, 2), ProbePath(9, 4, 2), ProbePath(8, 6, 5)]
    tags = (VlanTag(C, 100),)
    web = LearningEntry(9, "bond0", GUEST, tags, 20, "vnet0", OWN, 1.0)
    other = LearningEntry(7, "bond7", GUEST, (), 21, "vnet1", OWN, 1.0)
    assert targets_behind(paths, [web, other], {"vnet0": "web"}) == (
        ProbeTarget(GUEST, ((C, 100),), paths[0], "web", "vnet0"),
        ProbeTarget(GUEST, ((C, 100),), paths[1], "web", "vnet0"),
    )
    assert targets_behind(paths[:1], [web], {})[0].guest == ""
