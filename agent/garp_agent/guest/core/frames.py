"""Encodes announcements as Ethernet frames, and decodes received frames to claims.

Does not decide what is announced, which frames the kernel passes on (guest.core.bpf), or
whether a claim is a conflict.  Does not use interfaces, sockets or clocks.

Sources:
ARP: RFC 826; RFC 5227 section 1.1 (probe, announcement) and 2.4 (a request or a reply with our
address as the sender's is a claim).  RARP: RFC 903.  Unsolicited NA: RFC 4861 sections 4.4, 7.2.6
and 7.1.2 (validation).  Solicitations that probe: RFC 4862 section 5.4.3, RFC 4861 section 7.1.1.
Checksum: RFC 4443 section 2.3.

Deviations:
- ARP and RARP frames are padded to 60 bytes here, because some drivers reject shorter ones.
- A reply has the sender's hardware address as its target, too.  Otherwise Linux does not take it
  for gratuitous (arp_is_garp) and ignores it within ``locktime`` of the last update.
- A DAD probe (RFC 4862 section 5.4.2) is sent for an address that we have and withhold.
- Neighbour messages behind IPv6 extension headers are not read.
"""

from __future__ import annotations

from struct import Struct

from garp_agent.guest.core.model import ALL_NODES_ETHERNET, Announcement, Kind
from garp_agent.wire.record import NamedTuple

_ETHERTYPE_ARP = 0x0806
_ETHERTYPE_VLAN = 0x8100
_ETHERTYPE_IPV6 = 0x86DD

_ARP_REQUEST = 1
_ARP_REPLY = 2
_NO_ADDRESS = bytes(4)
_NO_HARDWARE_ADDRESS = bytes(6)
_BROADCAST = b"\xff" * 6

# Ethernet destination and source; ethertype to opcode, which are constant for a kind of frame;
# sender and target, each as hardware address and protocol address; padding.
_ARP_FRAME = Struct("!6s6s10s6s4s6s4s18x")
_REQUEST_HEADER = bytes.fromhex("0806 0001 0800 06 04 0001")
_REPLY_HEADER = bytes.fromhex("0806 0001 0800 06 04 0002")
_RARP_HEADER = bytes.fromhex("8035 0001 0800 06 04 0003")  # "request reverse"

# Ethernet; IPv6 up to the hop limit, source, destination; type and code, checksum, flags,
# target; option type and length, hardware address.
_NEIGHBOUR_FRAME = Struct("!6s6s10s16s16s2sHB3x16s2s6s")
_ALL_NODES = bytes.fromhex("ff02 0000 0000 0000 0000 0000 0000 0001")
_NEIGHBOUR_HEADER = bytes.fromhex("86dd 60000000 0020 3a ff")  # 32 bytes of ICMPv6, hop limit 255
_NA_TYPE_AND_CODE = bytes.fromhex("8800")
_TARGET_LINK_LAYER = bytes.fromhex("0201")  # length in units of 8 bytes
_SOURCE_LINK_LAYER = bytes.fromhex("0101")
# A solicitation for duplicate address detection comes from :: and has no option.
_PROBE_FRAME = Struct("!6s6s10s16s13s3s2sH4x16s")
_PROBE_HEADER = bytes.fromhex("86dd 60000000 0018 3a ff")  # 24 bytes of ICMPv6, hop limit 255
_NS_TYPE_AND_CODE = bytes.fromhex("8700")
_ROUTER = 0x80
_SOLICITED = 0x40
_OVERRIDE = 0x20

_ICMPV6 = 58
_SOLICITATION = 135
_ADVERTISEMENT = 136
_OPTION_SOURCE_LINK_LAYER = 1
_OPTION_TARGET_LINK_LAYER = 2
_UNSPECIFIED = bytes(16)
_SOLICITED_NODE_PREFIX = bytes.fromhex("ff02 0000 0000 0000 0000 0001 ff")

