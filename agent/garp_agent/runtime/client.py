"""Asks a running daemon for one thing over its control socket, as ``status`` and ``burst`` do."""

from __future__ import annotations

import socket

from garp_agent.wire import protocol

TIMEOUT = 5.0  # seconds to wait for each part of the reply


class ClientError(Exception):
    """There was no reply, or the daemon refused; the text says what to do."""


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
            sock.settimeout(TIMEOUT)
            sock.connect(path)
            sock.sendall(request)
            with sock.makefile("rb") as file:
                line = file.readline()
    except (FileNotFoundError, ConnectionRefusedError):
        raise ClientError(f"{path}: no {program} answers there; is it running?") from None
    except PermissionError:
        raise ClientError(f"{path}: permission denied; run as root or as its group") from None
    except OSError as error:
        raise ClientError(f"{path}: {error.strerror or 'no answer in time'}") from None
    try:
        reply = protocol.parse_reply(line)
    except protocol.ProtocolError as error:
        raise ClientError(f"{path}: not an answer of {program}: {error.description}") from None
    if reply.error_class:
        raise ClientError(f"{path}: refused: {reply.description}")
    return reply.value
