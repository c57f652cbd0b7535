"""Which configuration is in force: the files' or the defaults, and what the command line overrides.

Responsible for choosing the files, and for running ``config.read`` in a forked child that hands the
settings over and ends.  So neither yaml's 3 MB nor a file that hangs stays with the daemon, and the
daemon announces while it reloads.  Does not know what a file looks like (``config.read`` does).
"""

from __future__ import annotations

import os

from garp_agent.config.errors import ConfigError, Problem, unread
from garp_agent.config.settings import DEFAULT_PATH, Settings, plain, revive
from garp_agent.runtime.child import Child, ChildError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SUFFIX = ".yaml"  # of the files of conf.d that are read
MOST_PROBLEMS = 100  # that the child names: each is a line in the log


def configuration_files(path: str | None) -> tuple[str, ...]:
    """Return the files to read, in the order in which they override each other.

    The file that is named alone; else the usual file and then those of ``conf.d``, if they exist.
    Raises ConfigError if it cannot be found out whether they exist: settings that are left out,
    such as ``exclude``, would make the agent announce what it must not.
    """
    if path:
        return (path,)
    folder = os.path.dirname(DEFAULT_PATH)
    more = os.path.join(folder, "conf.d")
    try:
        if not _exists(folder):
            return ()
        os.stat(f"{folder}/")  # a file or a link to nowhere is an error, too
        usual = [DEFAULT_PATH] if _exists(DEFAULT_PATH) else []
        names = sorted(os.listdir(more)) if _exists(more) else []
    except OSError as error:
        raise ConfigError([unread(error.filename.rstrip("/"), error)]) from None
    wanted = (name for name in names if name.endswith(SUFFIX) and name[0] != ".")
    return (*usual, *(os.path.join(more, name) for name in wanted))


def files_left_out(path: str | None) -> tuple[str, ...]:
    """Return the files of ``conf.d`` that are not read because of their suffix.

    Hidden ones do not count.  Raises OSError.
    """
    more = os.path.join(os.path.dirname(DEFAULT_PATH), "conf.d")
    if path or not _exists(more):
        return ()
    names = sorted(name for name in os.listdir(more) if name[0] != ".")
    return tuple(os.path.join(more, name) for name in names if not name.endswith(SUFFIX))


def _exists(path: str) -> bool:
    """Return whether anything is there, also a link to nowhere.  Raises OSError."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_settings(path: str | None, overrides: dict[str, str]) -> Settings:
    """Return the settings in force, and wait for them.  Raises ConfigError."""
    reading = begin_reading(path, overrides)
    return finish_reading(reading) if reading else Settings()


def begin_reading(path: str | None, overrides: dict[str, str]) -> Child | None:
    """Start to read; None if the defaults are in force.

    Raises ConfigError where no child can be started, or as :func:`configuration_files` does.
    """
    files = configuration_files(path)

    def work() -> tuple[Any, list[tuple[Any, ...]]]:
        from garp_agent.config import read  # not in the daemon: it loads yaml

        try:
            return plain(read.override(read.read_files(files), overrides)), []
        except ConfigError as error:
            problems = list(error.problems)
            more = len(problems) - MOST_PROBLEMS
            if more > 0:
                rest = Problem("", f"more problems: {more}; `garp-agent check` shows all")
                problems[MOST_PROBLEMS:] = [rest]
            return None, [tuple(each) for each in problems]

    try:
        return Child(work) if files or overrides else None
    except OSError as error:
        raise _unreadable(error.strerror, True) from None


def finish_reading(reading: Child) -> Settings:
    """Return what the child has read, and wait for it if need be.  Raises ConfigError."""
    try:
        values, problems = reading.result()
    except ChildError as error:
        raise _unreadable(error, error.may_pass) from None
    if problems:
        raise ConfigError(Problem(*each) for each in problems)
    settings: Settings = revive(values)
    return settings


def _unreadable(reason: object, may_pass: bool) -> ConfigError:
    wrong = f"the configuration could not be read: {reason}"
    return ConfigError([Problem("", wrong, may_pass=may_pass)])
