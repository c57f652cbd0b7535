"""Asking a daemon over its control socket, when what answers there misbehaves."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from garp_agent.runtime import client


def test_ask_a_daemon_that_drips_its_reply_ends_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT", 0.3)
    path = str(tmp_path / "control.sock")
    asked = threading.Event()

    def drip() -> None:
        connection = listener.accept()[0]
        with connection, contextlib.suppress(OSError):
            while not asked.wait(0.05):  # less than the timeout of one read
                connection.send(b"x")

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=drip)
        thread.start()
        try:
            with pytest.raises(client.ClientError, match="no answer in time"):
                client.ask(path, "status")
        finally:
            asked.set()
            thread.join()


def test_ask_returns_a_long_reply_that_comes_in_parts(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")

    def answer() -> None:
        connection = listener.accept()[0]
        with connection:
            connection.recv(4096)
            connection.sendall(
                b'{"return": {"text": "%s"}}\n{"another": "line"}\n' % (b"x" * 3000000)
            )

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        assert client.ask(path, "status") == {"text": "x" * 3_000_000}
        thread.join()
