"""What a command does when its output can't be written: one line, status 1, no traceback.

Decides nothing else.  Not loaded by the daemons.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

EXIT_FAILED = 1
# What only a write to a file or a pipe fails with: not the sockets that commands use.
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF, errno.EPIPE)


def guarded(command: Callable[[], object], program: str) -> None:
    """Run a command, which exits with its status; or say that its output can't be written."""
    try:
        try:
            command()
        finally:
            if sys.stdout:  # None where it is closed
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        # The interpreter would try once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # nobody reads any more: nothing to say
            with contextlib.suppress(OSError):
                text = f"{program}: the output could not be written: {error.strerror}"
                print(text, file=sys.stderr)
        sys.exit(EXIT_FAILED)
