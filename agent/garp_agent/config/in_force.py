"""Which configuration is in force: the file's or the defaults, and what the command line overrides.

Responsible for choosing the file, and for running ``config.read`` in a forked child that hands the
settings over and ends.  So neither yaml's 3 MB nor a file that hangs stays with the daemon, and the
daemon announces while it reloads.  Does not know what a file looks like (``config.read`` does).
"""

from __future__ import annotations

import os

from garp_agent.config.errors import ConfigError, Problem
from garp_agent.config.settings import DEFAULT_PATH, Settings, plain, revive
from garp_agent.runtime.child import Child, ChildError


def configuration_path(path: str | None) -> str:
    """Return the file to read: the one named, else the usual one if it exists, else none ("")."""
    return path or (DEFAULT_PATH if os.path.exists(DEFAULT_PATH) else "")


def read_settings(path: str | None, overrides: dict[str, str]) -> Settings:
    """Return the settings in force, and wait for them.  Raises ConfigError."""
    reading = begin_reading(path, overrides)
    return finish_reading(reading) if reading else Settings()


def begin_reading(path: str | None, overrides: dict[str, str]) -> Child | None:
    """Start to read; None if the defaults are in force.

    Raises ConfigError where no child can be started.
    """
    file = configuration_path(path)

    def work() -> tuple[bool, object]:
        from garp_agent.config import read  # not in the daemon: it loads yaml

        try:
            settings = read.read_file(file) if file else Settings()
            return True, plain(read.override(settings, overrides))
        except ConfigError as error:
            return False, plain(error.problems)

    try:
        return Child(work) if file or overrides else None
    except OSError as error:
        raise _unreadable(error.strerror) from None


def finish_reading(reading: Child) -> Settings:
    """Return what the child has read, and wait for it if need be.  Raises ConfigError."""
    try:
        is_good, value = reading.result()
    except ChildError as error:
        raise _unreadable(error) from None
    if not is_good:
        raise ConfigError(Problem(*each) for each in value)
    return revive(value)


def _unreadable(reason: object) -> ConfigError:
    return ConfigError([Problem("", f"the configuration could not be read: {reason}")])
