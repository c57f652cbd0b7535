"""Writes notices to standard error: one line each, for journald and for people, or as JSON.

Decides only how a line looks.  ``logging`` would cost the daemon 2.4 MB.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys

from garp_agent.wire.model import (
    LEVEL_INFO,
    LEVEL_WARNING,
    Errno,
    Notice,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO

_LEVEL_NAMES = {3: "error", 4: "warning", 5: "notice", 6: "info", 7: "debug"}


def text_of(value: object) -> object:
    """A field's value as people write it: addresses and error numbers by their names."""
    if isinstance(value, bytes):
        return address_text(value)
    if isinstance(value, Errno):
        return errno.errorcode.get(value, str(int(value)))
    return value


def address_text(address: bytes) -> str:
    """An IPv4, IPv6 or hardware address as text; "" for none."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    if len(address) == 16:
        return socket.inet_ntop(socket.AF_INET6, address)
    return address.hex(":")


class Log:
    """Standard error.  ``level``: the least urgent notices that are written.

    ``marks``: fields that every line ends with.
    """

    def __init__(
        self,
        level: int = LEVEL_INFO,
        as_json: bool = False,
        marks: tuple[tuple[str, object], ...] = (),
    ) -> None:
        self.level = level
        self._marks = marks
        self._lost = 0  # lines, since the last that was written
        self._format = _json_line if as_json else _text_line
        # journald takes the level from a prefix and would show it to people otherwise.
        self._prefix = not as_json and "JOURNAL_STREAM" in os.environ

    def write(self, notice: Notice) -> None:
        """Write one notice; a reader that hangs or has gone is no reason to stop announcing."""
        if notice.level > self.level or sys.stderr is None:  # None: closed before we began
            return
        if not _has_room(sys.stderr):
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            self.say(LEVEL_WARNING, "log-lines-lost", count=lost)
        if self._marks:
            notice = notice._replace(fields=notice.fields + self._marks)
        line = self._format(notice)
        if self._prefix:
            line = f"<{notice.level}>{line}"
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):
            pass

    def say(self, level: int, event: str, **fields: object) -> None:
        """Write one notice made here."""
        self.write(Notice(level, event, tuple(fields.items())))


def _has_room(stream: TextIO) -> bool:
    """Whether a line can be written without waiting for whoever reads it."""
    try:
        return bool(select.select((), (stream,), (), 0)[1])
    except (OSError, ValueError):  # nothing to wait for behind it
        return True


def _text_line(notice: Notice) -> str:
    words = [notice.event]
    for name, value in notice.fields:
        if value is not None:
            shown = str(text_of(value))
            plain = shown.isprintable() and shown and not set(shown) & set(' "=')
            words.append(f"{name}={shown if plain else ascii_quoted(shown)}")
    return " ".join(words)


def ascii_quoted(text: str) -> str:
    """Text in double quotes, with everything that could break a line or a terminal escaped."""
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def _json_line(notice: Notice) -> str:
    import json  # loads re: 1.2 MB, for those who ask for this format

    fields = {name: text_of(value) for name, value in notice.fields if value is not None}
    return json.dumps(
        {"level": _LEVEL_NAMES[notice.level], "event": notice.event, **fields}, default=str
    )
