"""Writes notices to standard error, one line each: text for people and journald, or JSON.

Does not decide what is worth a line.  Writing never waits for the reader and never raises: a log
line is no reason to stop announcing.  ``logging`` would cost the daemon 2.4 MB.
"""

from __future__ import annotations

import _socket as socket  # needs less memory: docs/design.md
import codecs
import errno
import os

from garp_agent.runtime.standard_error import StandardError
from garp_agent.wire.model import LEVEL_INFO, LEVEL_WARNING, Errno, Notice

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOST = "log-lines-lost"
_LEVEL_NAMES = {3: "error", 4: "warning", 5: "notice", 6: "info", 7: "debug"}

# Loads the codec that ascii_quoted() uses: later there may be no descriptor left to load it with.
codecs.lookup("unicode_escape")


def text_of(value: object) -> object:
    """Return a field's value as people write it: addresses as text, error numbers as names."""
    if isinstance(value, bytes):
        return address_text(value)
    if isinstance(value, Errno):
        return errno.errorcode.get(value, str(int(value)))
    if isinstance(value, tuple):  # a block: an address and a prefix length
        return "/".join(str(text_of(each)) for each in value)
    return value


def address_text(address: bytes) -> str:
    """Return an IPv4, IPv6 or hardware address as text; "" for none."""
    if len(address) == 4:
        return socket.inet_ntop(socket.AF_INET, address)
    if len(address) == 16:
        return socket.inet_ntop(socket.AF_INET6, address)
    return ":".join(f"{byte:02x}" for byte in address)


class Log:
    """Standard error.

    ``level``: write notices of this LEVEL_* and more urgent ones (lower numbers).
    ``marks``: fields at the end of every line.
    """

    def __init__(
        self,
        level: int = LEVEL_INFO,
        as_json: bool = False,
        marks: tuple[tuple[str, object], ...] = (),
    ) -> None:
        self.level = level
        self._stream = StandardError()
        self._marks = marks
        self._lost = 0  # lines lost since the last one that was written
        self._format = _json_format() if as_json else _text_line
        # journald reads the level from a prefix (sd-daemon(3)); people should not see it.
        self._prefix = not as_json and "JOURNAL_STREAM" in os.environ

    def write(self, notice: Notice) -> None:
        """Write one notice, or count it as lost if the reader leaves no room for it."""
        if notice.level > self.level:
            return
        if self._lost and self._put(Notice(LEVEL_WARNING, LOST, (("count", self._lost),))):
            self._lost = 0
        if self._lost or not self._put(notice):
            self._lost += 1

    def _put(self, notice: Notice) -> bool:
        """Write one notice; return False if there is no room."""
        if self._marks:
            notice = notice._replace(fields=notice.fields + self._marks)
        line = self._format(notice)
        prefix = f"<{notice.level}>" if self._prefix else ""
        return self._stream.write(f"{prefix}{line}\n")

    def say(self, level: int, event: str, **fields: object) -> None:
        """Write one notice with these fields; fields that are None are left out."""
        self.write(Notice(level, event, tuple(fields.items())))


def _text_line(notice: Notice) -> str:
    words = [notice.event]
    for name, value in notice.fields:
        if value is not None:
            shown = str(text_of(value))
            is_plain = shown.isprintable() and shown and not set(shown) & set(' "=')
            words.append(f"{name}={shown if is_plain else ascii_quoted(shown)}")
    return " ".join(words)


def ascii_quoted(text: str) -> str:
    """Return text in double quotes, with all that could break a line or a terminal escaped."""
    escaped = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{escaped}"'


def _json_format() -> Callable[[Notice], str]:
    import json  # here, because it costs 1.3 MB that the text format does not need

    def line(notice: Notice) -> str:
        fields = {name: text_of(value) for name, value in notice.fields if value is not None}
        return json.dumps(
            {"level": _LEVEL_NAMES[notice.level], "event": notice.event, **fields}, default=str
        )

    return line
