"""Options that several commands of ``garp-hint`` have."""

from __future__ import annotations

from typing import Any, Callable

import click

from garp_agent.cli.install_commands import DIRECTORY_NAMES, FILE_NAMES
from garp_agent.hypervisor import options as watch_options
from garp_agent.hypervisor.core.channel_names import CUT_AT
from garp_agent.hypervisor.io import channels, fanout
from garp_agent.wire.bounds import Bound

FINDING = (
    click.option(
        "--port",
        metavar="NAME",
        default=channels.PORT_NAME,
        show_default=True,
        help="Name of the guests' port: each listening socket with this name is a channel.",
    ),
    click.option(
        "--channel",
        "channels",
        metavar="GLOB",
        multiple=True,
        shell_complete=FILE_NAMES,
        help="Sockets that are channels too; the first * matches the guest's name. Quote it. "
        "May be given more than once.",
    ),
    click.option(
        "--libvirt-status",
        metavar="DIRECTORY",
        shell_complete=DIRECTORY_NAMES,
        default=channels.STATUS_DIRECTORY,
        show_default=True,
        help="Directory of libvirt's status files, for guests' names longer than "
        f"{CUT_AT} characters.",
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
STATUS_SOCKET = click.option(
    "--status-socket",
    metavar="PATH",
    shell_complete=FILE_NAMES,
    default=watch_options.STATUS_SOCKET,
    show_default=True,
    help="Socket of the watcher, which knows the guests.",
)


def finding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options with which channels are found and asked."""
    for option in reversed(FINDING):
        command = option(command)
    return command


def float_range(bound: Bound) -> click.FloatRange:
    """Return the type of an option whose value is a number within a bound."""
    return click.FloatRange(bound.least, bound.most)
