"""``garp-agent run``: puts the rooms together and lives with signals.

Decides what a signal means, what happens to the doors when the configuration changes,
and the exit status.  Loads neither click nor yaml.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from garp_agent.config.load import (
    SettingsError,
    begin_reading,
    configuration_path,
    finish_reading,
    read_settings,
)
from garp_agent.config.settings import Settings
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.kernel import GUEST
from garp_agent.guest.core.model import BurstRequested, Cause, HintPortClosed
from garp_agent.guest.io.conflict_socket import ConflictSocket
from garp_agent.guest.io.hint_port import HintPort, PortState
from garp_agent.guest.io.packet import DryRun, PacketSender
from garp_agent.guest.loop import Loop
from garp_agent.guest.options import RunOptions
from garp_agent.runtime.control_socket import AlreadyRunningError, ControlSocket
from garp_agent.runtime.log import Log
from garp_agent.runtime.netlink import Netlink
from garp_agent.runtime.notify import Notify
from garp_agent.runtime.signals import Signals
from garp_agent.wire.model import (
    LEVEL_DEBUG,
    LEVEL_ERROR,
    LEVEL_INFO,
    LEVEL_NOTICE,
    LEVEL_WARNING,
    Errno,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.guest.loop import Sender
    from garp_agent.guest.requests import RequestHandler
    from garp_agent.runtime.child import Child
    from garp_agent.wire.lines import Line

EXIT_FAILED = 1
EXIT_NO_PERMISSION = 77  # EX_NOPERM, sysexits.h
EXIT_CONFIG = 78  # EX_CONFIG

DRY_RUN = (("dry_run", "nothing is sent"),)  # what every line of a dry run's log ends with
NO_PERMISSION = (
    "garp-agent: no permission to send frames: CAP_NET_RAW is missing; "
    "run it as root, or give it that capability (AmbientCapabilities=CAP_NET_RAW in a unit)"
)


def run(options: RunOptions) -> int:
    """Be the daemon until told to end; the exit status."""
    log = _log(options)
    try:
        settings = read_settings(options.config, options.overrides())
        frames = sender(options.dry_run)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIG
    except PermissionError:
        print(NO_PERMISSION, file=sys.stderr)
        return EXIT_NO_PERMISSION
    try:
        AgentDaemon(options, settings, frames, log).run()
    except AlreadyRunningError as error:
        print(f"garp-agent: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _log(options: RunOptions) -> Log:
    level = LEVEL_DEBUG if options.verbose or options.dry_run else LEVEL_INFO
    return Log(level, options.log_format == "json", DRY_RUN if options.dry_run else ())


def sender(dry_run: bool) -> Sender:
    """What takes the frames; raises PermissionError where it must not send any."""
    return DryRun() if dry_run else PacketSender()


def _uniform() -> float:
    """A number from [0, 1).  Drawn from the kernel: guests cloned from one image must differ,
    and ``random`` would cost 0.5 MB."""
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)


class AgentDaemon:
    """The agent while it runs: loop, signals, doors, configuration."""

    def __init__(self, options: RunOptions, settings: Settings, frames: Sender, log: Log) -> None:
        self._options = options
        self._log = log
        self._started = time.monotonic()
        self._notify = Notify()
        self._ready = False
        self._signals = Signals()
        self._engine = Engine(settings, _uniform, log.level)
        self._netlink = Netlink(settings.reconcile_interval, GUEST)
        self._loop = Loop(self._engine, self._netlink, frames, log, self._after_turn)
        self._loop.watch(self._signals, self._read_signals)
        self._reading: Child | None = None  # a reload under way
        self._read_again = False
        self._control: ControlSocket | None = None
        self._port: HintPort | None = None
        self._answers: dict[str, RequestHandler] = {}
        self._port_was: object = None
        self._claims: ConflictSocket | None = None
        self._watched = -1  # the engine's revision that the claims are watched for
        self._open_control()

    def run(self) -> None:
        """Turn until SIGTERM or SIGINT."""
        try:
            self._loop.run()
        finally:
            self._notify.say("STOPPING=1")
            self._close_control()
            self._close_port()
            if self._claims is not None:
                self._claims.close()
            self._loop.close()
            self._signals.close()
        self._log.say(LEVEL_INFO, "stopped", frames_sent=self._engine.counters.sent)

    def _after_turn(self, now: float) -> float:
        if self._engine.inventory.complete:
            if not self._ready:
                self._ready = True
                self._notify.say("READY=1")
                self._open_port()
                self._open_claims()
            assert self._port is not None
            self._port.attempt(now)
            self._note_port()
            if self._engine.has_lease() and not self._port.is_open():
                self._engine.handle(HintPortClosed(), now)
            if self._control is not None:
                self._control.attempt(now)
            self._watch_claims()
        self._notify.alive(now)
        return self._notify.deadline()

    # -- signals ------------------------------------------------------------------------

    def _read_signals(self, now: float) -> None:
        arrived = self._signals.read()
        if signal.SIGUSR1 in arrived:
            self._loop.act(BurstRequested(Cause.OPERATOR, reason="SIGUSR1"), now)
        if signal.SIGHUP in arrived:
            self._reload(now)
        if {signal.SIGTERM, signal.SIGINT} & arrived:
            self._loop.stop()

    # -- configuration ------------------------------------------------------------------

    def _reload(self, now: float) -> None:
        if self._reading is not None:
            self._read_again = True
            return
        self._notify.say("RELOADING=1")
        try:
            reading = begin_reading(self._options.config, self._options.overrides())
        except SettingsError as error:
            self._refuse(error)
            return
        if reading is None:
            self._apply(Settings(), now)
            return
        self._reading = reading
        self._loop.watch(reading, self._read_settings)

    def _read_settings(self, now: float) -> None:
        reading = self._reading
        assert reading is not None
        if not reading.read():
            return
        self._loop.unwatch(reading)
        self._reading = None
        try:
            self._apply(finish_reading(reading), now)
        except SettingsError as error:
            self._refuse(error)
        if self._read_again:
            self._read_again = False
            self._reload(now)

    def _refuse(self, error: SettingsError) -> None:
        for problem in str(error).splitlines():
            self._log.say(LEVEL_ERROR, "configuration-refused", problem=problem)
        self._notify.say("READY=1\nSTATUS=configuration refused; the old one is in force")

    def _apply(self, settings: Settings, now: float) -> None:
        before = self._engine.settings
        self._engine.reconfigure(settings, now)
        self._netlink.reconcile_interval = settings.reconcile_interval
        if before.control_socket != settings.control_socket:
            self._close_control()
            self._open_control()
        if before.hint_port != settings.hint_port and self._ready:
            self._close_port()
            self._open_port()
        self._log.say(LEVEL_NOTICE, "configuration-loaded")
        self._notify.say("READY=1\nSTATUS=configuration reloaded")

    # -- conflicts ----------------------------------------------------------------------

    def _open_claims(self) -> None:
        try:
            self._claims = ConflictSocket()
        except OSError as error:
            self._log.say(
                LEVEL_WARNING,
                "claims-unheard",
                error=Errno(error.errno or 0),
                effect="conflicts will not be noticed",
            )
            return
        self._loop.watch(self._claims, self._read_claims)
        self._loop.hear_before_sending(self._claims, self._read_claims)

    def _read_claims(self, now: float) -> bool:
        assert self._claims is not None
        claims = self._claims.read()
        for claim in claims:
            self._engine.handle(claim, now)
        return bool(claims)

    def _watch_claims(self) -> None:
        if self._claims is not None and self._watched != self._engine.revision:
            self._watched = self._engine.revision
            plans = self._engine.plans.values()
            self._claims.listen_for({address for plan in plans for address in plan.targets})

    # -- doors --------------------------------------------------------------------------

    def _open_control(self) -> None:
        path = self._engine.settings.control_socket
        if not path:
            return
        try:
            self._control = ControlSocket(path)
        except OSError as error:
            if (
                isinstance(error, AlreadyRunningError)
                and not self._options.dry_run
                and not self._ready
            ):
                raise
            self._log.say(
                LEVEL_WARNING,
                "control-socket-unavailable",
                path=path,
                error=Errno(error.errno or 0),
                effect="status and burst will not work",
            )
            return
        self._loop.watch(self._control, self._read_control)

    def _close_control(self) -> None:
        if self._control is not None:
            self._loop.unwatch(self._control)
            self._control.close()
            self._control = None

    def _read_control(self, now: float) -> None:
        assert self._control is not None
        for client, line in self._control.read():
            self._control.reply(client, self._answer("control", Cause.OPERATOR, line, now))

    def _open_port(self) -> None:
        self._port = HintPort(self._engine.settings.hint_port)
        self._loop.watch(self._port, self._read_port)

    def _close_port(self) -> None:
        if self._port is not None:
            self._loop.unwatch(self._port)
            self._port.close()
            self._port = None

    def _read_port(self, now: float) -> None:
        assert self._port is not None
        for line in self._port.read(now):
            self._port.reply(self._answer("port", Cause.HINT, line, now), now)

    def _note_port(self) -> None:
        """Say once what is seen of the port; a host that comes and goes is the normal case."""
        port = self._port
        assert port is not None
        is_open = port.state in (PortState.HOST_AWAY, PortState.HOST_CONNECTED)
        seen = (is_open or port.state, port.path)
        if seen != self._port_was:
            self._port_was = seen
            self._log.say(
                LEVEL_INFO,
                "hint-port",
                name=port.name or None,
                path=port.path or None,
                state="open" if is_open else port.state.value,
                error=Errno(port.error) if port.error else None,
            )

    def _answer(self, door: str, cause: Cause, line: Line, now: float) -> bytes:
        try:
            answers = self._answers_for(door, cause)
            return answers.answer(line, now, lambda event: self._loop.act(event, now))
        except (OSError, ImportError) as error:  # no descriptor left to load it with
            from garp_agent.wire.protocol import ErrorClass, ProtocolError, encode_error

            return encode_error(ProtocolError(ErrorClass.FAILED, f"cannot be loaded: {error}"))

    def _answers_for(self, door: str, cause: Cause) -> RequestHandler:
        if door not in self._answers:
            from garp_agent.guest.requests import RequestHandler
            from garp_agent.wire.protocol import CONTROL_COMMANDS, PORT_COMMANDS

            commands = CONTROL_COMMANDS if door == "control" else PORT_COMMANDS
            self._answers[door] = RequestHandler(self._engine, commands, cause, self._status)
        return self._answers[door]

    # -- status -------------------------------------------------------------------------

    def _status(self, now: float) -> dict[str, object]:
        from garp_agent.guest import status as report

        status = report.status(self._engine, now, self._started)
        status["configuration"] = configuration_path(self._options.config) or None
        status["dry_run"] = self._options.dry_run
        status["hint_port"] = self._port_status(now)
        return status

    def _port_status(self, now: float) -> dict[str, object]:
        port, answers = self._port, self._answers.get("port")
        last = answers.last_request if answers else None
        return {
            "name": self._engine.settings.hint_port or None,
            "path": port.path or None if port else None,
            "state": port.state.value if port else PortState.OFF.value,
            "error": os.strerror(port.error) if port and port.error else None,
            "requests": answers.requests if answers else 0,
            "errors": answers.errors if answers else 0,
            "seconds_since_last": None if last is None else round(now - last, 3),
        }
