"""What a conversation makes of what comes back, in whatever pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from garp_agent.hypervisor.core.announce_self import announce_self
from garp_agent.hypervisor.core.exchange import NOISE_LIMIT, Exchange, Outcome
from garp_agent.wire.protocol import ErrorClass, ProtocolError, Reply, encode_error, encode_return

A, B = encode_return("a", {"n": 1}), encode_return("b", {})


def exchange() -> Exchange:
    return Exchange({"a": b"ask a\n", "b": b"ask b\n"})


def test_the_requests_go_out_together() -> None:
    assert exchange().outgoing == b"ask a\nask b\n"


def test_every_request_has_to_be_answered() -> None:
    mine = exchange()
    assert mine.received(B) is None
    assert mine.received(A) is Outcome.ANSWERED
    assert mine.replies == {"a": Reply("a", {"n": 1}), "b": Reply("b", {})}


def test_an_error_is_an_answer_too() -> None:
    mine = exchange()
    assert mine.received(A) is None
    refusal = encode_error(ProtocolError(ErrorClass.FAILED, "no", "b"))
    assert mine.received(refusal) is Outcome.REFUSED
    assert mine.replies["b"].description == "no"


def test_what_others_left_is_passed_over() -> None:
    mine = exchange()
    left = b'tail of a line}\n{"return": {}}\n{"return": {}, "id": 1}\n' + encode_return("c", {})
    assert mine.received(left + b"half a li\xff" + A) is None
    assert mine.received(A) is None  # twice the same
    assert mine.received(B) is Outcome.ANSWERED


def test_hanging_up_and_running_out_of_time() -> None:
    assert exchange().received(b"") is Outcome.HUNG_UP
    assert exchange().expired() is Outcome.NO_AGENT
    mine = exchange()
    mine.received(b"\x00")
    assert mine.expired() is Outcome.GARBAGE


def test_noise_is_bounded() -> None:
    mine = exchange()
    assert mine.received(b"x" * NOISE_LIMIT) is None
    assert mine.received(b"x") is Outcome.GARBAGE


@given(st.lists(st.binary(max_size=50)), st.integers(1, 30))
def test_any_bytes_are_noise(noise: list[bytes], size: int) -> None:
    mine = exchange()
    for data in noise:
        if data:
            assert mine.received(data) is None
    assert mine.replies == {}
    whole = b"\xff" + A + B
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    assert [mine.received(piece) for piece in pieces][-1] is Outcome.ANSWERED


def test_qemus_monitor_is_asked_as_qemu_wants_it() -> None:
    monitor = announce_self()
    assert monitor.outgoing == (
        b'{"execute": "qmp_capabilities", "id": "qmp_capabilities"}\n'
        b'{"arguments": {"initial": 50, "max": 550, "rounds": 5, "step": 100}, '
        b'"execute": "announce-self", "id": "announce-self"}\n'
    )
    greeting = b'{"QMP": {"version": {"qemu": {"micro": 2, "minor": 2, "major": 7}}}}\r\n'
    assert monitor.received(greeting) is None
    assert monitor.received(b'{"return": {}, "id": "qmp_capabilities"}\r\n') is None
    event = b'{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "ANNOUNCE"}\r\n'
    assert monitor.received(event) is None
    assert monitor.received(b'{"return": {}, "id": "announce-self"}\r\n') is Outcome.ANSWERED
