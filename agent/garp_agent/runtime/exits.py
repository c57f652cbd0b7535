"""The exit statuses of both programs."""

from __future__ import annotations

EXIT_FAILED = 1  # not done, or a guest did not answer a hint, or the output could not be written
EXIT_USAGE = 2  # wrong usage; click exits with it, too
EXIT_NO_GUEST = 3  # garp-hint: there is no such guest, or no guest at all
EXIT_NO_WATCHER = 4  # garp-hint: the watcher does not answer
EXIT_NO_PERMISSION = 77  # to send, to ask a daemon, to install; EX_NOPERM in sysexits.h
EXIT_CONFIG = 78  # the configuration is refused; EX_CONFIG in sysexits.h
EXIT_INTERRUPTED = 130  # Ctrl-C: 128 and the number of SIGINT, as a shell has it
