"""``garp-agent run``: wires the components together and handles signals.

Decides what a signal means, what a changed setting means for the open sockets, and the exit
status.  Loads neither click nor yaml.
"""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # needs less memory: docs/design.md
import gc
import os
import sys
import time

from garp_agent import __version__
from garp_agent.config.errors import ConfigError
from garp_agent.config.in_force import configuration_files, read_settings
from garp_agent.guest import status
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.kernel import GUEST
from garp_agent.guest.core.model import BurstRequested, Cause, HintPortClosed
from garp_agent.guest.io.conflict_socket import ConflictSocket
from garp_agent.guest.io.hint_port import HintPort, PortState
from garp_agent.guest.io.packet import DryRun, PacketSender
from garp_agent.guest.io.routes import link_towards
from garp_agent.guest.loop import Loop, NextTurn
from garp_agent.guest.reload import Reload
from garp_agent.guest.serving import Service
from garp_agent.runtime.control_socket import AlreadyRunningError, ControlSocket
from garp_agent.runtime.exits import EXIT_CONFIG, EXIT_FAILED, EXIT_NO_PERMISSION, EXIT_USAGE
from garp_agent.runtime.log import Log
from garp_agent.runtime.netlink import Netlink
from garp_agent.runtime.notify import Notify
from garp_agent.runtime.signals import Signals
from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_INFO, LEVEL_WARNING, Errno
from garp_agent.wire.notices import Repetition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.config.settings import Settings
    from garp_agent.guest.loop import Sender
    from garp_agent.guest.options import RunOptions

DRY_RUN = (("dry_run", "nothing is sent"),)  # the last field of every log line of a dry run
NO_PERMISSION = (
    "garp-agent: no permission to send frames: CAP_NET_RAW is missing; "
    "run it as root, or give it that capability (AmbientCapabilities=CAP_NET_RAW in a unit)"
)


