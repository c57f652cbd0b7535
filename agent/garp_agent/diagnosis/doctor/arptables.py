"""The rules of arptables (the kernel's own, not those in nftables): reads and evaluates them.

Source: <linux/netfilter_arp/arp_tables.h>, arpt_do_table().
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from pathlib import Path
from struct import Struct

from garp_agent.diagnosis.doctor.arp_frames import (
    ANY,
    SENDER,
    SENDER_HARDWARE,
    TARGET,
    ArpFrame,
    Hook,
    RuleVerdict,
    equal,
    every,
    inverted,
)
from garp_agent.diagnosis.doctor.facts import ArpTable

_SO_GET_INFO, _SO_GET_ENTRIES = 96, 97
# name, hooks, first entries by hook, policies by hook, entries, bytes
_INFO = Struct("=32s9I")
_ENTRIES = Struct("=32sI4x")  # name, bytes; the entries follow
_OWN_ENTRIES = 4  # of a table without rules: three policies and the end
_HOOKS = {Hook.INPUT: 0, Hook.OUTPUT: 1}  # NF_ARP_IN, NF_ARP_OUT

# arpt_entry: offsets of what it compares (arpt_arp), and of where its target and the next entry are
_INVERSIONS = Struct("=160xH")
_OFFSETS = Struct("=164xHH")
_TARGET = Struct("=H29sB")  # xt_entry_target: size, name, revision; its own bytes follow
_STANDARD = Struct("=i")
# What is compared: offset in the frame, offset and length of the value, offset of the mask, and
# the bit that inverts it (ARPT_INV_*).
_FIELDS = (
    (SENDER.start, 0, 4, 8, 0x4),
    (TARGET.start, 4, 4, 12, 0x8),
    (4, 16, 1, 17, 0x200),  # length of hardware addresses
    (8, 18, 6, 34, 0x10),  # sender's hardware address
    (18, 50, 6, 66, 0x20),  # target's
    (6, 82, 2, 84, 0x40),  # operation
    (0, 86, 2, 88, 0x80),  # hardware type
    (2, 90, 2, 92, 0x100),  # protocol
)
_NAMES = {Hook.INPUT: (94, 126, 0x1), Hook.OUTPUT: (110, 142, 0x2)}  # name, mask, inverting bit
_RETURN = -5  # XT_RETURN
_ACCEPT = 1  # NF_ACCEPT; NF_DROP is 0
# arpt_mangle: the sender's hardware address and address, what is changed, what follows
_MANGLE = Struct("=6s26x4s4xB3xi")
_MANGLE_SENDER_HARDWARE, _MANGLE_SENDER = 0x1, 0x4
_MOST_STEPS = 100_000


def read_arptables() -> ArpTable | None:
    """Return the table `filter`; None without rules, or if it cannot be read."""
    with contextlib.suppress(OSError):
        # Asking for a table makes the kernel load it.
        if "filter" in Path("/proc/net/arp_tables_names").read_text().split():
            return _filter()
    return None


def _filter() -> ArpTable | None:
    name = b"filter"
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
        info = _getsockopt(asking, _SO_GET_INFO, _INFO.pack(name, *[0] * 9))
        _, _, *hooks, entries, size = _INFO.unpack(info)
        first, policies = tuple(hooks[:2]), tuple(hooks[3:5])
        wanted = _ENTRIES.pack(name, size) + bytes(size)
        table = _getsockopt(asking, _SO_GET_ENTRIES, wanted)[_ENTRIES.size :]
    if entries <= _OWN_ENTRIES and all(_verdict_at(table, each) == -2 for each in policies):
        return None
    return ArpTable(table, first, policies)


def _getsockopt(asking: socket.socket, option: int, value: bytes) -> bytes:
    # Python's getsockopt() passes no value in, and these options name the table there.
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(value, len(value))
    length = ctypes.c_uint32(len(value))
    pointer = ctypes.byref(length)
    if libc.getsockopt(asking.fileno(), socket.IPPROTO_IP, option, buffer, pointer):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw


def _verdict_at(entries: bytes, start: int) -> int:
    target = start + _OFFSETS.unpack_from(entries, start)[0]
    return int(_STANDARD.unpack_from(entries, target + _TARGET.size)[0])


def arptables_verdicts(table: ArpTable, hook: Hook, frame: ArpFrame) -> frozenset[RuleVerdict]:
    """Return what the rules of a hook can do with a frame; they change the frame.

    Several verdicts if that depends on what is not known.
    """
    entries, policy = table.entries, table.policies[_HOOKS[hook]]
    possible: set[RuleVerdict] = set()
    callers: list[int] = []
    here = table.first[_HOOKS[hook]]
    for _ in range(_MOST_STEPS):
        to_target, to_next = _OFFSETS.unpack_from(entries, here)
        matches = _matches(entries, here, hook, frame)
        target, after = here + to_target, here + to_next
        _, name, _ = _TARGET.unpack_from(entries, target)
        kind, body = name.rstrip(b"\0"), target + _TARGET.size
        if matches is False:
            here = after
        elif kind == b"mangle":
            if matches is None:
                return ANY
            then = mangle(entries[body:after], frame)
            if then >= 0:
                return frozenset(possible | {RuleVerdict.ACCEPT if then else RuleVerdict.DROP})
            here = after
        elif kind:
            return ANY
        else:
            (verdict,) = _STANDARD.unpack_from(entries, body)
            if verdict < 0 and verdict != _RETURN:
                if -verdict - 1 > _ACCEPT:
                    return ANY
                possible.add(RuleVerdict.ACCEPT if -verdict - 1 else RuleVerdict.DROP)
                if matches:
                    return frozenset(possible)
                here = after
            elif matches is None:
                return ANY
            elif verdict == _RETURN:
                here = callers.pop() if callers else policy
            else:
                callers.append(after)
                here = verdict
    return ANY


def mangle(body: bytes, frame: ArpFrame) -> int:
    """Change a frame as a target `mangle` does; return what follows: NF_*, or -1 for the rest."""
    hardware_address, sender, flags, then = _MANGLE.unpack_from(body)
    if flags & _MANGLE_SENDER_HARDWARE:
        frame.arp[SENDER_HARDWARE] = list(hardware_address)
    if flags & _MANGLE_SENDER:
        frame.arp[SENDER] = list(sender)
    return int(then)


def _matches(entries: bytes, start: int, hook: Hook, frame: ArpFrame) -> bool | None:
    (inversions,) = _INVERSIONS.unpack_from(entries, start)

    def field(offset: int, length: int) -> bytes:
        return entries[start + offset : start + offset + length]

    results = [
        inverted(
            equal(frame.arp[there : there + length], field(value, length), field(mask, length)),
            inversions & bit,
        )
        for there, value, length, mask, bit in _FIELDS
    ]
    for each, (name, mask, bit) in _NAMES.items():
        # There is one link at each hook; rules for the other see an empty name.
        link = os.fsencode(frame.interface) if each is hook else b""
        same = equal(list(link.ljust(16, b"\0")), field(name, 16), field(mask, 16))
        results.append(inverted(same, inversions & bit))
    return every(results)
