"""The command ``garp-hint learn``: learning frames for this host and its guests, now.

Does not decide for whom (hypervisor.core.learning_plan) and does not format (render.learning).
Declares the options that ``watch --learn`` has too.
"""

from __future__ import annotations

import json
import sys
from math import isinf
from typing import Any, Callable

import click

from garp_agent.cli.install_commands import DIRECTORY_NAMES
from garp_agent.cli.terminal import AS_JSON, screen
from garp_agent.hypervisor import learning_lookup
from garp_agent.hypervisor.core.learning_rules import PACE, parse_mac_prefix, parse_vlans
from garp_agent.hypervisor.io.channels import STATUS_DIRECTORY
from garp_agent.hypervisor.io.learning_socket import NoRawFramesError
from garp_agent.hypervisor.learning_options import learning_rules
from garp_agent.render import learning as render
from garp_agent.render.table import printable
from garp_agent.runtime.exits import EXIT_FAILED, EXIT_NO_GUEST, EXIT_NO_PERMISSION
from garp_agent.runtime.log import address_text


def _checked(parse: Callable[[str], object]) -> Callable[..., tuple[str, ...]]:
    """Return a callback of click that refuses values which ``parse`` refuses."""

    def check(
        _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
    ) -> tuple[str, ...]:
        for value in values:
            try:
                parse(value)
            except ValueError as error:
                raise click.BadParameter(str(error)) from None
        return values

    return check


LEARNING = (
    click.option(
        "--learn-never",
        metavar="MAC[/BITS]",
        multiple=True,
        callback=_checked(parse_mac_prefix),
        help="Send no learning frame for these MACs. May be given more than once.",
    ),
    click.option(
        "--learn-port",
        "learn_ports",
        metavar="PORTS",
        multiple=True,
        help="Send learning frames only for what is behind guest ports with these names. Quote "
        "it. May be given more than once.",
    ),
    click.option(
        "--learn-vlans",
        metavar="LIST",
        multiple=True,
        callback=_checked(parse_vlans),
        help="Send learning frames only in these VLANs of the bond, for example 0,100,200-299; 0 "
        "is untagged.",
    ),
    click.option(
        "--learn-pace",
        metavar="FRAMES",
        type=click.IntRange(0, 1000),
        default=PACE,
        show_default=True,
        help="Send at most this many learning frames in a millisecond; 0: all at once.",
    ),
)


def learning_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which learning frames are sent."""
    for option in reversed(LEARNING):
        command = option(command)
    return command


@click.command("learn")
@click.option("--dry-run", is_flag=True, help="Send nothing. Needs no privilege.")
@click.option(
    "--bond",
    "bonds",
    metavar="NAME",
    multiple=True,
    help="Only on this bond; without it, on all. May be given more than once.",
)
@learning_options
@click.option(
    "--libvirt-status",
    metavar="DIRECTORY",
    shell_complete=DIRECTORY_NAMES,
    default=STATUS_DIRECTORY,
    show_default=True,
    help="Directory of libvirt's status files, for the MACs and names of guests.",
)
@AS_JSON
def learn_command(
    dry_run: bool,
    bonds: tuple[str, ...],
    learn_never: tuple[str, ...],
    learn_ports: tuple[str, ...],
    learn_vlans: tuple[str, ...],
    learn_pace: int,
    libvirt_status: str,
    as_json: bool,
) -> None:
    """Send learning frames: switches learn where the guests are.

    Prints each frame, and each address that is left out with the reason. A learning frame is a
    RARP broadcast with the guest's MAC as its source, sent on the bond: guests see nothing of it.
    Exit status 3 if there is nothing to send, 77 without the capability.
    """
    rules = learning_rules(learn_never, learn_ports, learn_vlans)
    try:
        found = learning_lookup.look_up_learning(rules, bonds, libvirt_status)
        values = _values(found)
        if not dry_run:
            values["sent"] = learning_lookup.send_learning(found.plan.entries, learn_pace)
    except NoRawFramesError as error:
        click.echo(f"garp-hint: {error}; --dry-run needs none", err=True)
        sys.exit(EXIT_NO_PERMISSION)
    except OSError as error:
        click.echo(f"garp-hint: learn: {error.strerror}", err=True)
        sys.exit(EXIT_FAILED)
    for warning in found.warnings:
        click.echo(f"garp-hint: {printable(warning)}", err=True)
    if as_json:
        click.echo(json.dumps(values, indent=2))
    else:
        click.echo(render.learning_text(values, screen()), nl=False)
        click.echo(render.learning_summary(values))
    if not found.plan.entries:
        sys.exit(EXIT_NO_GUEST)
    sys.exit(EXIT_FAILED if set(values["sent"] or {}) - {0} else 0)


def _values(found: learning_lookup.LearningLookup) -> dict[str, Any]:
    """Return what was found as plain values."""
    frames = [
        {
            "mac": address_text(entry.hardware_address),
            "tags": [_tag_text(*tag) for tag in entry.tags],
            "bond": entry.bond,
            "port": entry.port,
            "guest": found.guests.get(entry.port, ""),
            "kind": entry.kind,
            "silent": None if isinf(entry.silent) else round(entry.silent, 2),
        }
        for entry in found.plan.entries
    ]
    left_out = [
        {
            "mac": address_text(each.hardware_address),
            "port": each.port,
            "guest": found.guests.get(each.port, ""),
            "reason": each.reason,
            "detail": each.detail,
            "addresses": each.addresses,
        }
        for each in found.plan.left_out
    ]
    return {"frames": frames, "left_out": left_out, "sent": None, "warnings": found.warnings}


def _tag_text(protocol: int, vlan: int) -> str:
    return str(vlan) if protocol == 0x8100 else f"{protocol:x}:{vlan}"
