"""The command ``garp-hint doctor``: options and exit status; diagnosis.host does the work."""

from __future__ import annotations

import sys

import click

from garp_agent.cli.hint_options import STATUS_SOCKET, finding_options
from garp_agent.cli.terminal import AS_JSON, screen


@click.command("doctor")
@finding_options
@STATUS_SOCKET
@AS_JSON
@click.option("--no-send", is_flag=True, help="Send no probe, and skip the check that needs them.")
def host_doctor_command(
    port: str,
    channels: tuple[str, ...],
    libvirt_status: str,
    timeout: float,
    status_socket: str,
    as_json: bool,
    no_send: bool,
) -> None:
    """Check bonds, bridges, the watcher and the guests.

    Shows what is wrong, and the command that mends it. Exit status 0 if no check failed, 1
    otherwise.
    """
    from garp_agent.diagnosis.host import gather
    from garp_agent.diagnosis.host import run as doctor

    places = gather.HostPlaces(port, channels, libvirt_status, timeout, status_socket)
    sys.exit(doctor.run(places, not no_send, as_json, screen()))
