"""Xenbus with what a real xenstored does not do; the real one is in tests/vm/test_xen.py."""

from __future__ import annotations

import errno
import os
import threading
import tty
from collections.abc import Iterator

import pytest

from garp_agent.runtime import xenbus
from garp_agent.runtime.xenbus import Xenbus
from garp_agent.wire.xenbus import ERROR, READ, encode_xenbus


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """Both ends of a byte stream: one for xenstored, the other with a name to open."""
    master, slave = os.openpty()
    tty.setraw(slave)
    yield master, os.ttyname(slave)
    os.close(master)
    os.close(slave)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, a terminal passes bytes on late."""
    monkeypatch.setattr(xenbus, "TIMEOUT", 60.0)
    monkeypatch.setattr(xenbus, "PATIENCE", 60.0)


def test_request_without_a_reply_ends_after_a_time(terminal: tuple[int, str]) -> None:
    with Xenbus(terminal[1]) as store, pytest.raises(TimeoutError):
        store.read("name")


@pytest.mark.parametrize(
    ("answer", "number"),
    [(b"\xff" * 16, errno.EPROTO), (encode_xenbus(ERROR, 1, b"ENEW\0"), errno.EIO)],
)
@pytest.mark.usefixtures("patient")
def test_reply_that_is_not_of_the_protocol_is_an_error(
    terminal: tuple[int, str], answer: bytes, number: int
) -> None:
    master, name = terminal
    with Xenbus(name) as store:
        os.write(master, answer)
        with pytest.raises(OSError, match=rf"\[Errno {number}\]"):
            store.read("name")


@pytest.mark.usefixtures("patient")
def test_reply_in_parts_and_behind_another_is_found(terminal: tuple[int, str]) -> None:
    master, name = terminal
    late, data = encode_xenbus(READ, 9, b"late"), encode_xenbus(READ, 1, b"value")

    def answer() -> None:
        os.read(master, 4096)
        os.write(master, late + data[:10])
        os.write(master, data[10:])

    with Xenbus(name) as store:
        xenstored = threading.Thread(target=answer)
        xenstored.start()
        assert store.read("name") == "value"
        xenstored.join()
