"""Reads the configuration again while the daemon runs.

One reading at a time, in a child process, so that the loop never waits for a file.  Does not know
what a setting means: the daemon puts the settings into force.
"""

from __future__ import annotations

from garp_agent.config.errors import ConfigError
from garp_agent.config.in_force import begin_reading, finish_reading
from garp_agent.config.settings import Settings
from garp_agent.wire.model import LEVEL_ERROR, LEVEL_NOTICE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from garp_agent.guest.loop import Loop
    from garp_agent.guest.options import RunOptions
    from garp_agent.runtime.child import Child
    from garp_agent.runtime.log import Log
    from garp_agent.runtime.notify import Notify


class Reload:
    """Reads the configuration on request, and reports the result to log and service manager.

    ``apply`` is called with settings that are valid, and with the time.
    """

    def __init__(
        self,
        options: RunOptions,
        loop: Loop,
        log: Log,
        notify: Notify,
        apply: Callable[[Settings, float], None],
    ) -> None:
        self._options = options
        self._loop = loop
        self._log = log
        self._notify = notify
        self._apply = apply
        self._reading: Child | None = None
        self._again = False

    def request(self, now: float) -> None:
        """Start reading.  During a reading, note that one more is needed after it.

        The file may have changed after the child read it, so the one under way is not enough.
        """
        if self._reading is not None:
            self._again = True
            return
        self._notify.say("RELOADING=1")
        try:
            self._reading = begin_reading(self._options.config, self._options.overrides())
        except ConfigError as error:
            self._refuse(error)
            return
        if self._reading is None:  # no file and no overrides
            self._accept(Settings(), now)
        else:
            self._loop.watch(self._reading, self._read)

    def _read(self, now: float) -> None:
        reading = self._reading
        assert reading is not None
        if not reading.read():
            return
        self._loop.unwatch(reading)
        self._reading = None
        try:
            settings = finish_reading(reading)
        except ConfigError as error:
            self._refuse(error)
        else:
            self._accept(settings, now)
        if self._again:
            self._again = False
            self.request(now)

    def _accept(self, settings: Settings, now: float) -> None:
        self._apply(settings, now)
        self._log.say(LEVEL_NOTICE, "configuration-loaded")
        self._notify.say("READY=1\nSTATUS=configuration reloaded")

    def _refuse(self, error: ConfigError) -> None:
        for problem in str(error).splitlines():
            self._log.say(LEVEL_ERROR, "configuration-refused", problem=problem)
        self._notify.say("READY=1\nSTATUS=configuration refused; the old one is in force")
