"""The commands of ``garp-hint`` as click declares them: options, help texts, exit statuses.

Does not format output (render.hypervisor) and does not talk to guests (hypervisor.converse).  The
daemon does not load this module: hypervisor.__main__ reads the options of ``watch`` in a child.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from contextlib import suppress
from typing import Any, Callable

import click

from garp_agent import __version__
from garp_agent.cli.attach import attach_command
from garp_agent.cli.commands import Commands
from garp_agent.cli.drill import drill_command
from garp_agent.cli.hint_options import AS_JSON, STATUS_SOCKET, finding_options
from garp_agent.cli.host_doctor import host_doctor_command
from garp_agent.cli.install_commands import FILE_NAMES, add_install_commands
from garp_agent.cli.learn import learn_command, learning_options
from garp_agent.cli.probe import probe_command
from garp_agent.cli.terminal import screen, write_page
from garp_agent.hypervisor import options as watch_options
from garp_agent.hypervisor.converse import ask_guests
from garp_agent.hypervisor.core.bonds import DEBOUNCE
from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.core.lease import LEASE
from garp_agent.hypervisor.core.lease_paths import LEASE_AFTER
from garp_agent.hypervisor.guest_path_lookup import add_paths
from garp_agent.hypervisor.io.channels import Finder
from garp_agent.render import hypervisor as render
from garp_agent.render.history_page import history_page
from garp_agent.runtime import client
from garp_agent.runtime.exits import EXIT_FAILED, EXIT_NO_GUEST, EXIT_NO_PERMISSION, EXIT_NO_WATCHER
from garp_agent.wire.bounds import Bound
from garp_agent.wire.protocol import (
    BURST_COUNT,
    BURST_DELAY,
    BURST_INTERVAL,
    BURST_INTERVAL_DEFAULT,
    LEASE_SECONDS,
)
from garp_agent.wire.xenbus import DEVICE as XENBUS

LEARN_ONLY = ("learn_never", "learn_ports", "learn_vlans")
LEASE_LEAST = 3.0  # seconds; a lease is renewed after a third, and at most once a second


def _range(bound: Bound) -> click.FloatRange:
    return click.FloatRange(bound.least, bound.most)


def _long_enough(context: click.Context, option: click.Parameter, value: float) -> float:
    if 0 < value < LEASE_LEAST:
        text = f"{value:g} is too short; allowed: 0 (no leases), or at least {LEASE_LEAST:g}"
        raise click.BadParameter(text)
    return value


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="garp-hint")
def cli() -> None:
    """Hint this hypervisor's guests to announce their addresses when a bond fails over.

    Exit status: 0 done; 1 not done, or a guest that was to be hinted did not answer; 2 wrong
    usage; 3 there is no such guest, or none at all; 4 the watcher does not answer; 77 no
    permission.
    """


@cli.command("list")
@finding_options
@STATUS_SOCKET
@AS_JSON
def list_guests_command(
    port: str,
    channels: tuple[str, ...],
    libvirt_status: str,
    timeout: float,
    status_socket: str,
    as_json: bool,
) -> None:
    """Show the guests' channels and how they answer.

    STATE is answered; refused (the agent answered with an error); no-agent (connected, no reply
    in time); busy (another client uses the channel); gone; forbidden; garbage or hung-up (no
    garp-agent answers there). WAY is how the guest is announced after a failover: by its agent,
    by announce-self (QEMU, Xen), by learning-frames (this host) or by nothing, as the watcher says.
    BEHIND is the guest's port on this host, and the links of its path that the watcher follows; ?
    if the port is not known. Exit status 0 if there is a channel, whatever its state.
    """
    finder = Finder(port, channels, libvirt_status)
    found = finder.find()
    finder.close()
    _tell_of_search(finder)
    if not found:
        click.echo(_no_channel(finder), err=True)
    guests = ask_guests(found, "info", {}, timeout)
    add_paths(guests, timeout, libvirt_status)
    _add_ways(guests, status_socket)
    if found or as_json:
        _print_values(guests, as_json, lambda: render.guest_list(guests, screen()))
    sys.exit(0 if found else EXIT_FAILED if finder.trouble else EXIT_NO_GUEST)


@cli.command("send")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "to_all", is_flag=True, help="Hint all guests.")
@click.option(
    "--guest",
    "more_names",
    metavar="NAME",
    multiple=True,
    help="The same as the argument NAME. May be given more than once.",
)
@click.option(
    "--socket",
    "sockets",
    metavar="PATH",
    multiple=True,
    shell_complete=FILE_NAMES,
    help="Hint the guest behind this socket. May be given more than once.",
)
@click.option("--reason", metavar="TEXT", default="operator", help="Text for the guest's log.")
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(int(BURST_COUNT.least), int(BURST_COUNT.most)),
    help="Rounds of the burst. Without --count and --interval the guest's configuration decides.",
)
@click.option(
    "--interval",
    metavar="SECONDS",
    type=_range(BURST_INTERVAL),
    help=f"Time between two rounds; {BURST_INTERVAL_DEFAULT:g} if only --count is given.",
)
@click.option(
    "--delay", metavar="SECONDS", type=_range(BURST_DELAY), help="Time before the first round."
)
@finding_options
@AS_JSON
def send_command(
    names: tuple[str, ...],
    to_all: bool,
    more_names: tuple[str, ...],
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
    """Hint the guests NAME now. Print a line for each guest, with the time until its reply."""
    names += more_names
    if to_all and names:
        raise click.UsageError("--all and names of guests exclude each other")
    if not (to_all or names or sockets):
        raise click.UsageError("name the guests: NAME..., --all or --socket PATH")
    chosen = _chosen(Finder(port, channels, libvirt_status), to_all, names, sockets)
    wanted = {"reason": reason, "count": count, "interval": interval, "delay": delay}
    arguments = {name: value for name, value in wanted.items() if value is not None}
    # A new boot for each command, so that no agent takes it for a repetition.
    numbered = {"boot": os.urandom(6).hex(), "sequence": 0, **arguments}
    guests = ask_guests(chosen, "burst", numbered, timeout)
    _print_values(guests, as_json, lambda: "".join(f"{render.sent(guest)}\n" for guest in guests))
    answered = all(guest["state"] == Outcome.ANSWERED.value for guest in guests)
    sys.exit(0 if answered else EXIT_FAILED)


@cli.command("watch")
@click.option(
    "--bond",
    "bonds",
    metavar="NAME",
    multiple=True,
    help="Follow this bond, team or bridge, and the bridges on it; without it, all. "
    "May be given more than once.",
)
@click.option(
    "--lease",
    metavar="SECONDS",
    type=_range(LEASE_SECONDS),
    default=LEASE,
    show_default=True,
    callback=_long_enough,
    help="Promise guests hints for this time, and renew the promise: they refresh less often "
    "meanwhile. At least 3; 0: promise nothing.",
)
@click.option(
    "--lease-after",
    metavar="SECONDS",
    type=click.FloatRange(0, 86400),
    default=LEASE_AFTER,
    show_default=True,
    help="Promise a guest nothing until its path has not changed for this time.",
)
@click.option(
    "--pace",
    metavar="GUESTS",
    type=click.FloatRange(0, 10000),
    default=0,
    help="Start at most this many guests' bursts per second, for switch ports with a limit on "
    "ARP; 0, the default: all at once.",
)
@click.option(
    "--debounce",
    metavar="SECONDS",
    type=click.FloatRange(0, 60),
    default=DEBOUNCE,
    show_default=True,
    help="Send at most one hint for the same link in this time.",
)
@click.option(
    "--discover",
    metavar="SECONDS",
    type=click.FloatRange(0.1, 3600),
    default=watch_options.DISCOVER,
    show_default=True,
    help="Time between two searches for guests.",
)
@click.option(
    "--announce-self",
    is_flag=True,
    help="Have the hypervisor announce the guests that do not answer: Xen, or QEMU with --monitor "
    "or --connect.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="After a failover, ask the network with path probes whether the path forwards and the "
    "guests are reached; hint again until they are. Needs CAP_NET_RAW.",
)
@click.option(
    "--learn",
    is_flag=True,
    help="After a failover, send learning frames for this host and its guests, agent or not; "
    "needs CAP_NET_RAW.",
)
@learning_options
@click.option(
    "--monitor",
    "monitors",
    metavar="GLOB",
    multiple=True,
    shell_complete=FILE_NAMES,
    help="QMP sockets for --announce-self; the first * matches the guest's name. May be given "
    "more than once.",
)
@click.option(
    "--connect",
    metavar="URI",
    default="",
    help="Reach the monitors of libvirt's guests through libvirt, for example qemu:///system.",
)
@finding_options
@STATUS_SOCKET
@click.option("--verbose", "-v", is_flag=True, help="Log more.")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Format of the log lines on standard error.",
)
def run_watcher_command(**given: Any) -> dict[str, Any]:
    """Run the daemon: hint guests when their bond fails over.

    The same for bridges and teams, with the guests behind them.

    SIGUSR1 hints all guests now. SIGHUP searches for guests now.
    """
    can_announce = given["monitors"] or given["connect"] or os.path.exists(XENBUS)
    if given["announce_self"] and not can_announce:
        raise click.UsageError(
            "--announce-self needs Xen, or monitors of QEMU: --monitor GLOB or --connect URI"
        )
    chosen = next((name for name in LEARN_ONLY if given[name]), "")
    if chosen and not given["learn"]:
        raise click.UsageError(f"--{chosen.rstrip('s').replace('_', '-')} needs --learn")
    if given["status_socket"] == "none":
        given["status_socket"] = ""
    if given["connect"] and not given["status_socket"]:
        raise click.UsageError("--connect needs a --status-socket: it makes a folder beside it")
    return given


@cli.command("status")
@STATUS_SOCKET
@AS_JSON
@click.option("--prometheus", is_flag=True, help="Print Prometheus metrics.")
def watcher_status_command(status_socket: str, as_json: bool, prometheus: bool) -> None:
    """Show the followed links and the guests."""
    values = _ask_watcher(status_socket)
    if prometheus and not as_json:
        click.echo(render.metrics(values), nl=False)
    else:
        _print_values(values, as_json, lambda: render.watcher_status_text(values, screen()))


@cli.command("history")
@STATUS_SOCKET
@AS_JSON
@click.option(
    "--html",
    metavar="FILE",
    shell_complete=FILE_NAMES,
    help="Write one self-contained page; -: standard output.",
)
def history_command(status_socket: str, as_json: bool, html: str | None) -> None:
    """Show the last failovers, and which guests answered."""
    values = _ask_watcher(status_socket)
    entries = values["history"]
    if html:
        page = history_page(entries, platform.node(), values["version"], time.time())
        write_page(html, page, "garp-hint")
    else:
        _print_values(entries, as_json, lambda: render.history(entries, screen()))


INSTALL_HELP = """Install the systemd unit of the watcher, and enable it.

