"""The commands of ``garp-hint`` as click declares them: options, help texts, exit statuses.

Does not format output (render.hypervisor) and does not talk to guests (hypervisor.converse).  The
daemon does not load this module: hypervisor.__main__ reads the options of ``watch`` in a child.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from typing import Any

import click

from garp_agent import __version__
from garp_agent.cli.attach import attach_command
from garp_agent.cli.commands import Commands
from garp_agent.cli.drill import drill_command
from garp_agent.cli.guest_commands import list_guests_command, send_command
from garp_agent.cli.hint_options import STATUS_SOCKET, finding_options, float_range
from garp_agent.cli.host_doctor import host_doctor_command
from garp_agent.cli.install_commands import FILE_NAMES, add_install_commands
from garp_agent.cli.learn import learn_command, learning_options
from garp_agent.cli.probe import probe_command
from garp_agent.cli.terminal import AS_JSON, print_values, screen, write_page
from garp_agent.hypervisor import options as watch_options
from garp_agent.hypervisor.core.bonds import DEBOUNCE
from garp_agent.hypervisor.core.lease import LEASE, LEASE_LEAST
from garp_agent.hypervisor.core.lease_paths import LEASE_AFTER
from garp_agent.render import hypervisor as render
from garp_agent.render.history_page import history_page
from garp_agent.runtime import client
from garp_agent.runtime.exits import EXIT_NO_PERMISSION, EXIT_NO_WATCHER
from garp_agent.wire.protocol import LEASE_SECONDS
from garp_agent.wire.xenbus import DEVICE as XENBUS

LEARN_ONLY = ("learn_never", "learn_ports", "learn_vlans")


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
    type=float_range(LEASE_SECONDS),
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
    "--verify/--no-verify",
    default=None,
    help="After a failover, ask the network with path probes whether the path forwards and the "
    "guests are reached; hint again until they are. By default, if CAP_NET_RAW is there.",
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
        print_values(values, as_json, lambda: render.watcher_status_text(values, screen()))


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
    now = time.time()
    if html:
        write_page(html, history_page(values, platform.node(), now), "garp-hint")
    else:
        print_values(values["history"], as_json, lambda: render.history(values, now, screen()))


INSTALL_HELP = """Install the systemd unit of the watcher, and enable it.

With --root, into the directory tree of an image. May be repeated.
"""
cli.add_command(list_guests_command)
cli.add_command(send_command)
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
        if sys.stdout:  # None if it was closed at the start
            sys.stdout.flush()
    return given if isinstance(given, dict) else 0


def _ask_watcher(path: str) -> dict[str, Any]:
    try:
        return client.ask(path, "status", program="garp-hint watch")
    except client.ClientError as error:
        click.echo(f"garp-hint: {error}", err=True)
        forbidden = isinstance(error, client.NotPermittedError)
        sys.exit(EXIT_NO_PERMISSION if forbidden else EXIT_NO_WATCHER)
