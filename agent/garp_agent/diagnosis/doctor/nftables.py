"""The rules of nftables that ARP frames pass, also those of arptables-nft: reads, evaluates them.

The families are `arp`, `bridge` and `netdev`.
Evaluates what `nft` and `arptables` make of comparisons, sets, maps, jumps and changed addresses.
What it does not know, such as a limit, may match or not.

Source: <linux/netfilter/nf_tables.h>.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from struct import Struct

from garp_agent.diagnosis.doctor.arp_frames import (
    ANY,
    ETHERTYPE,
    ArpFrame,
    Hook,
    RuleVerdict,
    equal,
    every,
    inverted,
)
from garp_agent.diagnosis.doctor.arptables import mangle
from garp_agent.diagnosis.doctor.facts import NftChain, NftRules, NftSet
from garp_agent.wire import rtnetlink
from garp_agent.wire.rtnetlink import nested, text

ARP, NETDEV, BRIDGE = 3, 5, 7  # NFPROTO_*

_NETLINK_NETFILTER = 12
_NFT = 10 << 8  # NFNL_SUBSYS_NFTABLES
# NFT_MSG_*: what asks for a dump, and what comes.
_TABLES, _CHAINS, _RULES, _SETS, _ELEMENTS = (
    (_NFT | asked, _NFT | came) for asked, came in ((1, 0), (4, 3), (7, 6), (10, 9), (13, 12))
)
_GENERIC = Struct("=BBH")  # nfgenmsg: family, version, resource
_DORMANT = 1  # NFT_TABLE_F_DORMANT
_HOOKS = {
    (ARP, 0): Hook.INPUT,
    (ARP, 1): Hook.OUTPUT,
    (NETDEV, 0): Hook.INGRESS,
    (NETDEV, 1): Hook.EGRESS,
    (BRIDGE, 0): Hook.BRIDGE_PREROUTING,
    (BRIDGE, 1): Hook.BRIDGE_INPUT,
    (BRIDGE, 3): Hook.BRIDGE_OUTPUT,
    (BRIDGE, 4): Hook.BRIDGE_POSTROUTING,
}
_INPUT_HOOKS = (Hook.INGRESS, Hook.BRIDGE_PREROUTING, Hook.BRIDGE_INPUT, Hook.INPUT)
_LIST_ELEMENT = 1  # NFTA_LIST_ELEM

# Verdicts: NF_* and NFT_*.
_DROP, _ACCEPT, _CONTINUE, _BREAK, _JUMP, _GOTO, _RETURN = 0, 1, -1, -2, -3, -4, -5
_SIGNED = Struct("!i")

_SET_INTERVAL, _SET_MAP, _SET_OBJECT, _SET_CONCATENATED = 0x4, 0x8, 0x40, 0x80
_ELEMENT_END, _ELEMENT_CATCHALL = 1, 2

# Expressions that change nothing here, and those that only decide whether the rule matches.
_NEUTRAL = ("counter", "last", "log", "notrack")
_MATCHES = (
    *("limit", "quota", "connlimit", "match", "ct", "numgen", "hash", "socket", "fib", "rt", "osf"),
    *("xfrm", "byteorder", "exthdr", "inner", "dynset", "tunnel"),
)


# -- reading ----------------------------------------------------------------------------


def read_nftables() -> NftRules:
    """Return the rules that ARP frames pass; what cannot be read is left out."""
    rules = NftRules((), {})
    for family in (ARP, NETDEV, BRIDGE):
        with contextlib.suppress(OSError, rtnetlink.DecodeError):
            chains = tuple(_chains(family))
            if any(each.hook for each in chains):
                rules = NftRules(rules.chains + chains, {**rules.sets, **_sets(family)})
    return rules


def _chains(family: int) -> list[NftChain]:
    dormant = {
        text(each, 1) for each in _dump(family, _TABLES) if _big_endian(each.get(2, b"")) & _DORMANT
    }
    rules: dict[tuple[str, str], list[tuple[tuple[str, dict[int, bytes]], ...]]] = {}
    for each in _dump(family, _RULES):
        expressions = (nested(one) for one in _elements(each.get(4, b"")))
        rule = tuple((text(one, 1), nested(one.get(2, b""))) for one in expressions)
        rules.setdefault((text(each, 1), text(each, 2)), []).append(rule)
    found = []
    for each in _dump(family, _CHAINS):
        table, name, hook = text(each, 1), text(each, 3), nested(each.get(4, b""))
        at = _HOOKS.get((family, _big_endian(hook[1]))) if 1 in hook else None
        devices = tuple(text({0: one}, 0) for one in _elements(hook.get(4, b"")))
        found.append(
            NftChain(
                family,
                table,
                name,
                at.value if at and table not in dormant else "",
                _SIGNED.unpack(hook[2])[0] if 2 in hook else 0,
                devices or ((text(hook, 3),) if 3 in hook else ()),
                _big_endian(each.get(5, b"\1")) != _DROP,
                tuple(rules.get((table, name), ())),
            )
        )
    return found


def _sets(family: int) -> dict[tuple[int, str, str], NftSet]:
    found = {}
    for each in _dump(family, _SETS):
        asked = b"".join(rtnetlink.attribute(key, each[key]) for key in (1, 2))
        elements = tuple(
            nested(one)
            for message in _dump(family, _ELEMENTS, asked)
            for one in _elements(message.get(3, b""))
        )
        key = (family, text(each, 1), text(each, 2))
        found[key] = NftSet(_big_endian(each.get(3, b"")), _big_endian(each.get(5, b"")), elements)
    return found


def _elements(value: bytes) -> list[bytes]:
    """Return the values of a list."""
    return [each for key, each in rtnetlink.attributes(value, 0, len(value))]


def _big_endian(value: bytes) -> int:
    return int.from_bytes(value, "big")


def _dump(family: int, messages: tuple[int, int], asked: bytes = b"") -> list[dict[int, bytes]]:
    """Return the attributes of each message of a dump of a family."""
    ask, answer = messages

    def read_one(data: bytes, start: int, end: int, _: bool) -> tuple[object, ...]:
        return (dict(rtnetlink.attributes(data, start + _GENERIC.size, end)),)

    found: list[object] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as asking:
        asking.settimeout(1.0)
        body = _GENERIC.pack(family, 0, 0) + asked
        asking.send(rtnetlink.request(ask, 1, body))
        while not any(isinstance(each, _ENDS) for each in found):
            found += rtnetlink.decode({answer: read_one}, asking.recv(1 << 17))
    return [each for each in found if not isinstance(each, _CONTROL)]  # type: ignore[misc]


_ENDS = (rtnetlink.DumpDone, rtnetlink.RequestFailed)
_CONTROL = (*_ENDS, rtnetlink.DumpInterrupted)


# -- evaluating -------------------------------------------------------------------------


def nft_verdicts(rules: NftRules, hook: Hook, frame: ArpFrame) -> list[frozenset[RuleVerdict]]:
    """Return what each chain of a hook can do with a frame; they change the frame.

    Several verdicts of a chain if that depends on what is not known.
    """
    chains = [
        each
        for each in rules.chains
        if each.hook == hook.value and (not each.devices or frame.interface in each.devices)
    ]
    chains.sort(key=lambda each: each.priority)
    return [_ChainRun(rules, each, hook, frame).verdicts() for each in chains]


class _ChainRun:
    """One frame on its way through a base chain and those that it calls."""

    def __init__(self, rules: NftRules, base: NftChain, hook: Hook, frame: ArpFrame) -> None:
        self._rules, self._base, self._hook, self._frame = rules, base, hook, frame
        self._chains = {
            each.name: each
            for each in rules.chains
            if (each.family, each.table) == (base.family, base.table)
        }
        self._possible: set[RuleVerdict] = set()
        self._registers: list[int | None] = []
        self._matches: bool | None = True

    def verdicts(self) -> frozenset[RuleVerdict]:
        code = self._chain(self._base)
        accepts = self._base.accepts if code == _RETURN else code == _ACCEPT
        return frozenset(self._possible | {RuleVerdict.ACCEPT if accepts else RuleVerdict.DROP})

    def _chain(self, chain: NftChain) -> int:
        """Return the verdict of a chain: _ACCEPT, _DROP, or _RETURN at its end."""
        for rule in chain.rules:
            code, called = self._rule(rule)
            if self._matches is False or code in (_CONTINUE, _BREAK):
                continue
            if self._matches is None or code not in (_ACCEPT, _DROP, _JUMP, _GOTO, _RETURN):
                known = {_ACCEPT: {RuleVerdict.ACCEPT}, _DROP: {RuleVerdict.DROP}}
                self._possible |= known.get(code, ANY)
                continue
            if code in (_JUMP, _GOTO):
                inner = self._chain(self._chains[called])
                if inner == _RETURN and code == _JUMP:
                    continue
                code = inner
            return code
        return _RETURN

    def _rule(self, rule: tuple[tuple[str, dict[int, bytes]], ...]) -> tuple[int, str]:
        """Return the verdict of a rule and the chain that it calls; notes whether it matches."""
        self._registers = [None] * 80
        self._matches = True
        for name, found in rule:
            known = _EXPRESSIONS.get(name)
            code, called = _CONTINUE, ""
            if known:
                code, called = known(self, found)
            elif name in _MATCHES:
                self._matches = None
                self._registers = [None] * 80
            elif name not in _NEUTRAL:
                self._possible |= ANY
            if self._matches is False or code != _CONTINUE:
                return code, called
        return _CONTINUE, ""

    def _narrow(self, result: bool | None) -> tuple[int, str]:
        self._matches = every((self._matches, result))
        return _CONTINUE, ""

    def _load(self, register: bytes, values: list[int | None]) -> tuple[int, str]:
        start = _register_start(register)
        values = values + [0] * (-len(values) % 4)
        self._registers[start : start + len(values)] = values
        return _CONTINUE, ""

    def _loaded(self, register: bytes, length: int) -> list[int | None]:
        start = _register_start(register)
        return self._registers[start : start + length]

    def _payload(self, found: dict[int, bytes]) -> tuple[int, str]:
        base, offset, length = (_big_endian(found[key]) for key in (2, 3, 4))
        if base not in (0, 1):
            return self._narrow(False)
        header = (self._frame.ethernet, self._frame.arp)[base]
        if offset + length > len(header):
            return self._narrow(False)
        if 5 not in found:
            return self._load(found[1], header[offset : offset + length])
        if self._matches:
            header[offset : offset + length] = self._loaded(found[5], length)
        else:
            self._possible |= ANY
        return _CONTINUE, ""

    def _meta(self, found: dict[int, bytes]) -> tuple[int, str]:
        if 1 not in found:
            return _CONTINUE, ""  # sets a mark
        is_input, frame = self._hook in _INPUT_HOOKS, self._frame
        name = os.fsencode(frame.interface).ljust(16, b"\0")
        index, kind = (each.to_bytes(n, sys.byteorder) for each, n in ((frame.ifindex, 4), (1, 2)))
        known = {1: ETHERTYPE}  # NFT_META_*: protocol, then index, name and type of the link
        known.update(zip((4, 6, 8) if is_input else (5, 7, 9), (index, name, kind)))
        return self._load(found[1], list(known.get(_big_endian(found[2]), ())) or [None] * 16)

    def _compare(self, found: dict[int, bytes]) -> tuple[int, str]:
        wanted, operation = nested(found[3])[1], _big_endian(found[2])
        seen = self._loaded(found[1], len(wanted))
        if operation in (0, 1):
            return self._narrow(inverted(equal(seen, wanted), operation))
        value = _whole(seen)
        if value is None:
            return self._narrow(None)
        less_or_more = (value < wanted, value <= wanted, value > wanted, value >= wanted)
        return self._narrow(less_or_more[operation - 2])

    def _range(self, found: dict[int, bytes]) -> tuple[int, str]:
        least, most = nested(found[3])[1], nested(found[4])[1]
        value = _whole(self._loaded(found[1], len(least)))
        inside = None if value is None else least <= value <= most
        return self._narrow(inverted(inside, _big_endian(found[2])))

    def _bitwise(self, found: dict[int, bytes]) -> tuple[int, str]:
        values = self._loaded(found[1], _big_endian(found[3]))
        if _big_endian(found.get(6, b"")):  # a shift, or two registers
            return self._load(found[2], [None] * len(values))
        mask, other = nested(found[4])[1], nested(found[5])[1]
        changed = [
            None if one is None and bits else (one or 0) & bits ^ more
            for one, bits, more in zip(values, mask, other)
        ]
        return self._load(found[2], changed)

    def _immediate(self, found: dict[int, bytes]) -> tuple[int, str]:
        data = nested(found[2])
        return _verdict_in(data) if 2 in data else self._load(found[1], list(data[1]))

    def _lookup(self, found: dict[int, bytes]) -> tuple[int, str]:
        chosen = self._rules.sets.get((self._base.family, self._base.table, text(found, 1)))
        is_map = 3 in found
        if chosen is None or (is_map and chosen.flags & _SET_OBJECT):
            self._possible |= ANY
            return _CONTINUE, ""
        result, element = _find(chosen, self._loaded(found[2], chosen.key_length))
        if not is_map:
            return self._narrow(inverted(result, _big_endian(found.get(5, b""))))
        if result is False:
            return self._narrow(False)
        if result is None:
            self._possible |= ANY
            return self._narrow(None)
        data = nested(element[2])
        return _verdict_in(data) if 2 in data else self._load(found[3], list(data[1]))

    def _target(self, found: dict[int, bytes]) -> tuple[int, str]:
        # arptables-nft writes `-j mangle` as a target of arptables.
        if text(found, 1) != "mangle" or not self._matches:
            self._possible |= ANY
            return _CONTINUE, ""
        return mangle(found[3], self._frame), ""


_EXPRESSIONS = {
    "payload": _ChainRun._payload,
    "meta": _ChainRun._meta,
    "cmp": _ChainRun._compare,
    "range": _ChainRun._range,
    "bitwise": _ChainRun._bitwise,
    "immediate": _ChainRun._immediate,
    "lookup": _ChainRun._lookup,
    "target": _ChainRun._target,
}


def _register_start(register: bytes) -> int:
    """Return where a register is: four of 16 bytes (1 to 4), or sixteen of 4 bytes (from 8 on)."""
    number = _big_endian(register)
    return 16 * number if number < 8 else 16 + 4 * (number - 8)


def _whole(values: list[int | None]) -> bytes | None:
    return None if None in values else bytes(each or 0 for each in values)


def _verdict_in(data: dict[int, bytes]) -> tuple[int, str]:
    found = nested(data[2])
    return int(_SIGNED.unpack(found[1])[0]), text(found, 2)


def _find(chosen: NftSet, key: list[int | None]) -> tuple[bool | None, dict[int, bytes]]:
    """Return whether a key is in a set, and its element."""
    rest: dict[int, bytes] = {}
    entries: list[tuple[bytes, bool, bytes, dict[int, bytes]]] = []
    for each in chosen.elements:
        flags = _big_endian(each.get(3, b""))
        if flags & _ELEMENT_CATCHALL:
            rest = each
        else:
            start, end = nested(each[1])[1], nested(each[10])[1] if 10 in each else b""
            entries.append((start, not flags & _ELEMENT_END, end, each))
    if not chosen.flags & _SET_INTERVAL:
        results = [(equal(key, start), each) for start, _, _, each in entries]
        for result in (True, None):
            for one, each in results:
                if one is result:
                    return result, each
    elif entries:
        value = _whole(key)
        if value is None or (chosen.flags & _SET_CONCATENATED):
            return None, {}
        # An interval begins with an element, and ends before one that has the flag, or with a key.
        below = [each for each in entries if each[0] <= value]
        if below:
            _, is_start, end, each = max(below, key=lambda entry: entry[:2])
            if is_start and (not end or value <= end):
                return True, each
    return bool(rest), rest
