"""Reads and writes files of captured frames: pcap both ways, pcapng for reading.

Does not decide what a frame means.

Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng (blocks 4.1 to 4.3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import RawIOBase
from struct import Struct
from typing import BinaryIO, NamedTuple

ETHERNET = 1  # LINKTYPE_ETHERNET
FRAME_MOST = 1 << 18  # bytes; more is no frame
_PCAP = {b"\xa1\xb2\xc3\xd4": (">", 1e6), b"\xd4\xc3\xb2\xa1": ("<", 1e6)}  # and fractions a second
_PCAP.update({b"\xa1\xb2\x3c\x4d": (">", 1e9), b"\x4d\x3c\xb2\xa1": ("<", 1e9)})
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6  # block types of pcapng
_TIME_RESOLUTION = 9  # an option of an interface
_HEADER, _RECORD = Struct("=IHHiIII"), Struct("=IIII")


class CaptureFileError(Exception):
    """A file is not a capture of Ethernet frames; the text says why."""


class StoredFrame(NamedTuple):
    """One frame of a file."""

    when: float  # seconds, wall clock
    data: bytes


def read_capture(file: BinaryIO) -> Iterator[StoredFrame]:
    """Yield the frames of a file; the last one may be cut short.  Raises CaptureFileError."""
    magic = file.read(4)
    if magic in _PCAP:
        return _pcap_frames(file, *_PCAP[magic])
    if magic == _SECTION.to_bytes(4, "big"):
        return _pcapng_frames(file)
    raise CaptureFileError("not a capture file: neither pcap nor pcapng")


def write_header(file: RawIOBase) -> None:
    """Begin a file that was opened without a buffer.  Raises OSError."""
    _write_whole(file, _HEADER.pack(0xA1B2C3D4, 2, 4, 0, 0, FRAME_MOST, ETHERNET))


def write_frame(file: RawIOBase, frame: StoredFrame) -> None:
    """Add a frame to a file.  Raises OSError."""
    seconds = int(frame.when)
    microseconds = int((frame.when - seconds) * 1_000_000)
    length = len(frame.data)
    _write_whole(file, _RECORD.pack(seconds, microseconds, length, length) + frame.data)


def _write_whole(file: RawIOBase, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def _require_ethernet(link_type: int) -> None:
    if link_type & 0xFFFF != ETHERNET:
        raise CaptureFileError("not a capture of Ethernet frames")


def _pcap_frames(file: BinaryIO, order: str, fractions: float) -> Iterator[StoredFrame]:
    rest, record = Struct(f"{order}HHiIII"), Struct(f"{order}IIII")
    header = file.read(rest.size)
    if len(header) < rest.size:
        raise CaptureFileError("not a capture file: its header is cut short")
    _require_ethernet(rest.unpack(header)[-1])
    while True:
        head = file.read(record.size)
        if len(head) < record.size:
            return
        seconds, fraction, length, _whole = record.unpack(head)
        if length > FRAME_MOST:
            raise CaptureFileError(f"not a capture file: a frame of {length} bytes")
        yield StoredFrame(seconds + fraction / fractions, file.read(length))


def _pcapng_frames(file: BinaryIO) -> Iterator[StoredFrame]:
    order = ""
    interfaces: list[float] = []  # units of time a second
    head = _SECTION.to_bytes(4, "big") + file.read(8)
    if len(head) < 12:
        raise CaptureFileError("not a capture file: its header is cut short")
    while len(head) >= 8:
        if int.from_bytes(head[:4], "big") == _SECTION:  # the same in both orders
            order = ">" if head[8:12] == b"\x1a\x2b\x3c\x4d" else "<"
            interfaces = []
        kind, length = Struct(f"{order}II").unpack_from(head)
        if not 12 <= length <= FRAME_MOST * 2:
            raise CaptureFileError(f"not a capture file: a block of {length} bytes")
        body = head[8:] + file.read(length - len(head))
        try:
            if kind == _INTERFACE:
                interfaces.append(_units(order, body))
            elif kind == _PACKET:
                fields = Struct(f"{order}IIIII").unpack_from(body)
                number, high, low, captured, _whole = fields
                _require_ethernet(ETHERNET if number < len(interfaces) else 0)
                when = ((high << 32) + low) / interfaces[number]
                yield StoredFrame(when, body[20 : 20 + captured])
        except struct.error:
            raise CaptureFileError("not a capture file: a block is cut short") from None
        head = file.read(8)
        if head[:4] == _SECTION.to_bytes(4, "big"):
            head += file.read(4)


def _units(order: str, body: bytes) -> float:
    """Return how many units of time of an interface are one second."""
    link_type, _reserved, _most = Struct(f"{order}HHI").unpack_from(body)
    _require_ethernet(link_type)
    at = 8
    option = Struct(f"{order}HH")
    while at + 4 <= len(body) - 4:
        kind, length = option.unpack_from(body, at)
        if kind == _TIME_RESOLUTION and length:
            value = body[at + 4]
            return float(2 ** (value & 0x7F) if value & 0x80 else 10**value)
        if kind == 0:
            break
        at += 4 + (length + 3 & ~3)
    return 1e6
