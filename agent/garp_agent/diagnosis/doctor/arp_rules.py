"""The kernel's rules for ARP: reads them, and checks whether they name an announced address.

The agent's frames bypass these rules, because AF_PACKET does not pass the hooks of ARP.  Looks for
the bytes of an address in the rules, so that no tool is needed.  Does not judge ranges (interval
sets, comparisons), nor rules that name no address.

Sources: <linux/netfilter/nf_tables.h>, <linux/netfilter_arp/arp_tables.h>.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from struct import Struct

from garp_agent.diagnosis.doctor.facts import ArpRules, Facts
from garp_agent.diagnosis.doctor.findings import Finding, ok, warn
from garp_agent.render.table import some
from garp_agent.wire import rtnetlink

_NETLINK_NETFILTER = 12
_NFT = 10 << 8  # NFNL_SUBSYS_NFTABLES
_NFT_NEWRULE, _NFT_GETRULE = _NFT | 6, _NFT | 7
_NFT_NEWSET, _NFT_GETSET = _NFT | 9, _NFT | 10
_NFT_NEWSETELEM, _NFT_GETSETELEM = _NFT | 12, _NFT | 13
_TABLE, _SET_NAME = 1, 2  # attributes of a set, and of a request for its elements
_NFPROTO_ARP = 3
_GENERIC = Struct("=BBH")  # nfgenmsg: family, version, resource
_ATTRIBUTE = Struct("=HH")

_ARPT_SO_GET_INFO, _ARPT_SO_GET_ENTRIES = 96, 97
_ARPT_INFO = Struct("=32s7III")  # name, hooks, entries of hooks, underflows, entries, bytes
_ARPT_ENTRIES = Struct("=32sI4x")  # name, bytes; the entries follow
_ARPT_OWN_ENTRIES = 4  # of a table without rules: three policies and the end


# -- reading ----------------------------------------------------------------------------


def read_rules() -> ArpRules:
    """Return the rules for ARP; what cannot be read is left out."""
    nft = legacy = b""
    with contextlib.suppress(OSError, rtnetlink.DecodeError):
        nft = _nft()
    with contextlib.suppress(OSError):
        # Asking for a table makes the kernel load it.
        if "filter" in Path("/proc/net/arp_tables_names").read_text().split():
            legacy = _legacy()
    return ArpRules(nft, legacy)


def _nft() -> bytes:
    rules = b"".join(body for _, body in _dump(_NFT_GETRULE, _NFT_NEWRULE))
    for names, _ in _dump(_NFT_GETSET, _NFT_NEWSET):
        asked = b"".join(_attribute_bytes(key, names[key]) for key in (_TABLE, _SET_NAME))
        rules += b"".join(body for _, body in _dump(_NFT_GETSETELEM, _NFT_NEWSETELEM, asked))
    return rules


def _attribute_bytes(attribute: int, value: bytes) -> bytes:
    padding = bytes(-len(value) % 4)
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), attribute) + value + padding


def _dump(ask: int, answer: int, asked: bytes = b"") -> list[tuple[dict[int, bytes], bytes]]:
    """Return the attributes and the bytes of each message of a dump of the ARP family."""

    def read(data: bytes, start: int, end: int, _: bool) -> tuple[object, ...]:
        start += _GENERIC.size
        return ((dict(rtnetlink.attributes(data, start, end)), data[start:end]),)

    found: list[object] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as asking:
        asking.settimeout(1.0)
        body = _GENERIC.pack(_NFPROTO_ARP, 0, 0) + asked
        asking.send(rtnetlink.request(ask, 1, body))
        while not any(isinstance(each, _ENDS) for each in found):
            found += rtnetlink.decode({answer: read}, asking.recv(1 << 17))
    return [each for each in found if not isinstance(each, _CONTROL)]  # type: ignore[misc]


_ENDS = (rtnetlink.DumpDone, rtnetlink.RequestFailed)
_CONTROL = (*_ENDS, rtnetlink.DumpInterrupted)


def _legacy() -> bytes:
    """Return the entries of the table `filter` of arptables; b"" if it has no rules."""
    name = b"filter"
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as asking:
        info = _getsockopt(asking, _ARPT_SO_GET_INFO, _ARPT_INFO.pack(name, *[0] * 9))
        *_, entries, size = _ARPT_INFO.unpack(info)
        if entries <= _ARPT_OWN_ENTRIES:
            return b""
        wanted = _ARPT_ENTRIES.pack(name, size) + bytes(size)
        return _getsockopt(asking, _ARPT_SO_GET_ENTRIES, wanted)[_ARPT_ENTRIES.size :]


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


# -- judging ----------------------------------------------------------------------------


def arp_rules(facts: Facts) -> Iterator[Finding]:
    """Check whether rules for ARP concern an address that the agent announces."""
    announced = announced_ipv4(facts)
    for name, rules in (("nftables", facts.arp_rules.nft), ("arptables", facts.arp_rules.legacy)):
        if not rules:
            continue
        named = [one for one in announced if names_address(rules, socket.inet_aton(one))]
        if named:
            yield warn(
                f"arp rules {name}",
                f"there are rules for {some(named)}, which the agent announces past them",
                "if another machine is to get this traffic (LVS-DR), the agent moves it here: "
                + exclude(named),
            )
        else:
            yield ok(
                f"arp rules {name}",
                "there are rules, but none names an announced address; ranges are not judged",
            )


def names_address(rules: bytes, address: bytes) -> bool:
    """Return whether rules contain an IPv4 address, or a block with it.

    A block is there as its first address and its mask.  nftables compares three bytes for a block
    of 24 bits, which its padding completes.
    """
    number = int.from_bytes(address, "big")
    for length in range(9, 33):
        mask = (1 << 32) - (1 << 32 - length)
        block = (number & mask).to_bytes(4, "big")
        if block in rules and (length in (24, 32) or mask.to_bytes(4, "big") in rules):
            return True
    return False


def announced_ipv4(facts: Facts, interface: str = "") -> list[str]:
    """Return the IPv4 addresses that are announced, on one interface or on all."""
    return [
        each["address"]
        for link in facts.links
        if interface in ("", link["interface"])
        for each in link["addresses"]
        if each["announced_as"] and "." in (each["address"] or "")
    ]


def exclude(addresses: list[str]) -> str:
    """Return the configuration that leaves out these addresses."""
    return f"addresses: {{exclude: [{', '.join(f'{one}/32' for one in addresses)}]}}"
