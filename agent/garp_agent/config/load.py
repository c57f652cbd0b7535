"""Which configuration is in force: read in a forked child, which hands the settings over and ends.

Decides which file is read.  Neither yaml's 3 MB nor a file that hangs stays with the
daemon, and a reload stops nothing.
"""

from __future__ import annotations

import os

from garp_agent.config.settings import DEFAULT_PATH, Settings, plain, revive
from garp_agent.runtime.child import Child, ChildError


class SettingsError(Exception):
    """The configuration was refused; the text has a line for each thing that is wrong with it."""


def read_settings(path: str | None, overrides: dict[str, str]) -> Settings:
    """The configuration in force: the file's, or the defaults; raises SettingsError."""
    reading = begin_reading(path, overrides)
    return finish_reading(reading) if reading else Settings()


def configuration_path(path: str | None) -> str:
    """The file that is read: the one named, else the usual one where it exists, else none ("")."""
    return path or (DEFAULT_PATH if os.path.exists(DEFAULT_PATH) else "")


def begin_reading(path: str | None, overrides: dict[str, str]) -> Child | None:
    """Read in a child: neither yaml's 3 MB nor a file that hangs stays with the daemon.

    Raises SettingsError where there can be none.
    """
    file = configuration_path(path)

    def work() -> tuple[bool, object]:
        from garp_agent.config import read as config

        try:
            settings = config.read(file) if file else Settings()
            return True, plain(config.override(settings, overrides))
        except config.ConfigError as error:
            return False, str(error)

    try:
        return Child(work) if file or overrides else None
    except OSError as error:
        raise SettingsError(f"the configuration could not be read: {error.strerror}") from None


def finish_reading(reading: Child) -> Settings:
    try:
        good, value = reading.result()
    except ChildError as error:
        raise SettingsError(f"the configuration could not be read: {error}") from None
    if not good:
        raise SettingsError(value)
    return revive(value)