_ETHERTYPE = Struct("!H")
_ARP_FIXED = Struct("!HHBBH")
_ARP_LENGTH = 28
_IPV6_HEADER = Struct("!IHBB16s16s")
_NEIGHBOUR = Struct("!BBHB3x16s")


class FrameError(ValueError):
    """An announcement that does not fit its kind of frame, or a frame without a valid claim."""


class Claim(NamedTuple):
    """A station announced an address as its own, or asked whether the address is in use."""

    hardware_address: bytes  # 6 bytes
    address: bytes  # 4 or 16 bytes
    probe: bool = False  # the station only asks: an ARP probe, or a solicitation for DAD
    override: bool = True  # NA: the O flag; proxies and optimistic addresses do not set it
    answers: bytes = b""  # as in guest.core.model.ClaimSeen


# -- encoding ---------------------------------------------------------------------------


def encode(announcement: Announcement) -> bytes:
    """Return the whole Ethernet frame, without the frame check sequence.

    Raises FrameError if an address does not have the length that the kind of frame needs.
    """
    kind = announcement.kind
    hardware_address = announcement.hardware_address
    address = announcement.address
    if len(hardware_address) != 6:
        raise FrameError(f"hardware address has {len(hardware_address)} bytes; must have 6")
    if kind is Kind.UNSOLICITED_NA:
        if len(address) != 16:
            raise _wrong_length(kind, address, 16)
        return _neighbour_advertisement(announcement)
    if kind is Kind.DAD_PROBE:
        if len(address) != 16:
            raise _wrong_length(kind, address, 16)
        return _dad_probe(announcement)
    if kind is Kind.SOLICITATION:
        for each in (address, announcement.source):
            if len(each) != 16:
                raise _wrong_length(kind, each, 16)
        return _solicitation(announcement)
    if kind is Kind.RARP:
        return _ARP_FRAME.pack(
            _BROADCAST,
            hardware_address,
            _RARP_HEADER,
            hardware_address,
            _NO_ADDRESS,
            hardware_address,
            _NO_ADDRESS,
        )
    if len(address) != 4:
        raise _wrong_length(kind, address, 4)
    reply = kind is Kind.ARP_REPLY
    return _ARP_FRAME.pack(
        announcement.asked or _BROADCAST,
        hardware_address,
        _REPLY_HEADER if reply else _REQUEST_HEADER,
        hardware_address,
        _NO_ADDRESS if kind is Kind.ARP_PROBE else address,
        hardware_address if reply else _NO_HARDWARE_ADDRESS,
        address,
    )


def _wrong_length(kind: Kind, address: bytes, length: int) -> FrameError:
    return FrameError(f"{kind.value}: address has {len(address)} bytes; must have {length}")


def _neighbour_advertisement(announcement: Announcement) -> bytes:
    hardware_address = announcement.hardware_address
    address = announcement.address
    flags = (_ROUTER if announcement.router else 0) | (_OVERRIDE if announcement.override else 0)
    # The address is in the sum twice, as source and as target.
    total = (
        _NA_CONSTANT_SUM
        + (flags << 8)
        + 2 * int.from_bytes(address, "big")
        + int.from_bytes(hardware_address, "big")
    )
    return _NEIGHBOUR_FRAME.pack(
        ALL_NODES_ETHERNET,
        hardware_address,
        _NEIGHBOUR_HEADER,
        address,
        _ALL_NODES,
        _NA_TYPE_AND_CODE,
        -total % 0xFFFF,
        flags,
        address,
        _TARGET_LINK_LAYER,
        hardware_address,
    )


def _dad_probe(announcement: Announcement) -> bytes:
    address = announcement.address
    group = address[-3:]
    total = _PROBE_CONSTANT_SUM + _sum(b"\0" + group) + int.from_bytes(address, "big")
    return _PROBE_FRAME.pack(
        announcement.asked or b"\x33\x33\xff" + group,
        announcement.hardware_address,
        _PROBE_HEADER,
        _UNSPECIFIED,
        _SOLICITED_NODE_PREFIX,
        group,
        _NS_TYPE_AND_CODE,
        -total % 0xFFFF,
        address,
    )


