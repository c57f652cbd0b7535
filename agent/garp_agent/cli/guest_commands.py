"""``garp-hint list`` and ``garp-hint send``: the guests, found and asked without the watcher.

Does not format output (render.hypervisor) and does not talk to guests (hypervisor.converse).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import click

from garp_agent.cli.hint_options import STATUS_SOCKET, finding_options, float_range
from garp_agent.cli.install_commands import FILE_NAMES
from garp_agent.cli.terminal import AS_JSON, print_values, screen
from garp_agent.hypervisor.converse import ask_guests
from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.hypervisor.guest_path_lookup import add_paths
from garp_agent.hypervisor.io.channels import Finder
from garp_agent.render import hypervisor as render
from garp_agent.render.table import printable
from garp_agent.runtime import client
from garp_agent.runtime.exits import EXIT_FAILED, EXIT_NO_GUEST
from garp_agent.wire.protocol import (
    BURST_COUNT,
    BURST_DELAY,
    BURST_INTERVAL,
    BURST_INTERVAL_DEFAULT,
)


@click.command("list")
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
    if the port is not known. Guests without channel follow (STATE no-channel), as the links show
    them: with their names in libvirt, or with those of their ports. A port is unmatched if it may
    be that of a guest above with BEHIND ?. Exit status 0 if there is a channel, whatever its state.
    """
    finder = Finder(port, channels, libvirt_status)
    found = finder.find()
    finder.close()
    _tell_of_search(finder)
    if not found:
        click.echo(_no_channel(finder), err=True)
    guests = ask_guests(found, "info", {}, timeout)
    guests += add_paths(guests, timeout, libvirt_status)
    _add_ways(guests, status_socket)
    if guests or as_json:
        print_values(guests, as_json, lambda: render.guest_list(guests, screen()))
    sys.exit(0 if found else EXIT_FAILED if finder.trouble else EXIT_NO_GUEST)


@click.command("send")
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
    type=float_range(BURST_INTERVAL),
    help=f"Time between two rounds; {BURST_INTERVAL_DEFAULT:g} if only --count is given.",
)
@click.option(
    "--delay", metavar="SECONDS", type=float_range(BURST_DELAY), help="Time before the first round."
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
    print_values(guests, as_json, lambda: "".join(f"{render.sent(guest)}\n" for guest in guests))
    answered = all(guest["state"] == Outcome.ANSWERED.value for guest in guests)
    sys.exit(0 if answered else EXIT_FAILED)


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
        click.echo(f"garp-hint: {printable(name)}: no such guest, or it has no channel", err=True)
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
    told: dict[str, tuple[str, str | None]] = {}
    with suppress(client.ClientError):
        status: dict[str, Any] = client.ask(status_socket, "status", program="garp-hint watch")
        for each in (*status["guests"], *status.get("without_channel", ())):
            if each.get("way"):
                told[each.get("path") or each["guest"]] = each["way"], each.get("no_way")
    for guest in guests:
        answers = guest["state"] == Outcome.ANSWERED.value
        default = ("agent", None) if answers else ("nothing", "no watcher answers")
        key = guest.get("path") or guest["guest"]
        guest["way"], guest["no_way"] = told.get(key, default)
