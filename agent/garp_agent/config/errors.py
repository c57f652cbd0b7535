"""What is wrong with a configuration, in the words that the operator reads.

Responsible for how a problem looks: one line, ``FILE:LINE: KEY: given VALUE: what is wrong;
allowed ...``.  Knows no key and no rule.  The daemon loads this module, so it imports little.
"""

from __future__ import annotations

import errno

from garp_agent.wire.record import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

COMMAND_LINE = "command line"  # Problem.source of an option
# Errors of open(2) and read(2) that stay until an operator does something.
_LASTING = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR),
    *(errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL),
)
SHOWN_CHARACTERS = 60  # of a value; the line and the key say where the rest is


class Problem(NamedTuple):
    """One thing that is wrong with a configuration; while ``wrong`` is "", the place of a value."""

    source: str  # the file's name, or COMMAND_LINE
    wrong: str = ""
    allowed: str = ""
    key: str = ""  # dotted, list items by index: "interfaces.include[2]"; "" for the document
    given: str = ""  # as written in the file; "" where there is nothing to show
    line: int = 0  # from 1; 0 for the file as a whole
    column: int = 0  # orders the problems of a line
    may_pass: bool = False  # it says nothing about the text, and a new attempt may succeed

    def __str__(self) -> str:
        place = escaped(self.source) + (f":{self.line}" if self.line else "")
        given = self.given and f"given {self.given}"
        allowed = self.allowed and f"; allowed {self.allowed}"
        return ": ".join(filter(None, (place, self.key, given, self.wrong))) + allowed


def unread(source: str, error: OSError) -> Problem:
    """Return the problem of a file that cannot be read."""
    may_pass = error.errno not in _LASTING
    return Problem(source, f"cannot be read: {error.strerror}", may_pass=may_pass)


class ConfigError(Exception):
    """The configuration is refused.  The text has one line for each of ``problems``.

    ``usable``: settings with everything that is good; None if nothing was read.
    ``is_usage``: all problems are of options on the command line.
    ``may_pass``: a new attempt may succeed without a change of the files.
    """

    def __init__(self, problems: Iterable[Problem], usable: Any = None) -> None:
        found = list(problems)
        files: dict[str, int] = {}  # in the order of their first problems
        for each in found:
            files.setdefault(each.source, len(files))
        found.sort(key=lambda each: (files[each.source], each.line, each.column))
        self.problems, self.usable = tuple(found), usable
        self.is_usage = all(each == COMMAND_LINE for each in files)
        self.may_pass = any(each.may_pass for each in found)
        super().__init__("\n".join(map(str, found)))


class InvalidError(Exception):
    """A value is not what its key takes.  The text says why, but not where.

    ``texts``: what to write instead, the best first; the reader checks whether the key takes them.
    ``meant`` is added to such advice.
    """

    def __init__(self, wrong: str, *texts: str, meant: str = "") -> None:
        self.wrong, self.texts, self._meant = wrong, texts, meant
        super().__init__(self.advising(*texts[:1]))

    def advising(self, text: str = "") -> str:
        """Return what is wrong, with the advice to write a text instead."""
        return f"{self.wrong}, write {text}{self._meant}" if text else self.wrong


def require(good: object, wrong: str, *texts: str, meant: str = "") -> None:
    """Raise InvalidError, unless all is good."""
    if not good:
        raise InvalidError(wrong, *texts, meant=meant)


def escaped(text: str) -> str:
    """Replace what is not printable, so that a file cannot control the terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shown(text: str) -> str:
    """Shorten a piece of the file to one printable line."""
    text = " ".join(text[: 4 * SHOWN_CHARACTERS].split())
    short = text[: SHOWN_CHARACTERS - 3] + "..."
    return escaped(text if len(text) <= SHOWN_CHARACTERS else short)


def series(words: Iterable[str], last: str) -> str:
    """Join words: ``a, b or c``."""
    *front, end = words
    return f"{', '.join(front)} {last} {end}" if front else end
