"""States of cards written again, with what a real xenstored does rarely.

The real one is in tests/vm/test_xen.py.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import tty
from collections.abc import Callable, Iterator

import pytest

from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.io.xenstore import (
    ATTEMPTS,
    XenChannel,
    rewrite_states,
    xen_cards,
    xen_channels,
)
from garp_agent.hypervisor.xen_rewrites import XenRewrites
from garp_agent.runtime import xenbus
from garp_agent.wire.xenbus import (
    DIRECTORY,
    ERROR,
    READ,
    TRANSACTION_END,
    TRANSACTION_START,
    WRITE,
    encode_xenbus,
)

FOLDER = "/local/domain/0/backend/vif/1"
STATE = f"{FOLDER}/0/state".encode()
ONE_CARD = {(DIRECTORY, FOLDER.encode()): b"0\0", (TRANSACTION_START, b""): b"42\0"}
Request = tuple[int, int, bytes]  # type, transaction, payload


class FakeXenstored:
    """Answers at one end of a terminal; ``seen`` has the requests."""

    def __init__(self, answer: Callable[[int, bytes], bytes | str | None]) -> None:
        """``answer``: takes type and payload; returns the payload of the reply, or an error."""
        self.seen: list[Request] = []
        self._answer = answer
        self._master, slave = os.openpty()
        tty.setraw(slave)
        self.device = os.ttyname(slave)
        self._slave = slave
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread first: it must not read from the next object's descriptor."""
        os.close(self._slave)
        self._thread.join()
        os.close(self._master)

    def _read(self, length: int) -> bytes:
        """Read so many bytes: a terminal may pass on one request in parts."""
        data = b""
        while len(data) < length:
            data += os.read(self._master, length - len(data))
        return data

    def _serve(self) -> None:
        try:
            while True:
                data = self._read(16)
                kind, request, transaction, length = (
                    int.from_bytes(data[at : at + 4], "little") for at in (0, 4, 8, 12)
                )
                data += self._read(length)
                self.seen.append((kind, transaction, data[16:]))
                reply = self._answer(kind, data[16:])
                if isinstance(reply, str):
                    kind, reply = ERROR, reply.encode() + b"\0"
                if reply is not None:
                    os.write(self._master, encode_xenbus(kind, request, reply))
        except OSError:
            pass


def _transactions(store: FakeXenstored) -> list[int]:
    return [kind for kind, _, _ in store.seen if kind != DIRECTORY]


@pytest.fixture
def xenstored(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeXenstored]]:
    """Makes one; if it answers everything, a busy machine has time enough for that."""
    made: list[FakeXenstored] = []

    def make(values: dict[tuple[int, bytes], bytes | str | None]) -> FakeXenstored:
        def answer(kind: int, payload: bytes) -> bytes | str | None:
            return values.get((kind, payload.partition(b"\0")[0]), b"OK\0")

        if None not in values.values():
            monkeypatch.setattr(xenbus, "TIMEOUT", 60.0)
            monkeypatch.setattr(xenbus, "PATIENCE", 60.0)
        made.append(FakeXenstored(answer))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_state_is_written_again_in_a_transaction(
    xenstored: Callable[..., FakeXenstored],
) -> None:
    store = xenstored({**ONE_CARD, (READ, STATE): b"4"})
    assert rewrite_states([FOLDER], store.device) == {FOLDER: 0}
    assert store.seen[2:] == [
        (READ, 42, STATE + b"\0"),
        (WRITE, 42, STATE + b"\x004"),
        (TRANSACTION_END, 42, b"T\0"),
    ]


def test_state_of_a_card_that_is_unplugged_is_left_alone(
    xenstored: Callable[..., FakeXenstored],
) -> None:
    store = xenstored({**ONE_CARD, (READ, STATE): b"6"})
    assert rewrite_states([FOLDER], store.device) == {FOLDER: 0}
    assert WRITE not in _transactions(store)


