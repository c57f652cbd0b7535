"""A real terminal for a command: a pseudoterminal of 80 columns."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from pathlib import Path

COLOUR = re.compile(r"\x1b\[[0-9;]*m")
ROOT = Path(__file__).parents[2]


def on_terminal(
    *command: str, columns: int = 80, environment: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run a command on a terminal; return its exit status and what it printed there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    settings = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "agent"), "TERM": "xterm"}
    settings |= environment or {}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=settings) as one:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1 << 16):
                shown += part
        except OSError:  # EIO: the command has closed the terminal
            pass
        finally:
            os.close(ours)
    return one.returncode, shown.decode().replace("\r\n", "\n")
