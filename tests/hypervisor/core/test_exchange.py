"""What an exchange makes of the bytes that come back, in any pieces."""

from __future__ import annotations

from garp_agent.hypervisor.core.announce_self import announce_self
from garp_agent.hypervisor.core.exchange import NOISE_LIMIT, Exchange, Outcome
from garp_agent.wire.protocol import ErrorClass, ProtocolError, Reply, encode_error, encode_return

A, B = encode_return("a", {"n": 1}), encode_return("b", {})


def two_requests() -> Exchange:
    return Exchange({"a": b"ask a\n", "b": b"ask b\n"})


def test_exchange_has_answered_when_all_requests_have_replies() -> None:
    exchange = two_requests()
    assert exchange.outgoing == b"ask a\nask b\n"
    leftover = b'tail of a line}\n{"return": {}}\n{"return": {}, "id": 1}\n'
    assert exchange.received(leftover + encode_return("c", {}) + b"half a li\xff" + B[:9]) is None
    assert exchange.replies == {}
    assert exchange.received(B[9:]) is None
    assert exchange.received(B) is None  # the same again
    assert exchange.received(A) is Outcome.ANSWERED
    assert exchange.replies == {"a": Reply("a", {"n": 1}), "b": Reply("b", {})}


def test_exchange_with_an_error_among_the_replies_is_refused() -> None:
    exchange = two_requests()
    assert exchange.received(encode_error(ProtocolError(ErrorClass.FAILED, "no", "b"))) is None
    assert exchange.received(A) is Outcome.REFUSED
    assert exchange.replies["b"].description == "no"


def test_exchange_without_replies_has_its_outcome() -> None:
    assert two_requests().received(b"") is Outcome.HUNG_UP
    assert two_requests().expired() is Outcome.NO_AGENT
    exchange = two_requests()
    assert exchange.received(b"x" * NOISE_LIMIT) is None
    assert exchange.expired() is Outcome.GARBAGE
    assert exchange.received(b"x") is Outcome.GARBAGE


def test_announce_self_sends_what_qemu_requires_and_skips_its_greeting_and_events() -> None:
    monitor = announce_self()
    assert monitor.outgoing == (
        b'{"execute": "qmp_capabilities", "id": "qmp_capabilities"}\n'
        b'{"arguments": {"initial": 50, "max": 550, "rounds": 5, "step": 100}, '
        b'"execute": "announce-self", "id": "announce-self"}\n'
    )
    for line in (
        b'{"QMP": {"version": {"qemu": {"micro": 2, "minor": 2, "major": 7}}}}\r\n',
        b'{"return": {}, "id": "qmp_capabilities"}\r\n',
        b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "ANNOUNCE"}\r\n',
    ):
        assert monitor.received(line) is None
    assert monitor.received(b'{"return": {}, "id": "announce-self"}\r\n') is Outcome.ANSWERED
