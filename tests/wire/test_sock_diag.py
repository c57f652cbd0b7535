"""sock_diag: golden bytes, those of this kernel's headers, and any bytes."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.wire import sock_diag
from garp_agent.wire.rtnetlink import DecodeError, DumpDone, DumpInterrupted, RequestFailed
from garp_agent.wire.sock_diag import STREAM, TCP_LISTEN, SocketFile, UnixSocket
from tests import golden

pytestmark = pytest.mark.skipif(
    sys.byteorder == "big", reason="the golden datagrams are little-endian"
)

HEADERS = Path("/usr/include/linux")
WEB1 = UnixSocket(
    inode=3544908,
    cookie=b"\x02\x10" + bytes(6),
    kind=STREAM,
    state=TCP_LISTEN,
    name=b"/tmp/3-web1/org.garp_agent.0\0",
    file=SocketFile(254, 0, 2230625),
)
OTHER = UnixSocket(3544910, b"\x03\x10" + bytes(6), STREAM, TCP_LISTEN, b"\0o")
BROKEN = UnixSocket(3544909, b"\x04\x10" + bytes(6), 5, TCP_LISTEN, b"\0fake\n/run/x")
CLIENT = UnixSocket(3544911, b"\x05\x10" + bytes(6), STREAM, 1, peer=0)
GOLDEN: dict[str, list[Any]] = {
    "listening": [WEB1, OTHER, BROKEN],
    "peer-not-accepted": [CLIENT],
    "peer-accepted": [CLIENT._replace(peer=3544913)],
    "no-such-socket": [RequestFailed(10, 2)],
}


def test_golden_answers_are_all_used() -> None:
    assert sorted(f"sock_diag/{name}" for name in GOLDEN) == golden.names("sock_diag")


@pytest.mark.parametrize("name", GOLDEN)
def test_decode_golden_answer_gives_its_sockets(name: str) -> None:
    assert sock_diag.decode(golden.read(f"sock_diag/{name}")) == GOLDEN[name]


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("unix-listening", sock_diag.dump_listening(7)),
        ("unix-listener", sock_diag.ask_listener(8, WEB1.inode, WEB1.cookie)),
        ("unix-peer", sock_diag.ask_peer(9, CLIENT.inode)),
    ],
)
def test_request_gives_golden_bytes(name: str, request_: bytes) -> None:
    assert request_.hex() == golden.read(f"requests/{name}").hex()


def test_flag_of_an_interrupted_dump_is_reported() -> None:
    data = bytearray(golden.read("sock_diag/listening"))
    data[6] |= 0x10  # NLM_F_DUMP_INTR
    assert sock_diag.decode(bytes(data)) == [DumpInterrupted(7), *GOLDEN["listening"]]


def test_socket_of_another_family_is_skipped() -> None:
    data = bytearray(golden.read("sock_diag/peer-accepted"))
    data[16] = 2  # AF_INET
    assert sock_diag.decode(bytes(data)) == []


# Offsets in the datagram of a client: its body begins at 16, UNIX_DIAG_PEER at 32.
@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({0: 28}, "message of type 20 at byte 0 of 48: body has 12 bytes; must have 16"),
        ({32: 6}, "attribute 2 has 2 bytes; must have 4"),
        ({32: 99}, "attribute 2 at byte 32 gives its length as 99 of 16 bytes"),
        ({34: 1}, "attribute 1 has 4 bytes; must have 8"),
    ],
)
def test_inconsistent_bytes_are_an_error(change: dict[int, int], text: str) -> None:
    data = bytearray(golden.read("sock_diag/peer-accepted"))
    for offset, value in change.items():
        data[offset] = value
    with pytest.raises(DecodeError, match=re.escape(text)):
        sock_diag.decode(bytes(data))


@given(st.binary(), st.sampled_from(golden.names("sock_diag")), st.data())
def test_any_bytes_give_values_or_the_declared_error(
    noise: bytes, name: str, draw: st.DataObject
) -> None:
    whole = golden.read(name)
    at = draw.draw(st.integers(0, len(whole)))
    for data in (noise, whole[:at] + noise + whole[at + len(noise) :], whole[:at]):
        try:
            found = sock_diag.decode(data)
        except DecodeError:
            continue
        kinds = (UnixSocket, DumpDone, DumpInterrupted, RequestFailed)
        assert all(isinstance(each, kinds) for each in found)


def test_numbers_are_those_of_the_kernel_headers() -> None:
    try:
        text = "".join((HEADERS / f"{name}_diag.h").read_text() for name in ("sock", "unix"))
    except FileNotFoundError:
        pytest.skip("needs the kernel's headers (Debian package linux-libc-dev)")
    [names] = re.findall(r"enum\s*\{[^}]*?(UNIX_DIAG_NAME.*?)\}", text, re.DOTALL)
    numbers = {name: number for number, name in enumerate(re.findall(r"UNIX_\w+", names))}
    defined = re.findall(r"#define\s+(UDIAG_SHOW_\w+|SOCK_DIAG_BY_FAMILY)\s+(\w+)", text)
    numbers.update((name.replace("UDIAG", ""), int(value, 0)) for name, value in defined)
    ours = {
        name: value
        for name, value in vars(sock_diag).items()
        if name.startswith(("UNIX_DIAG_", "_SHOW_", "SOCK_DIAG_BY")) and name != "_SHOW_LISTENER"
    }
    assert len(ours) == 7
    assert ours == {name: numbers[name] for name in ours}