With --root, into the directory tree of an image. May be repeated.
"""
cli.add_command(attach_command)
cli.add_command(drill_command)
cli.add_command(probe_command)
cli.add_command(learn_command)
cli.add_command(host_doctor_command)
add_install_commands(cli, "WATCHER", (INSTALL_HELP, "Remove what `install` has installed."))


def read_watch_options(arguments: list[str]) -> dict[str, Any] | int:
    """Return the options of ``watch``; after --help or wrong usage, the exit status."""
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


def _print_values(values: object, as_json: bool, text: Callable[[], str]) -> None:
    click.echo(json.dumps(values, indent=2) + "\n" if as_json else text(), nl=False)


def _chosen(
    finder: Finder, to_all: bool, names: tuple[str, ...], sockets: tuple[str, ...]
) -> list[Channel]:
    found = finder.find() if to_all or names else []
    finder.close()
    known = {channel.guest for channel in found}
    missing = [name for name in names if name not in known]
    if missing or not names:
        _tell_of_search(finder)
    for name in missing:
        click.echo(f"garp-hint: {name}: no such guest, or it has no channel", err=True)
    chosen = [channel for channel in found if to_all or channel.guest in names]
    chosen += [Channel(path, path) for path in sockets]
    if not chosen and not missing:
        click.echo(_no_channel(finder), err=True)
    if missing or not chosen:
        sys.exit(EXIT_FAILED if finder.trouble else EXIT_NO_GUEST)
    return chosen


def _no_channel(finder: Finder) -> str:
    return render.no_channel(finder.port_name, finder.patterns, finder.trouble)


def _tell_of_search(finder: Finder) -> None:
    """Say why guests may be missing."""
    for path, reason in sorted(finder.refused.items()):
        click.echo(render.refused_socket(path, reason), err=True)
    if finder.trouble:
        click.echo(f"garp-hint: {finder.trouble}", err=True)


def _add_ways(guests: list[dict[str, Any]], status_socket: str) -> None:
    """Add to each guest its way, as the watcher says; without one only agents announce."""
    told: dict[str, Any] = {}
    with suppress(client.ClientError):
        status: dict[str, Any] = client.ask(status_socket, "status", program="garp-hint watch")
        told = {guest["path"]: guest.get("way") for guest in status["guests"]}
    for guest in guests:
        default = "agent" if guest["state"] == Outcome.ANSWERED.value else "nothing"
        guest["way"] = told.get(guest["path"]) or default


def _ask_watcher(path: str) -> dict[str, Any]:
    try:
        return client.ask(path, "status", program="garp-hint watch")
    except client.ClientError as error:
        click.echo(f"garp-hint: {error}", err=True)
        forbidden = isinstance(error, client.NotPermittedError)
        sys.exit(EXIT_NO_PERMISSION if forbidden else EXIT_NO_WATCHER)
