"""Path probes: frames with which the host asks the network where it has a MAC.

A bond in mode active-backup has a standby port.  A frame to a guest's MAC, sent on the standby
port, comes back on the active port if the network has the guest there.  This module knows the
bytes of the frames, the filter of the receiver, and between which ports probes can be sent.  It
opens no socket and judges no result (hypervisor.core.probe_series).

The guest receives the frame too, and ignores it.  The switches learn the source, an address of
the host's own that no other station has.

Sources: IEEE 802, clause 9.2.3 (0x88B5, local experimental EtherType 1); IEEE 802.1Q (tags);
Documentation/networking/bonding.rst.
"""

from __future__ import annotations

from struct import Struct

from garp_agent.hypervisor.core.linkstate import LINK_UP, MODE_ACTIVE_BACKUP
from garp_agent.wire.bpf import (
    DROP,
    JUMP_IF_EQUAL,
    LOAD_BYTE,
    LOAD_HALF,
    LOAD_WORD,
    PACKET_TYPE,
    PASS,
    assembled,
)
from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from garp_agent.hypervisor.core.learning_plan import LearningEntry
    from garp_agent.hypervisor.core.links import LinkTable
    from garp_agent.hypervisor.core.linkstate import LinkSnapshot

    Tags = tuple[tuple[int, int], ...]  # (EtherType, VLAN identifier), the outermost tag first

ETHERTYPE = 0x88B5
TAG_TYPES = (0x8100, 0x88A8)  # C-VLAN and S-VLAN tag
TAGS_MOST = 3
RUN_LENGTH = 8  # bytes
LENGTH_LEAST = 60  # bytes of an untagged frame, without the check sequence
OTHER_MODE = "only a bond in mode active-backup has a standby port"
_PACKET_OUTGOING = 4  # <linux/if_packet.h>
_PORTS_MOST = 63  # of one bond, with a source of its own
_TAG = Struct("!HH")
_TYPE = Struct("!H")
_PAYLOAD = Struct(f"!{RUN_LENGTH}sI")  # run, sequence


class ProbePath(NamedTuple):
    """Two ports of one bond, by ifindex: probes go out of ``standby`` and into ``active``."""

    bond: int
    standby: int
    active: int


class ProbeTarget(NamedTuple):
    """A MAC that is asked for, in one VLAN."""

    address: bytes
    tags: Tags
    path: ProbePath
    guest: str = ""  # name; "": not known
    port: str = ""  # name of the guest port, or of the host's own link that has the address


class ProbeSeen(NamedTuple):
    """A probe that a port has received."""

    sequence: int
    tags: Tags


def probe_source(table: LinkTable, port: LinkSnapshot) -> bytes:
    """Return the source of probes from a port of a bond: its MAC, made a local one of its own.

    The ports of a bond share a MAC as a rule, so the number of the port is in it.  It is the same
    for each run and each role of the port: a switch never sees it move, and port security counts
    one address more.
    """
    others = {each.ifindex for each in table.ports(port.master_ifindex)}
    ports = sorted(others | {port.ifindex})
    number = ports.index(port.ifindex) % _PORTS_MOST + 1
    address = port.hardware_address
    return bytes(((address[0] ^ number << 2) & 0xFE | 0x02,)) + address[1:]


def encode_probe(destination: bytes, source: bytes, tags: Tags, run: bytes, sequence: int) -> bytes:
    """Return a whole frame, padded to 60 bytes and 4 for each tag.

    ``run``: RUN_LENGTH bytes, by which the receiver knows its own probes.  ``sequence``: 32 bits.
    """
    header = destination + source + b"".join(_TAG.pack(*tag) for tag in tags)
    frame = header + _TYPE.pack(ETHERTYPE) + _PAYLOAD.pack(run, sequence)
    return frame.ljust(LENGTH_LEAST + _TAG.size * len(tags), b"\0")


