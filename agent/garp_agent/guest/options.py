"""The options of ``garp-agent run``: one table, read by click and, before it, by us.

``run`` is what every guest starts at boot and keeps in memory; importing click costs it
22 ms and 5 MB.  :func:`parse` understands the plain forms of the options below and
leaves everything else (help, mistakes, abbreviations) to click.
"""

from __future__ import annotations

from garp_agent.config.settings import DEFAULT_PATH
from garp_agent.wire.record import NamedTuple


class Option(NamedTuple):
    """One option as click declares it."""

    names: tuple[str, ...]
    help: str
    metavar: str = ""  # "": a flag
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Its name as an identifier."""
        return self.names[0].lstrip("-").replace("-", "_")


class RunOptions(NamedTuple):
    """What ``run`` was told; None where nothing was said."""

    config: str | None = None
    interval: str | None = None
    hint_port: str | None = None
    control_socket: str | None = None
    dry_run: bool = False
    verbose: bool = False
    log_format: str = "text"

    def overrides(self) -> dict[str, str]:
        """The configuration keys that the command line gives, as written there."""
        given = {
            "interval": self.interval,
            "hint_port": self.hint_port,
            "control_socket": self.control_socket,
        }
        return {key: value for key, value in given.items() if value is not None}


CONFIG = Option(
    ("--config", "-c"),
    f"Configuration file; without it {DEFAULT_PATH} if that exists, else the defaults.",
    "FILE",
)
DRY_RUN = Option(("--dry-run",), "Do everything but the sending; log the frames instead.")
VERBOSE = Option(("--verbose", "-v"), "Log every frame.")
LOG_FORMAT = Option(
    ("--log-format",), "How log lines on standard error look.", "FORMAT", ("text", "json")
)
CONTROL_SOCKET = Option(
    ("--control-socket",), "Path of the control socket; 'none' for none.", "PATH"
)
INTERVAL = Option(
    ("--interval",),
    "Refresh interval, as 5s or 500ms; overrides the configuration, and raises "
    "interval_with_lease to itself where that is shorter.",
    "DURATION",
)
HINT_PORT = Option(
    ("--hint-port",),
    "Where the host's hints come in: a virtio-serial port's name, the path of a device or of "
    "a Unix socket, or 'none'; overrides the configuration.",
    "NAME|PATH",
)
RUN = (CONFIG, INTERVAL, HINT_PORT, CONTROL_SOCKET, DRY_RUN, VERBOSE, LOG_FORMAT)


def parse(arguments: list[str]) -> RunOptions | None:
    """Read the arguments of ``run``; None if they are for click to judge."""
    known = {name: option for option in RUN for name in option.names}
    given: dict[str, object] = {}
    rest = iter(arguments)
    for word in rest:
        name, joined, value = word.partition("=") if word.startswith("--") else (word, "", "")
        option = known.get(name)
        if option is None or (joined and not option.metavar):
            return None
        if option.metavar and not joined:
            value = next(rest, "")
        if option.metavar and (value[:1] in ("", "-") or value not in (option.choices or (value,))):
            return None
        given[option.key] = value if option.metavar else True
    return RunOptions(**given)  # type: ignore[arg-type]