def test_transaction_that_conflicts_is_repeated_a_few_times(
    xenstored: Callable[..., FakeXenstored],
) -> None:
    store = xenstored({**ONE_CARD, (READ, STATE): b"4", (TRANSACTION_END, b"T"): "EAGAIN"})
    assert rewrite_states([FOLDER], store.device) == {FOLDER: errno.EAGAIN}
    assert _transactions(store).count(TRANSACTION_END) == ATTEMPTS


def _number_seen(store: FakeXenstored) -> int:
    while not store.seen:  # its thread may be late
        time.sleep(0.001)
    return len(store.seen)


def test_xenstored_that_does_not_answer_is_asked_once(
    xenstored: Callable[..., FakeXenstored],
) -> None:
    store = xenstored({(DIRECTORY, FOLDER.encode()): None})
    others = [f"{FOLDER}{number}" for number in range(3)]
    failed = rewrite_states([FOLDER, *others], store.device)
    assert failed == dict.fromkeys([FOLDER, *others], errno.ETIMEDOUT)
    assert _number_seen(store) == 1


def test_machine_without_xen_has_no_guests_and_rewrites_nothing() -> None:
    nowhere = "/does/not/exist"
    assert (xen_channels("org.garp_agent.0", nowhere), xen_cards(nowhere)) == (None, None)
    assert rewrite_states([FOLDER], nowhere) == {FOLDER: errno.ENOENT}


def test_xenstored_that_is_slow_is_given_up_after_a_while(
    xenstored: Callable[..., FakeXenstored], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it does not delay hints: it can need 0.1 s for each of 1,000 names."""
    store = xenstored(ONE_CARD)
    assert xen_cards(store.device)
    monkeypatch.setattr(xenbus, "PATIENCE", 0.0)
    assert xen_cards(store.device) is None


def test_guests_are_let_announce_one_after_the_other(
    xenstored: Callable[..., FakeXenstored],
) -> None:
    store = xenstored({**ONE_CARD, (READ, STATE): b"4"})
    rewrites = XenRewrites(store.device)
    calls = [Call(FOLDER, Exchange({})), Call(f"{FOLDER}1", Exchange({}))]
    rewrites.add(calls)
    assert rewrites.advance() == [Result(calls[0], Outcome.ANSWERED, 0.0)]
    assert len(rewrites) == 1
    [second] = rewrites.advance()
    assert second.call is calls[1]
    assert rewrites.advance() == []


def test_guests_are_given_up_together_if_xenstored_does_not_answer(
    xenstored: Callable[..., FakeXenstored],
) -> None:
    store = xenstored({(DIRECTORY, FOLDER.encode()): None})
    rewrites = XenRewrites(store.device)
    rewrites.add(Call(FOLDER, Exchange({}), number=number) for number in range(3))
    assert [each[1::2] for each in rewrites.advance()] == 3 * [(Outcome.FAILED, errno.ETIMEDOUT)]
    assert _number_seen(store) == 1


def test_channels_with_the_name_are_found_with_guest_and_path(
    xenstored: Callable[..., FakeXenstored],
) -> None:
    console = b"/local/domain/0/backend/console"
    store = xenstored(
        {
            (DIRECTORY, console): b"3\0004\0",
            (DIRECTORY, console + b"/3"): b"0\0001\0002\0",
            (DIRECTORY, console + b"/4"): b"1\0",
            (READ, b"/local/domain/3/name"): b"web1",
            (READ, b"/local/domain/4/name"): "ENOENT",  # it has just ended
            (READ, console + b"/3/0/name"): "ENOENT",  # the guest's own console
            (READ, console + b"/3/1/name"): b"org.garp_agent.0",
            (READ, console + b"/3/1/path"): b"/run/garp/web1.sock",
            (READ, console + b"/3/2/name"): b"org.other",
            (READ, console + b"/4/1/name"): b"org.garp_agent.0",
        }
    )
    assert xen_channels("org.garp_agent.0", store.device) == [
        XenChannel("web1", "/run/garp/web1.sock")
    ]
