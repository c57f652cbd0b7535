"""Files of captured frames, against scapy: what it writes is read, and it reads what we write."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgWriter, PcapWriter, rdpcap

from garp_agent.diagnosis.capture_file import (
    CaptureFileError,
    StoredFrame,
    read_capture,
    write_frame,
    write_header,
)
from tests import golden

FRAMES = [golden.read(f"frames/{name}") for name in ("arp-announcement", "unsolicited-na")]
WHEN = 1_700_000_000.25
# A file header in little-endian order, and one record without its frame.
PCAP = bytes.fromhex("d4c3b2a1 02000400 00000000 00000000 00000400 01000000" + "11000000" * 4)


def written(path: Path, writer: Any) -> bytes:
    for frame in FRAMES:
        packet = Ether(frame)
        packet.time = WHEN
        writer.write(packet)
    writer.close()
    return path.read_bytes()


@pytest.fixture(params=["little", "big", "nanoseconds", "pcapng"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    """A file as scapy writes it."""
    path = tmp_path / "file"
    if request.param == "pcapng":
        return written(path, PcapNgWriter(str(path)))
    options = {"little": {"endianness": "<"}, "big": {"endianness": ">"}}
    more = options.get(request.param, {"nano": True})
    return written(path, PcapWriter(str(path), linktype=1, **more))


def test_file_of_scapy_has_its_frames_and_times(stored: bytes) -> None:
    assert list(read_capture(io.BytesIO(stored))) == [StoredFrame(WHEN, each) for each in FRAMES]


def test_file_that_is_written_is_read_by_scapy_and_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb", buffering=0) as file:
        write_header(file)
        for frame in FRAMES:
            write_frame(file, StoredFrame(WHEN, frame))
    assert [(float(each.time), bytes(each)) for each in rdpcap(str(path))] == [
        (WHEN, frame) for frame in FRAMES
    ]
    assert [each.data for each in read_capture(io.BytesIO(path.read_bytes()))] == FRAMES


@pytest.mark.parametrize("file", [b"", b"host\n", b"\xd4\xc3\xb2\xa1\x02", b"\x0a\x0d\x0d\x0a"])
def test_other_files_are_refused(file: bytes) -> None:
    with pytest.raises(CaptureFileError, match=r"^not a capture file: "):
        list(read_capture(io.BytesIO(file)))


def test_frames_of_another_link_type_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for file in (
        written(path, PcapWriter(str(path), linktype=113)),  # Linux cooked
        written(path, PcapNgWriter(str(path))).replace(
            b"\1\0\0\0\x14\0\0\0\1\0", b"\1\0\0\0\x14\0\0\0\x71\0"
        ),
    ):
        with pytest.raises(CaptureFileError, match="not a capture of Ethernet frames"):
            list(read_capture(io.BytesIO(file)))


@given(st.data())
def test_file_with_noise_or_cut_short_gives_frames_or_is_refused(data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([PCAP, b"\x0a\x0d\x0d\x0a" + bytes(24)]))
    at = data.draw(st.integers(4, len(start)))
    file = start[:at] + data.draw(st.binary(max_size=40))
    try:
        list(read_capture(io.BytesIO(file)))
    except CaptureFileError:
        pass
