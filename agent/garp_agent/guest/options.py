"""The options of ``garp-agent run``: one table for click and for a parser that needs no click.

Every guest starts ``run`` at boot and keeps it in memory; importing click costs 22 ms and 5 MB.
:func:`parse_run_options` reads the plain forms of the options, and leaves everything else (help,
mistakes, abbreviations) to click.
"""

from __future__ import annotations

from garp_agent.config.settings import DEFAULT_PATH
from garp_agent.wire.record import NamedTuple


class Option(NamedTuple):
    """One option, as click declares it."""

    names: tuple[str, ...]
    help: str
    metavar: str = ""  # "" for a flag
    choices: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """Return its name as an identifier."""
        return self.names[0].lstrip("-").replace("-", "_")


class RunOptions(NamedTuple):
    """The command line of ``run``; None for an option that is not given."""

    config: str | None = None
    interval: str | None = None
    hint_port: str | None = None
    control_socket: str | None = None
    dry_run: bool = False
    verbose: bool = False
    log_format: str = "text"

    def overrides(self) -> dict[str, str]:
        """Return the configuration keys that the command line gives, as they are written there."""
        given = {
            "interval": self.interval,
            "hint_port": self.hint_port,
            "control_socket": self.control_socket,
        }
        return {key: value for key, value in given.items() if value is not None}


CONFIG = Option(
    ("--config", "-c"),
    f"Configuration file. Default: {DEFAULT_PATH} and conf.d/*.yaml beside it, if they exist.",
    "FILE",
)
DRY_RUN = Option(("--dry-run",), "Do everything except sending; log the frames instead.")
VERBOSE = Option(("--verbose", "-v"), "Log every frame.")
LOG_FORMAT = Option(
    ("--log-format",), "Format of the log lines on standard error.", "text|json", ("text", "json")
)
CONTROL_SOCKET = Option(
    ("--control-socket",),
    "Path of the daemon's control socket, or 'none'; overrides the configuration.",
    "PATH",
)
INTERVAL = Option(
    ("--interval",),
    "Refresh interval, for instance 5s or 500ms; overrides the configuration, and raises "
    "interval_with_lease if that is shorter.",
    "DURATION",
)
HINT_PORT = Option(
    ("--hint-port",),
    "Port for hints from the host: the name of a virtio-serial port, the path of a device or of "
    "a Unix socket, or 'none'; overrides the configuration.",
    "NAME|PATH",
)
RUN = (CONFIG, INTERVAL, HINT_PORT, CONTROL_SOCKET, DRY_RUN, VERBOSE, LOG_FORMAT)


def parse_run_options(arguments: list[str]) -> RunOptions | None:
    """Read the arguments of ``run``; None if click has to read them."""
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
