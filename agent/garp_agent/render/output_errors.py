"""Output that cannot be written: a full disk, a closed pipe.

Responsible for one line on standard error and exit status 1 in place of a traceback, and for
characters that the output's encoding lacks.  Does not handle errors of sockets, and is not loaded
by the daemons.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# The errors of writing to a file or a pipe, write(2).  Sockets, which commands use too, raise
# others.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE)


def guarded(command: Callable[[], object], program: str) -> None:
    """Run a command, which ends by SystemExit; exit with 1 if its output cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # Python 3.7; None if it was closed at the start
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            command()
        finally:
            if sys.stdout:  # None if it was closed at the start
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        # The interpreter flushes once more at its end, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # the reader has closed the pipe and wants no more
            with contextlib.suppress(OSError):
                text = f"{program}: the output could not be written: {error.strerror}"
                print(text, file=sys.stderr)
        sys.exit(1)
