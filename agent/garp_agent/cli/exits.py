"""The exit statuses of both programs.  2 is wrong usage, from click."""

from __future__ import annotations

EXIT_FAILED = 1  # not done, or a guest that was to be hinted did not answer
EXIT_NO_GUEST = 3  # garp-hint: there is no such guest, or none at all
EXIT_NO_WATCHER = 4  # garp-hint: the watcher does not answer
EXIT_NO_PERMISSION = 77  # garp-agent; EX_NOPERM in sysexits.h
EXIT_CONFIG = 78  # garp-agent: the configuration is wrong; EX_CONFIG