def run(options: RunOptions) -> int:
    """Run the daemon until a signal ends it; return the exit status."""
    level = LEVEL_DEBUG if options.verbose or options.dry_run else LEVEL_INFO
    log = Log(level, options.log_format == "json", DRY_RUN if options.dry_run else ())
    try:
        settings = read_settings(options.config, options.overrides())
        frames = sender(options.dry_run)
    except ConfigError as error:
        print(error, file=sys.stderr)
        if error.may_pass:
            return EXIT_FAILED
        return EXIT_USAGE if error.is_usage else EXIT_CONFIG
    except PermissionError:
        print(NO_PERMISSION, file=sys.stderr)
        return EXIT_NO_PERMISSION
    except OSError as error:
        print(f"garp-agent: no socket for frames: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    try:
        daemon = AgentDaemon(options, settings, frames, log)
    except AlreadyRunningError as error:
        print(f"garp-agent: {error.filename}: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"garp-agent: cannot start: {error.strerror}", file=sys.stderr)
        return EXIT_FAILED
    daemon.run()
    return 0


def sender(dry_run: bool) -> Sender:
    """Return what sends the frames.  Raises PermissionError without CAP_NET_RAW."""
    return DryRun() if dry_run else PacketSender()


def _uniform() -> float:
    """Return a number from [0, 1).

    From the kernel, because guests that are cloned with their memory must differ; ``random`` also
    costs 0.5 MB.
    """
    return int.from_bytes(os.urandom(6), "big") / (1 << 48)


class AgentDaemon:
    """The agent while it runs.

    Raises AlreadyRunningError if another agent serves the control socket, OSError if there can be
    no netlink socket.
    """

    def __init__(self, options: RunOptions, settings: Settings, frames: Sender, log: Log) -> None:
        self._options = options
        self._files = self._configuration_files()
        self._log = log
        self._started = time.monotonic()
        self._is_ready = False  # the first dump is complete and its frames are sent
        self._must_reload = False  # SIGHUP came before that
        self._notify = Notify()
        self._signals = Signals()
        self._engine = Engine(settings, _uniform, log.level, link_towards)
        self._netlink = Netlink(settings.reconcile_interval, GUEST)
        self._loop = Loop(
            self._engine,
            self._netlink,
            frames,
            log,
            self._after_turn,
            self._listen_for_claims,
            self._hear_all_claims,
        )
        self._loop.watch(self._signals, self._read_signals)
        self._reload = Reload(options, self._loop, log, self._notify, self._apply)
        self._operator = Service(self._engine, self._loop, Cause.OPERATOR, self._status)
        self._host = Service(self._engine, self._loop, Cause.HINT, self._status)
        self._port_logged: object = None
        self._port_notices = Repetition()
        self._conflict_socket: ConflictSocket | None = None
        self._control_socket: ControlSocket | None = None
        self._is_partly_unheard = False  # the filter has no room for all addresses
        self._open_conflict_socket()
        self._open_control_socket()
        self._open_hint_port()

    def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        self._log.say(
            LEVEL_INFO,
            "started",
            version=__version__,
            configuration=self._files or "defaults",
            interval=self._engine.settings.interval,
        )
        try:
            self._loop.run()
            self._rest()
        finally:
            self._notify.say("STOPPING=1")
            self._operator.close()
            self._host.close()
            if self._conflict_socket is not None:
                self._conflict_socket.close()
            self._loop.close()
            self._signals.close()
        self._log.say(LEVEL_INFO, "stopped", frames_sent=self._engine.counters.sent)

    def _rest(self) -> None:
        """Wait until the frames of an agent that starts now exceed no second; 1.05 s at most.

        Meanwhile the control socket is open, and another agent refuses to start.
        """
        pause = self._engine.schedule.rested_at() - time.monotonic()
        if pause > 0 and not self._options.dry_run:
            time.sleep(pause)

    def _after_turn(self, now: float) -> NextTurn:
        """Do what the loop leaves to the daemon; return when to be called again."""
        self._notify.alive(now)
        wake_at = call_at = self._notify.deadline()
        if self._engine.inventory.complete:
            if not self._is_ready:
                self._start(now)
            # Before the attempt: another host may be behind a port that opens again.
            if self._engine.lease.is_in_force and not self._port.is_open():
                self._engine.handle(HintPortClosed(), now)
            self._host.attempt(now)
            self._log_port(now)
            self._operator.attempt(now)
            wake_at = min(wake_at, self._port.deadline())
            call_at = min(wake_at, self._host.attempt_at(), self._operator.attempt_at())
        return NextTurn(wake_at, call_at)

    def _start(self, now: float) -> None:
        """Load and open what the first frames did not wait for."""
        self._operator.load()
        self._host.load()
        # What is loaded stays: it need not be looked at again, which would touch all of it.
        if hasattr(gc, "freeze"):  # Python 3.7
            gc.freeze()
        gc.enable()
        self._is_ready = True
        self._notify.say("READY=1")
        if self._must_reload:
            self._reload.request(now)

    def _read_signals(self, now: float) -> None:
        arrived = self._signals.read()
        if signal.SIGUSR1 in arrived:
            self._loop.act(BurstRequested(Cause.OPERATOR, reason="SIGUSR1"), now)
        if signal.SIGHUP in arrived:
            # A reload ends with READY=1, which must not come before the first frames.
            if self._is_ready:
                self._reload.request(now)
            self._must_reload = not self._is_ready
        if {signal.SIGTERM, signal.SIGINT} & arrived:
            self._loop.stop()

    def _apply(self, settings: Settings, now: float) -> None:
        """Put the settings of a reload into force."""
        self._files = self._configuration_files()
        before = self._engine.settings
        self._engine.reconfigure(settings, now)
        self._netlink.reconcile_interval = settings.reconcile_interval
        control = self._control_socket
        if control is None or not control.is_at(settings.control_socket):
            self._open_control_socket()
        if before.hint_port != settings.hint_port:
            self._host.close()
            self._open_hint_port()

    def _configuration_files(self) -> str:
        """Return the names of the files in force; not at each status, which must need no file."""
        try:
            return " ".join(configuration_files(self._options.config))
        except ConfigError:
            return ""  # a file became unreadable since it was read

    # -- control socket, hint port ------------------------------------------------------

    def _open_control_socket(self) -> None:
        """Serve the control socket of the settings; the one before stays if that cannot be."""
        path, before = self._engine.settings.control_socket, self._control_socket
        try:
            self._control_socket = ControlSocket(path) if path else None
            self._operator.close()
            if self._control_socket is not None:
                self._operator.open(self._control_socket)
        except OSError as error:
            # Two agents would send twice as much.  A dry run sends nothing, and a reload must not
            # end an agent that works.
            is_second = isinstance(error, AlreadyRunningError)
            if is_second and not self._options.dry_run and not self._is_ready:
                raise
            is_served = before is not None and before.is_at(before.path)
            effect = f"are answered at {before.path}" if before and is_served else "will not work"
            self._log.say(
                LEVEL_WARNING,
                "control-socket-unavailable",
                path=path,
                error=Errno(error.errno or 0),
                effect=f"status and burst {effect}",
            )

    def _open_hint_port(self) -> None:
        """Prepare the port; it is opened by the service's attempts."""
        self._port = HintPort(self._engine.settings.hint_port)
        self._host.open(self._port)

    def _log_port(self, now: float) -> None:
        """Log the port's state when it changes.

        Not whether a host is connected: a host connects for each hint and disconnects.
        """
        port = self._port
        state = "open" if port.is_open() else port.state.value
        if (state, port.path) != self._port_logged:
            self._port_logged = state, port.path
            is_absent = port.state is PortState.ABSENT
            self._log.say(
                self._port_notices.level(LEVEL_INFO, now),
                "hint-port",
                name=port.name or None,
                path=port.path or None,
                state=state,
                # No channel is the usual case, and no failure: ENOENT would read like one.
                error=Errno(port.error) if port.error and not is_absent else None,
                note="hints are optional; refreshes do not need them" if is_absent else None,
            )

    def _status(self, now: float) -> dict[str, object]:
        return {
            **status.status(self._engine, now, self._started),
            "configuration": self._files or None,
            "dry_run": self._options.dry_run,
            "hint_port": status.port_status(self._port, self._host.handler, now),
        }

    # -- conflicts ----------------------------------------------------------------------

    def _open_conflict_socket(self) -> None:
        try:
            self._conflict_socket = ConflictSocket()
        except OSError as error:
            self._log.say(
                LEVEL_WARNING,
                "claims-unheard",
                error=Errno(error.errno or 0),
                effect="conflicts will not be noticed",
            )
            return
        self._loop.watch(self._conflict_socket, self._read_claims)
        self._loop.poll_before_frames(self._conflict_socket)

    def _read_claims(self, now: float) -> None:
        assert self._conflict_socket is not None
        for claim in self._conflict_socket.read():
            self._engine.handle(claim, now)

    def _listen_for_claims(self) -> None:
        """Let the conflict socket listen for the addresses that are announced now."""
        if self._conflict_socket is not None:
            plans = self._engine.plans.values()
            # First those of tests: the filter may not have room for all.
            tests = self._engine.conflicts.proxy_tests
            addresses = dict.fromkeys(tests.addresses(time.monotonic()))
            addresses.update(dict.fromkeys(each for plan in plans for each in plan.targets))
            names = [plan.link.name for plan in plans if plan.targets]
            self._note_unheard(self._conflict_socket.listen_for(addresses, names))

    def _hear_all_claims(self, link: str, address: bytes) -> None:
        """Let the conflict socket hear all claims of the address's family.

        So the answer to a frame is heard, also before the filter has its address.
        A filter for many addresses takes milliseconds, and a frame must not wait for it.
        """
        if self._conflict_socket is not None:
            self._conflict_socket.hear_all(link, address)

    def _note_unheard(self, count: int) -> None:
        """Log once that conflicts of some addresses will not be noticed."""
        if bool(count) != self._is_partly_unheard:
            self._is_partly_unheard = bool(count)
            self._log.say(
                LEVEL_WARNING if count else LEVEL_INFO,
                "claims-unheard" if count else "claims-heard",
                addresses=count or None,
                effect="their conflicts will not be noticed" if count else None,
            )
