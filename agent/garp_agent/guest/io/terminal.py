"""Lets a terminal carry lines as they are: a Xen channel, or a serial line.

Loaded only where the hint port can be a terminal: termios costs an agent 0.05 MB, and its 250 names
can cost 0.2 MB more, because they make the interpreter double its table of names.
"""

from __future__ import annotations

import termios
import tty


def make_raw(descriptor: int) -> None:
    """Turn echo and line editing off: with echo the host would read its own hints.

    Raises OSError.
    """
    try:
        tty.setraw(descriptor, termios.TCSANOW)
    except termios.error as error:  # not a subclass of OSError
        raise OSError(*error.args) from None


def discard_input(descriptor: int) -> None:
    """Discard what waits to be read.  Raises OSError."""
    try:
        termios.tcflush(descriptor, termios.TCIFLUSH)
    except termios.error as error:
        raise OSError(*error.args) from None
