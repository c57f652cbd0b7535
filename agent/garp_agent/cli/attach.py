"""The command ``garp-hint attach``: gives guests their channel through libvirt's own library.

Does not build the channel's XML (hypervisor.channel_definition).  Only this command loads the
module ``libvirt`` (python3-libvirt), which connects to the daemon of libvirt.

Sources: libvirt's virDomainAttachDeviceFlags and virDomainModificationImpact;
libxlDomainAttachDeviceConfig() in src/libxl/libxl_driver.c, which knows no channels.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from garp_agent.hypervisor import channel_definition as definition
from garp_agent.hypervisor.io.channels import PORT_NAME
from garp_agent.render.table import printable
from garp_agent.runtime.exits import EXIT_FAILED, EXIT_NO_GUEST

NO_LIBRARY = (
    "garp-hint: attach needs libvirt's Python library: install the package python3-libvirt, for "
    "the Python that runs garp-hint. Without libvirt: --print qemu or --print proxmox"
)
NO_CONTROLLER = "its QEMU has no virtio-serial controller, and libvirt adds none while it runs"
NO_LIVE_CHANNEL = "libvirt adds no channel to a running guest of Xen"
RUNNING, CONFIGURATION = "the running guest", "the configuration"
LINES = {"qemu": definition.qemu_lines, "proxmox": definition.proxmox_line}


class AttachError(Exception):
    """A guest cannot get the channel as it was asked for; the text says why."""


class AttachOptions(NamedTuple):
    """What is to be done with each guest."""

    port: str
    live: bool
    config: bool
    dry_run: bool

    @property
    def chosen(self) -> bool:
        """Return whether the operator has chosen; if not, all that is possible is done."""
        return self.live or self.config


@click.command("attach")
@click.argument("guests", metavar="[GUEST]...", nargs=-1)
@click.option("--all", "to_all", is_flag=True, help="Give each guest of libvirt the channel.")
@click.option("--live", is_flag=True, help="Change the running guest.")
@click.option("--config", is_flag=True, help="Change the configuration, for the next start.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and change nothing.")
@click.option(
    "--connect",
    metavar="URI",
    help="Where libvirt is, for example qemu:///system. By default libvirt chooses.",
)
@click.option(
    "--port", metavar="NAME", default=PORT_NAME, show_default=True, help="Name of the guests' port."
)
@click.option(
    "--print",
    "printed",
    type=click.Choice(sorted(LINES)),
    help="Print the lines for guests without libvirt, and change nothing.",
)
def attach_command(
    guests: tuple[str, ...],
    to_all: bool,
    live: bool,
    config: bool,
    dry_run: bool,
    connect: str | None,
    port: str,
    printed: str | None,
) -> None:
    """Give each GUEST of libvirt the channel for hints.

    Without --live and --config: both, as far as possible. A guest that has the channel is left as
    it is. If libvirt does not know one of the names, nothing is done. Exit status 0 if each guest
    has the channel as asked for.
    """
    if to_all and guests:
        raise click.UsageError("--all and names of guests exclude each other")
    if printed and guests:
        _print_lines_of(printed, guests, port)
        return
    if printed or not (to_all or guests):
        names = "GUEST..." if printed else "GUEST... or --all"
        raise click.UsageError(f"name the guests: {names}")
    libvirt = _library()
    try:
        connection = libvirt.open(connect)
    except libvirt.libvirtError as error:
        click.echo(
            f"garp-hint: {_error_text(error)}; --connect URI names another libvirt", err=True
        )
        sys.exit(EXIT_FAILED)
    domains = connection.listAllDomains() if to_all else _named(libvirt, connection, guests)
    domains.sort(key=lambda domain: domain.name())
    if not domains:
        click.echo(f"garp-hint: libvirt at {connection.getURI()} has no guest", err=True)
        sys.exit(EXIT_NO_GUEST)
    failed = _attach_all(libvirt, domains, AttachOptions(port, live, config, dry_run))
    sys.exit(EXIT_FAILED if failed else 0)


def _print_lines_of(printed: str, guests: tuple[str, ...], port: str) -> None:
    try:
        for guest in guests:
            click.echo(LINES[printed](guest, port), nl=False)
    except definition.GuestNameError as error:
        raise click.UsageError(str(error)) from error


def _library() -> Any:
    try:
        import libvirt
    except ImportError:
        click.echo(NO_LIBRARY, err=True)
        sys.exit(EXIT_FAILED)
    # By default the library prints each error itself, beside the exception.
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    return libvirt


def _named(libvirt: Any, connection: Any, names: tuple[str, ...]) -> list[Any]:
    """Return the guests with these names; end the command if there is no such guest."""
    domains = []
    for name in names:
        try:
            domains.append(connection.lookupByName(name))
        except libvirt.libvirtError as error:
            click.echo(f"garp-hint: {printable(name)}: {_error_text(error)}", err=True)
    if len(domains) < len(names):
        sys.exit(EXIT_NO_GUEST)
    return domains


def _attach_all(libvirt: Any, domains: list[Any], wanted: AttachOptions) -> bool:
    """Attach the channel to each guest, and say so; return whether one failed."""
    failed = False
    for domain in domains:
        name = printable(domain.name())
        try:
            for line in _attach_one(libvirt, domain, wanted):
                click.echo(f"{name}: {line}")
        except (AttachError, libvirt.libvirtError) as error:
            failed = True
            click.echo(f"garp-hint: {name}: {_error_text(error)}", err=True)
    return failed


def _attach_one(libvirt: Any, domain: Any, wanted: AttachOptions) -> Iterator[str]:
    """Attach the channel where it is missing; yield what was done.  Raises AttachError."""
    for part, flag, xml in _parts(libvirt, domain, wanted):
        if definition.has_channel(xml, wanted.port):
            yield f"{part} has the channel"
            continue
        reason = _why_not_live(xml) if part == RUNNING else ""
        if reason:
            if wanted.live:
                raise AttachError(f"{reason}; use --config, and start it anew")
            yield f"has no channel until it is started anew: {reason}"
            continue
        channel = definition.channel_xml(xml, wanted.port)
        if wanted.dry_run:
            yield f"would be added to {part}:\n{channel}"
            continue
        if definition.is_xen(xml):
            secure = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
            domain.connect().defineXML(definition.with_channel(secure, wanted.port))
        else:
            domain.attachDeviceFlags(channel, flag)
        yield f"added to {part}{'' if domain.isActive() else ', for its next start'}"


def _why_not_live(xml: str) -> str:
    """Return why a running guest cannot get the channel; "" if it can."""
    if definition.is_xen(xml):
        return NO_LIVE_CHANNEL
    return "" if definition.has_controller(xml) else NO_CONTROLLER


def _parts(libvirt: Any, domain: Any, wanted: AttachOptions) -> Iterator[tuple[str, int, str]]:
    """Yield what is to be changed, the flag for it, and its XML.  Raises AttachError."""
    if wanted.config and not domain.isPersistent():
        raise AttachError("it has no configuration, because it is transient; use --live")
    if wanted.live and not domain.isActive():
        raise AttachError("it does not run; use --config")
    if wanted.config or (not wanted.chosen and domain.isPersistent()):
        xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        yield CONFIGURATION, libvirt.VIR_DOMAIN_AFFECT_CONFIG, xml
    if wanted.live or (not wanted.chosen and domain.isActive()):
        yield RUNNING, libvirt.VIR_DOMAIN_AFFECT_LIVE, domain.XMLDesc()


def _error_text(error: Exception) -> str:
    return printable(str(error))