def decode_probe(
    frame: bytes, run: bytes, stripped: tuple[int, int] | None = None
) -> ProbeSeen | None:
    """Return the probe in a frame; None if it is no probe of this run.

    ``stripped``: the outermost tag, if the kernel has taken it out of the frame.  A tag with
    VLAN 0 is only a priority (IEEE 802.1Q, clause 6.9), and left out.
    """
    tags = [stripped] if stripped else []
    at = 12
    while len(frame) >= at + _TAG.size:
        kind, control = _TAG.unpack_from(frame, at)
        if kind not in TAG_TYPES:
            break
        tags.append((kind, control))
        at += _TAG.size
    if len(frame) < at + _TYPE.size + _PAYLOAD.size:
        return None
    (ethertype,) = _TYPE.unpack_from(frame, at)
    found, sequence = _PAYLOAD.unpack_from(frame, at + _TYPE.size)
    if ethertype != ETHERTYPE or found != run:
        return None
    named = ((kind, control & 0xFFF) for kind, control in tags)
    return ProbeSeen(sequence, tuple(tag for tag in named if tag[1]))


def probe_filter(run: bytes) -> bytes:
    """Return a filter that passes received probes of this run: packed struct sock_filter.

    For a socket of all protocols: the bond takes a frame before sockets of its EtherType see it.
    """
    high, low = (int.from_bytes(half, "big") for half in (run[:4], run[4:]))
    program = [(LOAD_BYTE, 0, 0, PACKET_TYPE), (JUMP_IF_EQUAL, 0, 1, _PACKET_OUTGOING), DROP]
    for level in range(TAGS_MOST + 1):
        at = 12 + _TAG.size * level
        program += (
            (LOAD_HALF, 0, 0, at),
            (JUMP_IF_EQUAL, 0, 7, ETHERTYPE),
            (LOAD_WORD, 0, 0, at + 2),
            (JUMP_IF_EQUAL, 1, 0, high),
            DROP,
            (LOAD_WORD, 0, 0, at + 6),
            (JUMP_IF_EQUAL, 1, 0, low),
            DROP,
            PASS,
            (JUMP_IF_EQUAL, 2, 0, TAG_TYPES[0]),
            (JUMP_IF_EQUAL, 1, 0, TAG_TYPES[1]),
            DROP,
        )
    return assembled(program)


def targets_behind(
    paths: Iterable[ProbePath], entries: Iterable[LearningEntry], guests: Mapping[str, str]
) -> tuple[ProbeTarget, ...]:
    """Return all addresses behind the bonds of these paths, once for each path.

    ``guests``: names of guests by guest port.
    """
    return tuple(
        ProbeTarget(
            entry.hardware_address, entry.tags, path, guests.get(entry.port, ""), entry.port
        )
        for path in paths
        for entry in entries
        if entry.bond_ifindex == path.bond
    )


class BondLeftOut(NamedTuple):
    """A bond on which no probe can be sent."""

    bond: str  # name
    reason: str
    is_fault: bool  # the bond has, or should have, a standby port


class ProbePlan(NamedTuple):
    """Between which ports probes can be sent, and why not on other bonds."""

    paths: tuple[ProbePath, ...]
    left_out: tuple[BondLeftOut, ...]


def plan_probe_paths(table: LinkTable, names: tuple[str, ...] = ()) -> ProbePlan:
    """Return the paths of all bonds, or of those with these names."""
    bonds = {link.name: link for link in table.links.values() if link.kind == "bond"}
    paths: list[ProbePath] = []
    left_out: list[BondLeftOut] = []
    for name in sorted(set(names or bonds)):
        found, reason = _paths_of(bonds.get(name), table)
        paths += found
        if reason:
            is_other_mode = reason == OTHER_MODE and not names
            left_out.append(BondLeftOut(name, reason, not is_other_mode))
    return ProbePlan(tuple(paths), tuple(left_out))


def _paths_of(bond: LinkSnapshot | None, table: LinkTable) -> tuple[list[ProbePath], str]:
    if bond is None or bond.bond is None:
        return [], "there is no such bond"
    if bond.bond.mode != MODE_ACTIVE_BACKUP:
        return [], OTHER_MODE
    active = table.links.get(bond.bond.active_ifindex)
    if active is None or not active.has_carrier:
        return [], "it has no active port with carrier"
    ports = sorted(table.ports(bond.ifindex), key=lambda port: port.name)
    others = [port for port in ports if port.ifindex != active.ifindex]
    if not others:
        return [], f"{active.name} is its only port"
    standby = [port for port in others if _is_usable(port)]
    if not standby:
        return [], f"its standby port has no carrier: {', '.join(port.name for port in others)}"
    return [ProbePath(bond.ifindex, port.ifindex, active.ifindex) for port in standby], ""


def _is_usable(port: LinkSnapshot) -> bool:
    return port.has_carrier and (port.bond_port is None or port.bond_port.link == LINK_UP)
