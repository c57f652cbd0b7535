"""Messages to xenstore: golden bytes, and any bytes in parts."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.wire import xenbus
from garp_agent.wire.xenbus import XenbusReply, decode_xenbus, encode_xenbus, path_payload
from tests import golden

pytestmark = pytest.mark.skipif(
    sys.byteorder == "big", reason="the golden messages are little-endian"
)

STATE = "/local/domain/0/backend/vif/1/0/state"
REQUESTS = {
    "read": encode_xenbus(xenbus.READ, 7, path_payload("device/console/1/name")),
    "transaction-start": encode_xenbus(xenbus.TRANSACTION_START, 1, b"\0"),
    "write-state": encode_xenbus(xenbus.WRITE, 3, path_payload(STATE) + b"4", 42),
    "transaction-end": encode_xenbus(xenbus.TRANSACTION_END, 4, xenbus.COMMIT, 42),
}
REPLIES = {
    "value": XenbusReply(xenbus.READ, 7, b"org.garp_agent.0"),
    "names": XenbusReply(xenbus.DIRECTORY, 8, b"0\x001\0"),
    "error": XenbusReply(xenbus.ERROR, 7, b"ENOENT\0"),
}


def test_golden_messages_are_all_used() -> None:
    names = sorted(f"xenbus/{name}" for name in (*REQUESTS, *REPLIES))
    assert names == golden.names("xenbus")


@pytest.mark.parametrize("name", REQUESTS)
def test_request_gives_golden_bytes(name: str) -> None:
    assert REQUESTS[name].hex() == golden.read(f"xenbus/{name}").hex()


@pytest.mark.parametrize("name", REPLIES)
def test_golden_bytes_give_the_reply_and_what_follows(name: str) -> None:
    data = golden.read(f"xenbus/{name}")
    assert decode_xenbus(data + b"next") == (REPLIES[name], b"next")
    for cut in range(len(data)):
        assert decode_xenbus(data[:cut]) == (None, data[:cut])


def test_only_an_error_has_the_name_of_an_error() -> None:
    assert [REPLIES[name].error for name in REPLIES] == ["", "", "ENOENT"]


def test_length_beyond_the_protocol_is_refused() -> None:
    data = bytearray(golden.read("xenbus/value"))
    data[12:16] = (xenbus.PAYLOAD_MOST + 1).to_bytes(4, "little")
    with pytest.raises(ValueError, match="a reply of 4097 bytes; allowed: 4096"):
        decode_xenbus(bytes(data))


@given(st.binary(max_size=64))
def test_any_bytes_give_a_reply_or_the_declared_error(data: bytes) -> None:
    try:
        reply, rest = decode_xenbus(data)
    except ValueError:
        return
    assert rest == data[len(data) - len(rest) :]
    assert reply is not None or rest == data
