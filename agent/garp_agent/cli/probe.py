"""The command ``garp-hint probe``: does a frame from the standby port reach each guest?

Sends through hypervisor.probe_driver, and formats nothing itself (render.probe).
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from garp_agent.cli.hint_options import STATUS_SOCKET
from garp_agent.cli.terminal import AS_JSON, screen
from garp_agent.hypervisor.core.probe_series import (
    DELIVERED,
    ProbeResult,
    ProbeSeries,
    target_values,
)
from garp_agent.hypervisor.probe_driver import PROBE_PACE, PROBE_ROUNDS, ProbeDriver
from garp_agent.hypervisor.probe_targets import Surroundings, look_around
from garp_agent.render import probe as render
from garp_agent.runtime import client
from garp_agent.runtime.exits import EXIT_FAILED, EXIT_NO_GUEST, EXIT_NO_PERMISSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from garp_agent.hypervisor.core.path_probes import ProbeTarget

NO_CAPABILITY = "garp-hint: sending probes needs CAP_NET_RAW: run this command as root"
NOTHING = "garp-hint: there is nothing to probe: no guest is behind a bond with a standby port"


@click.command("probe")
@click.option(
    "--bond",
    "bonds",
    metavar="NAME",
    multiple=True,
    help="Probe the guests behind this bond; without it, behind all. May be given more than once.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be probed, and send nothing.")
@AS_JSON
@STATUS_SOCKET
def probe_command(bonds: tuple[str, ...], dry_run: bool, as_json: bool, status_socket: str) -> None:
    """Test whether frames from the standby port reach each guest.

    Sends 3 frames to each guest on the standby port of its bond, at most 200 a second. The switches
    must carry them to the active port, where they are received. Guests ignore them.

    Exit status: 0 all are delivered; 1 something is lost, or a bond has no standby port with
    carrier; 3 there is nothing to probe; 77 CAP_NET_RAW is missing.
    """
    around = look_around(bonds, watcher_status(status_socket))
    results = [] if dry_run else probed(around, around.targets)
    values = probe_values(around, results)
    if as_json:
        click.echo(json.dumps(values, indent=2))
    else:
        for line in render.left_out_text(values):
            click.echo(line, err=True)
        if around.targets:
            click.echo(render.probe_table(values, screen()), nl=False)
        if results:
            click.echo(render.loss_text(values, screen()), nl=False)
    if not around.targets:
        click.echo(NOTHING, err=True)
        sys.exit(EXIT_NO_GUEST)
    lost = any(result.verdict != DELIVERED for result in results)
    fault = any(each.is_fault for each in around.plan.left_out)
    sys.exit(EXIT_FAILED if lost or fault else 0)


def probed(around: Surroundings, targets: Sequence[ProbeTarget]) -> list[ProbeResult]:
    """Probe the targets; exit if that is not permitted, or a port is gone."""
    series = ProbeSeries(targets, PROBE_PACE, PROBE_ROUNDS)
    with open_driver(around) as driver:
        driver.run_to_end(series)
    return series.results()


def open_driver(around: Surroundings) -> ProbeDriver:
    """Open the sockets on both ends of all paths; exit if that is not permitted."""
    try:
        return ProbeDriver(around.table, around.plan.paths)
    except PermissionError:
        click.echo(NO_CAPABILITY, err=True)
        sys.exit(EXIT_NO_PERMISSION)
    except OSError as error:
        click.echo(f"garp-hint: a port cannot be used: {error.strerror}", err=True)
        sys.exit(EXIT_FAILED)


def probe_values(around: Surroundings, results: list[ProbeResult]) -> dict[str, Any]:
    """Return plain values: the results, or without them what would be probed."""
    names = around.names
    return {
        "left_out": [dict(zip(each._fields, each)) for each in around.plan.left_out],
        "targets": [each.values(names) for each in results]
        or [target_values(each, names) for each in around.targets],
    }


def watcher_status(path: str) -> dict[str, Any]:
    """Return the watcher's status; empty if none answers."""
    try:
        return client.ask(path, "status", program="garp-hint watch")
    except client.ClientError:
        return {}