def _solicitation(announcement: Announcement) -> bytes:
    hardware_address, address = announcement.hardware_address, announcement.address
    group = address[-3:]
    to = _SOLICITED_NODE_PREFIX + group
    total = _SOLICITATION_CONSTANT_SUM + _sum(announcement.source, to, address, hardware_address)
    return _NEIGHBOUR_FRAME.pack(
        announcement.asked or b"\x33\x33\xff" + group,
        hardware_address,
        _NEIGHBOUR_HEADER,
        announcement.source,
        to,
        _NS_TYPE_AND_CODE,
        -total % 0xFFFF,
        0,
        address,
        _SOURCE_LINK_LAYER,
        hardware_address,
    )


def _sum(*parts: bytes) -> int:
    """Return a number that is congruent to the one's complement sum of the 16-bit words.

    Big integers modulo 65535 do it, because 65536 is 1 modulo 65535.  Even lengths only.
    """
    return sum(int.from_bytes(part, "big") for part in parts)


_NA_CONSTANT_SUM = _sum(_ALL_NODES, _NA_TYPE_AND_CODE, _TARGET_LINK_LAYER) + 32 + _ICMPV6
_PROBE_CONSTANT_SUM = _sum(_SOLICITED_NODE_PREFIX + bytes(3), _NS_TYPE_AND_CODE) + 24 + _ICMPV6
_SOLICITATION_CONSTANT_SUM = _sum(_NS_TYPE_AND_CODE, _SOURCE_LINK_LAYER) + 32 + _ICMPV6


# -- decoding ---------------------------------------------------------------------------


def decode(frame: bytes) -> Claim:
    """Return the claim of a received Ethernet frame; one 802.1Q tag is skipped.

    Raises FrameError if the frame is malformed or claims nothing.
    """
    offset = 12
    ethertype = _ethertype(frame, offset)
    if ethertype == _ETHERTYPE_VLAN:
        offset += 4
        ethertype = _ethertype(frame, offset)
    if ethertype == _ETHERTYPE_ARP:
        return _arp_claim(frame, offset + 2)
    if ethertype == _ETHERTYPE_IPV6:
        return _neighbour_claim(frame, offset + 2)
    raise FrameError(f"ethertype is 0x{ethertype:04x}; only ARP and IPv6 make claims")


def _ethertype(frame: bytes, offset: int) -> int:
    if len(frame) < offset + 2:
        raise FrameError(f"Ethernet header is cut short at byte {len(frame)}")
    return int(_ETHERTYPE.unpack_from(frame, offset)[0])


def _arp_claim(frame: bytes, start: int) -> Claim:
    if len(frame) < start + _ARP_LENGTH:
        raise FrameError(f"ARP packet has {len(frame) - start} bytes; must have {_ARP_LENGTH}")
    hardware, protocol, hardware_length, address_length, opcode = _ARP_FIXED.unpack_from(
        frame, start
    )
    if (hardware, protocol, hardware_length, address_length) != (1, 0x0800, 6, 4):
        raise FrameError(
            f"ARP is for hardware type {hardware} ({hardware_length} bytes) and protocol "
            f"0x{protocol:04x} ({address_length} bytes); must be Ethernet (6) and IPv4 (4)"
        )
    # RARP opcodes have the same layout, but leave the sender's address undefined (RFC 903).
    if opcode not in (_ARP_REQUEST, _ARP_REPLY):
        raise FrameError(f"ARP opcode is {opcode}; only request (1) and reply (2) make claims")
    hardware_address = frame[start + 8 : start + 14]
    sender = frame[start + 14 : start + 18]
    target = frame[start + 24 : start + 28]
    if sender != _NO_ADDRESS:
        asker = b""
        if opcode == _ARP_REPLY and target != sender:  # a gratuitous reply answers no station
            # Behind a MAC NAT, only one of the two hardware addresses is that of the asker.
            is_unicast = not frame[0] & 1
            asker = frame[:6] if is_unicast else frame[start + 18 : start + 24]
        return Claim(hardware_address, sender, answers=asker)
    if opcode != _ARP_REQUEST or target == _NO_ADDRESS:
        raise FrameError(f"ARP opcode {opcode} from 0.0.0.0 names no address to claim")
    return Claim(hardware_address, target, probe=True)


