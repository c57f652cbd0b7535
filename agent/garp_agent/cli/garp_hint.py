"""``garp-hint``'s commands as click declares them.

Decides what they are called and what they print.  Loaded for every command but not by
the daemon.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Callable, NoReturn, TypeVar

import click

from garp_agent import __version__
from garp_agent.hypervisor import daemon as loop
from garp_agent.hypervisor.core import bonds as bond
from garp_agent.hypervisor.core import watcher as hints
from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.io import channels, fanout
from garp_agent.hypervisor.io.channels import Channel, Finder
from garp_agent.render import hypervisor as show
from garp_agent.runtime import client
from garp_agent.wire.bounds import Bound
from garp_agent.wire.protocol import (
    BURST_COUNT,
    BURST_DELAY,
    BURST_INTERVAL,
    BURST_INTERVAL_DEFAULT,
    LEASE_SECONDS,
    Reply,
    encode_request,
)

Command = TypeVar("Command", bound=Callable[..., Any])

NO_CHANNEL = "garp-hint: no guest has a channel"
LEASE_LEAST = 3.0  # seconds; a promise is renewed at a third, and at most once a second
EXIT_FAILED = 1
EXIT_NO_GUEST = 3
EXIT_NO_WATCHER = 4
# What completion offers; not as the options' types: click would look at the files.
FILES = click.Path().shell_complete
DIRECTORIES = click.Path(file_okay=False).shell_complete


def _options(*wanted: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(wanted):
            command = option(command)
        return command

    return decorate


def _within(bound: Bound) -> click.FloatRange:
    return click.FloatRange(bound.least, bound.most)


def _long_enough(context: click.Context, option: click.Parameter, value: float) -> float:
    if 0 < value < LEASE_LEAST:
        raise click.BadParameter(f"{value:g} is too short: 0 (none), or at least {LEASE_LEAST:g}")
    return value


FINDING = (
    click.option(
        "--port",
        metavar="NAME",
        default=channels.PORT_NAME,
        show_default=True,
        help="Name of the guests' port: every listening socket called so is a channel.",
    ),
    click.option(
        "--channel",
        "channels",
        metavar="GLOB",
        multiple=True,
        shell_complete=FILES,
        help="More channels, by their sockets' paths; what the first * stands for is the guest. "
        "Quote it. May be given more than once.",
    ),
    click.option(
        "--libvirt-status",
        metavar="DIRECTORY",
        shell_complete=DIRECTORIES,
        default=channels.STATUS_DIRECTORY,
        show_default=True,
        help="Where libvirt keeps its guests' status: names longer than 20 characters are "
        "looked up there if it can be read.",
    ),
    click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(0.01, 60),
        default=fanout.TIMEOUT,
        show_default=True,
        help="Time that a guest has to answer.",
    ),
)
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
STATUS_SOCKET = click.option(
    "--status-socket",
    metavar="PATH",
    shell_complete=FILES,
    default=loop.STATUS_SOCKET,
    show_default=True,
    help="The watcher's socket.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="garp-hint")
def cli() -> None:
    """Hint this hypervisor's guests to announce their addresses when a bond fails over.

    Exit status: 0 done; 1 not done, or a guest that was to be hinted did not answer; 2 wrong
    usage; 3 there is no such guest, or none at all; 4 the watcher can't be asked.
    """


@cli.command("list")
@_options(*FINDING)
@AS_JSON
def list_command(
    port: str,
    channels: tuple[str, ...],
    libvirt_status: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Show the guests' channels, and who answers there.

    STATE is answered; no-agent (connected, no reply in time); busy (another client has the
    channel); gone; forbidden; garbage or hung-up (something else answers); refused.  Exit
    status 0 if there is a channel, whoever answers there.
    """
    found = Finder(port, channels, libvirt_status).find()
    if not found:
        click.echo(NO_CHANNEL, err=True)
    guests = _converse(found, "info", {}, timeout)
    if as_json:
        click.echo(json.dumps(guests, indent=2))
    elif found:
        click.echo(show.guest_list(guests), nl=False)
    sys.exit(0 if found else EXIT_NO_GUEST)


