"""Asks a running daemon for one thing over its control socket, as ``status`` and ``burst`` do."""

from __future__ import annotations

import socket
import time

from garp_agent.wire import protocol

TIMEOUT = 10.0  # seconds for the connection, the request and the whole reply


class ClientError(Exception):
    """There was no reply, or the daemon refused; the text says what to do."""


class NotPermittedError(ClientError):
    """This process may not use the control socket."""


def ask(
    path: str,
    command: str,
    arguments: dict[str, object] | None = None,
    program: str = "garp-agent",
) -> dict[str, object]:
    """Send one command to the daemon that listens on ``path``; return the value of its reply.

    ``program``: the daemon's name, for error texts.
    Raises ClientError.
    """
    request = protocol.encode_request(command, arguments)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            line = _converse(sock, path, request, time.monotonic() + TIMEOUT)
    except (FileNotFoundError, ConnectionRefusedError):
        raise ClientError(f"{path}: no {program} answers there; is it running?") from None
    except PermissionError:
        text = f"{path}: permission denied; run as root or as its group"
        raise NotPermittedError(text) from None
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror or 'no answer in time'}") from None
    try:
        reply = protocol.parse_reply(line)
    except protocol.ProtocolError as error:
        raise ClientError(f"{path}: not an answer of {program}: {error.description}") from None
    if reply.error_class:
        raise ClientError(f"{path}: refused: {reply.description}")
    return reply.value


def _converse(sock: socket.socket, path: str, request: bytes, end: float) -> bytes:
    """Return the first line of the reply.  Raises OSError; TimeoutError at the time ``end``."""
    parts: list[bytes] = []
    sock.settimeout(_left(end))
    sock.connect(path)
    sock.sendall(request)
    while not parts or (parts[-1] and b"\n" not in parts[-1]):
        sock.settimeout(_left(end))  # it holds for one call only
        parts.append(sock.recv(1 << 16))
    return b"".join(parts).partition(b"\n")[0]


def _left(end: float) -> float:
    left = end - time.monotonic()
    if left <= 0.0:
        raise TimeoutError
    return left