def _neighbour_claim(frame: bytes, start: int) -> Claim:
    if len(frame) < start + 40:
        raise FrameError(f"IPv6 header is cut short at byte {len(frame)}")
    word, length, next_header, hop_limit, source, destination = _IPV6_HEADER.unpack_from(
        frame, start
    )
    if word >> 28 != 6:
        raise FrameError(f"IP version is {word >> 28}; must be 6")
    if next_header != _ICMPV6:
        raise FrameError(f"IPv6 next header is {next_header}; only ICMPv6 ({_ICMPV6}) makes claims")
    message = frame[start + 40 : start + 40 + length]
    if len(message) < length:
        raise FrameError(f"IPv6 payload has {len(message)} of {length} bytes")
    # The following checks are those of RFC 4861 sections 7.1.1 and 7.1.2.
    if hop_limit != 255:
        raise FrameError(f"hop limit is {hop_limit}; must be 255")
    if length < 24:
        raise FrameError(f"ICMPv6 message has {length} bytes; must have at least 24")
    padded = message + b"\0" if length % 2 else message
    if (_sum(source, destination, padded) + length + _ICMPV6) % 0xFFFF:
        raise FrameError("ICMPv6 checksum is wrong")
    return _read_neighbour_message(frame[:6], frame[6:12], source, destination, message)


def _read_neighbour_message(
    ethernet_destination: bytes,
    ethernet_source: bytes,
    source: bytes,
    destination: bytes,
    message: bytes,
) -> Claim:
    message_type, code, _checksum, flags, target = _NEIGHBOUR.unpack_from(message)
    if message_type not in (_SOLICITATION, _ADVERTISEMENT):
        raise FrameError(
            f"ICMPv6 type is {message_type}; only solicitations ({_SOLICITATION}) and "
            f"advertisements ({_ADVERTISEMENT}) of neighbours make claims"
        )
    if code != 0:
        raise FrameError(f"ICMPv6 code is {code}; must be 0")
    if target[0] == 0xFF:
        raise FrameError("target is a multicast address")
    options = _options(message)
    if message_type == _SOLICITATION:
        _require_probe(source, destination, options)
        return Claim(ethernet_source, target, probe=True)
    if flags & _SOLICITED and destination[0] == 0xFF:
        raise FrameError("advertisement to a multicast address has the Solicited flag")
    hardware_address = options.get(_OPTION_TARGET_LINK_LAYER, ethernet_source)
    if len(hardware_address) != 6:
        raise FrameError(f"target link-layer address has {len(hardware_address)} bytes; must be 6")
    asker = ethernet_destination if flags & _SOLICITED else ALL_NODES_ETHERNET
    return Claim(hardware_address, target, override=bool(flags & _OVERRIDE), answers=asker)


def _require_probe(source: bytes, destination: bytes, options: dict[int, bytes]) -> None:
    if source != _UNSPECIFIED:
        raise FrameError("solicitation comes from an address, so it is no probe")
    if not destination.startswith(_SOLICITED_NODE_PREFIX):
        raise FrameError("solicitation from :: is not to a solicited-node multicast address")
    if _OPTION_SOURCE_LINK_LAYER in options:
        raise FrameError("solicitation from :: has a source link-layer address")


def _options(message: bytes) -> dict[int, bytes]:
    """Return the values of the options by type; of several of a type the last, as Linux does."""
    options = {}
    offset = 24
    while offset < len(message):
        rest = len(message) - offset
        length = 8 * message[offset + 1] if rest >= 2 else 0
        if not 0 < length <= rest:
            raise FrameError(f"option with {length} bytes where the message has {rest} left")
        options[message[offset]] = message[offset + 2 : offset + length]
        offset += length
    return options