@cli.command("send")
@click.option("--all", "to_all", is_flag=True, help="To all guests.")
@click.option("--guest", "names", metavar="NAME", multiple=True, help="To this guest.")
@click.option(
    "--socket",
    "sockets",
    metavar="PATH",
    multiple=True,
    shell_complete=FILES,
    help="To this socket.",
)
@click.option("--reason", metavar="TEXT", default="operator", help="Words for the guest's log.")
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(int(BURST_COUNT.least), int(BURST_COUNT.most)),
    help="Rounds of the burst; without this and --interval as the guest is configured.",
)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=_within(BURST_INTERVAL),
    help=f"Time between rounds; {BURST_INTERVAL_DEFAULT:g} where only --count is given.",
)
@click.option(
    "--delay", metavar="SECONDS", type=_within(BURST_DELAY), help="Time before the first round."
)
@_options(*FINDING)
@AS_JSON
def send_command(
    to_all: bool,
    names: tuple[str, ...],
    sockets: tuple[str, ...],
    reason: str,
    count: int | None,
    interval: float | None,
    delay: float | None,
    port: str,
    channels: tuple[str, ...],
    libvirt_status: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Hint guests now: a line for each, with the time to its reply."""
    if not (to_all or names or sockets):
        raise click.UsageError("say to whom: --all, --guest NAME or --socket PATH")
    chosen = _choose(Finder(port, channels, libvirt_status), to_all, names, sockets)
    wanted = {"reason": reason, "count": count, "interval": interval, "delay": delay}
    arguments = {name: value for name, value in wanted.items() if value is not None}
    numbered = {"boot": os.urandom(6).hex(), "sequence": 0, **arguments}
    guests = _converse(chosen, "burst", numbered, timeout)
    if as_json:
        click.echo(json.dumps(guests, indent=2))
    else:
        for guest in guests:
            click.echo(show.sent(guest))
    answered = all(guest["state"] == Outcome.ANSWERED.value for guest in guests)
    sys.exit(0 if answered else EXIT_FAILED)


@cli.command("watch")
@click.option(
    "--bond",
    "bonds",
    metavar="NAME",
    multiple=True,
    help="Follow this bond, team or bridge; without it every one. May be given more than once.",
)
@click.option(
    "--lease",
    metavar="SECONDS",
    type=_within(LEASE_SECONDS),
    default=hints.LEASE,
    show_default=True,
    callback=_long_enough,
    help="Promise guests hints for as long, and renew it: they may refresh less often. 0: don't; "
    "else at least 3.",
)
@click.option(
    "--pace",
    metavar="GUESTS",
    type=click.FloatRange(0, 10000),
    default=0,
    help="Let so many guests a second begin their burst, where switch ports are limited in ARP; "
    "0, the default: all at once.",
)
@click.option(
    "--debounce",
    metavar="SECONDS",
    type=click.FloatRange(0, 60),
    default=bond.DEBOUNCE,
    show_default=True,
    help="Hint at most once in that time for the same link.",
)
@click.option(
    "--discover",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=loop.DISCOVER,
    show_default=True,
    help="Time between looks for guests that started or stopped.",
)
@click.option(
    "--announce-self",
    is_flag=True,
    help="Ask QEMU to announce guests that do not answer, over the monitors given.",
)
@click.option(
    "--monitor",
    "monitors",
    metavar="GLOB",
    multiple=True,
    shell_complete=FILES,
    help="QMP sockets for --announce-self; what the first * stands for is the guest.",
)
@_options(*FINDING)
@STATUS_SOCKET
@click.option("--verbose", "-v", is_flag=True, help="Log more.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="How log lines on standard error look.",
)
def watch_command(**given: Any) -> dict[str, Any]:
    """Be the daemon: hint all guests whenever a bond fails over.

    SIGUSR1 hints them now, SIGHUP looks for guests now.
    """
    if given["announce_self"] and not given["monitors"]:
        raise click.UsageError("--announce-self needs monitors: --monitor GLOB")
    if given["status_socket"] == "none":
        given["status_socket"] = ""
    return given


@cli.command("status")
@STATUS_SOCKET
@AS_JSON
@click.option("--prometheus", is_flag=True, help="Print Prometheus metrics.")
def status_command(status_socket: str, as_json: bool, prometheus: bool) -> None:
    """Show what the watcher follows, and how its guests answer."""
    values = _ask_watcher(status_socket)
    if as_json:
        click.echo(json.dumps(values, indent=2))
    else:
        click.echo(show.metrics(values) if prometheus else show.status(values), nl=False)


@cli.command("history")
@STATUS_SOCKET
@AS_JSON
def history_command(status_socket: str, as_json: bool) -> None:
    """Show the watcher's last failovers, and what came of each."""
    entries = _ask_watcher(status_socket)["history"]
    click.echo(json.dumps(entries, indent=2) if as_json else show.history(entries), nl=as_json)


def read_watch_options(arguments: list[str]) -> dict[str, Any] | int:
    """What ``watch`` is told, or the exit status if it was help or a mistake."""
    try:
        given: dict[str, Any] | int = cli.main(
            arguments, prog_name="garp-hint", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    finally:
        sys.stdout.flush()
    return given if isinstance(given, dict) else 0


def _choose(
    finder: Finder, to_all: bool, names: tuple[str, ...], sockets: tuple[str, ...]
) -> list[Channel]:
    found = finder.find() if to_all or names else []
    chosen = [channel for channel in found if to_all or channel.guest in names]
    known = {channel.guest for channel in found}
    missing = [name for name in names if name not in known]
    for name in missing:
        click.echo(f"garp-hint: {name}: no such guest, or it has no channel", err=True)
    chosen += [Channel(path, path) for path in sockets]
    if missing or not chosen:
        if not missing:
            click.echo(NO_CHANNEL, err=True)
        sys.exit(EXIT_NO_GUEST)
    return chosen


def _converse(
    found: list[Channel], command: str, arguments: dict[str, Any], timeout: float
) -> list[dict[str, Any]]:
    id = f"garp-hint-{os.urandom(6).hex()}"
    line = encode_request(command, arguments, id)
    calls = [Call(channel.path, Exchange({id: line}), number=n) for n, channel in enumerate(found)]
    results = sorted(loop.converse(calls, timeout), key=lambda result: result.call.number)
    return [_guest_values(channel, result) for channel, result in zip(found, results)]


def _guest_values(channel: Channel, result: Result) -> dict[str, Any]:
    """One guest and its answer, for ``list`` and ``send``."""
    values: dict[str, Any] = {
        "guest": channel.guest,
        "path": channel.path,
        "state": result.outcome.value,
        "seconds": round(result.seconds, 6),
    }
    reply = _reply(result)
    if reply is not None and reply.error_class:
        values["error"] = f"{reply.error_class}: {reply.description}"
    elif reply is not None:
        values["reply"] = reply.value
    return values


def _reply(result: Result) -> Reply | None:
    conversation = result.call.conversation
    assert isinstance(conversation, Exchange)
    return next(iter(conversation.replies.values()), None)


def _ask_watcher(path: str) -> dict[str, Any]:
    try:
        return client.ask(path, "status", program="garp-hint watch")
    except client.ClientError as error:
        _fail(str(error), EXIT_NO_WATCHER)


def _fail(text: str, status: int) -> NoReturn:
    click.echo(f"garp-hint: {text}", err=True)
    sys.exit(status)
