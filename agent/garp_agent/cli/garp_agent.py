"""The commands of ``garp-agent`` as click declares them: options, help texts, exit statuses.

Does not format output (render) and does the work of no command.  ``__main__`` starts the daemon
without this module where it can, because click costs memory.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Callable, NoReturn

import click

from garp_agent import __version__
from garp_agent.cli.commands import Commands
from garp_agent.cli.install_commands import FILE_NAMES, add_install_commands
from garp_agent.cli.terminal import AS_JSON, print_values, screen
from garp_agent.config import in_force
from garp_agent.config.errors import ConfigError
from garp_agent.config.settings import Settings
from garp_agent.guest import daemon, options
from garp_agent.render.output_errors import guarded
from garp_agent.render.table import counted, printable
from garp_agent.runtime.exits import EXIT_CONFIG, EXIT_FAILED, EXIT_NO_PERMISSION
from garp_agent.runtime.log import Log, text_of
from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_WARNING

if TYPE_CHECKING:
    from garp_agent.guest.core.selectors import Unmatched

NOTHING = "nothing to announce; `garp-agent list` says why"


def main() -> None:
    """Run a command, and exit with its status."""
    guarded(lambda: cli(prog_name="garp-agent"), "garp-agent")


def _option(option: options.Option) -> Callable[..., Any]:
    if not option.metavar:
        return click.option(*option.names, is_flag=True, help=option.help)
    is_path = {"FILE", "PATH"} & {*option.metavar.split("|")}
    return click.option(
        *option.names,
        metavar=option.metavar,
        type=click.Choice(option.choices) if option.choices else None,
        default=option.choices[0] if option.choices else None,
        help=option.help,
        shell_complete=FILE_NAMES if is_path else None,
    )


def _with_options(*wanted: options.Option) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add options of the table to a command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(wanted):
            command = _option(option)(command)
        return command

    return decorate


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="garp-agent")
@_option(options.CONFIG)
@click.pass_context
def cli(context: click.Context, config: str | None) -> None:
    """Announce this machine's addresses, so that switches follow it after a failover.

    Every IPv4 address is announced by gratuitous ARP, and every IPv6 address by an unsolicited
    neighbour advertisement: on a jittered timer, after every change, and in a burst when the
    hypervisor hints at a failover.
    """
    if config:  # the same option of the command, if it has one and is given without it
        context.default_map = {name: {"config": config} for name in cli.commands}


@cli.command("run")
@_with_options(*options.RUN)
def run_command(**given: Any) -> None:
    """Run the daemon: announce all addresses until SIGTERM or SIGINT.

    SIGUSR1 starts a burst. SIGHUP reloads the configuration.
    """
    sys.exit(daemon.run(options.RunOptions(**given)))


@cli.command("announce")
@click.argument("interfaces", metavar="[INTERFACE]...", nargs=-1)
@_with_options(options.CONFIG, options.DRY_RUN, options.VERBOSE, options.LOG_FORMAT)
def announce_command(
    interfaces: tuple[str, ...], config: str | None, dry_run: bool, verbose: bool, log_format: str
) -> None:
    """Announce every address once, now.

    On these INTERFACES, or on all that are suitable.

    Exit status 0 if every frame was sent. Exit status 1 if a frame was dropped, or if there was
    nothing to announce on one of the INTERFACES or at all.
    """
    from garp_agent.guest import once

    settings = _settings(config)
    level = LEVEL_DEBUG if verbose or dry_run else LEVEL_WARNING
    log = Log(level, log_format == "json", daemon.DRY_RUN if dry_run else ())
    if interfaces:
        _require_interfaces(interfaces)
        interfaces = tuple(map(_kernel_name, interfaces))
        settings = once.only(settings, interfaces)
    try:
        done = once.announce(settings, daemon.sender(dry_run), log)
    except PermissionError:
        click.echo(daemon.NO_PERMISSION, err=True)
        sys.exit(EXIT_NO_PERMISSION)
    silent = [each for each in done.plans if each.link.name in interfaces and not each.targets]
    for each in silent:
        why = each.skip.value if each.skip else "no address to announce"
        click.echo(f"garp-agent: {printable(each.link.name)}: not announced: {why}", err=True)
    if not done.sent and not done.dropped:
        _fail(NOTHING)
    verb = "would be sent" if dry_run else "sent"
    click.echo(f"{counted(done.sent, 'frame')} {verb}, {done.dropped} dropped")
    sys.exit(EXIT_FAILED if done.dropped or silent else 0)


@cli.command("list")
@_with_options(options.CONFIG)
@AS_JSON
def list_command(config: str | None, as_json: bool) -> None:
    """Show each address: how it is announced, or why it is skipped.

    Sends nothing and needs no privilege.
    """
    from garp_agent.guest import once, status
    from garp_agent.render import agent as render

    plans, unmatched = once.look(_settings(config))
    links = status.links(plans)
    _say_unmatched(unmatched)
    print_values(links, as_json, lambda: render.link_list(links, screen()))


def _say_unmatched(selectors: list[Unmatched]) -> None:
    for key, selector, why in selectors:
        click.echo(f"garp-agent: {key}: {printable(str(text_of(selector)))}: {why}", err=True)


@cli.command("check")
@click.argument("file", required=False, shell_complete=FILE_NAMES)
@_with_options(options.CONFIG)
def check_command(file: str | None, config: str | None) -> None:
    """Check the configuration, or FILE, and show all errors.

    Exit status 78 if there are any.
    """
    if file and config and file != config:
        raise click.UsageError("give one file: FILE or --config FILE")
    from garp_agent.guest import once

    settings = _settings(file or config)
    # The file can be for another machine, so this is no error.
    with contextlib.suppress(OSError):
        _say_unmatched(once.look(settings)[1])
    paths = in_force.configuration_files(file or config)
    for path in paths:
        click.echo(f"{printable(path)}: good")
    for path in in_force.files_left_out(file or config):
        why = f"its name does not end in {in_force.SUFFIX}"
        click.echo(f"garp-agent: {printable(path)}: not read: {why}", err=True)
    if not paths:
        click.echo("no configuration file: the defaults are in force")


@cli.command("config")
@_with_options(options.CONFIG)
def config_command(config: str | None) -> None:
    """Print the configuration in force as a file, with every key."""
    from garp_agent.config.read import as_yaml

    click.echo(as_yaml(_settings(config)), nl=False)


@cli.command("status")
@_with_options(options.CONFIG, options.CONTROL_SOCKET)
@AS_JSON
@click.option("--prometheus", "as_metrics", is_flag=True, help="Print Prometheus metrics.")
def status_command(
    config: str | None, control_socket: str | None, as_json: bool, as_metrics: bool
) -> None:
    """Show what the running daemon announces and has sent."""
    from garp_agent.render import agent, prometheus

    values = _ask(control_socket or _control_socket(config), "status")
    if as_metrics and not as_json:
        click.echo(prometheus.agent_metrics(values), nl=False)
    else:
        print_values(values, as_json, lambda: agent.status_text(values, screen()))


@cli.command("burst")
@_with_options(options.CONFIG, options.CONTROL_SOCKET)
@click.option("--reason", metavar="TEXT", default="", help="Text for the log of the daemon.")
def burst_command(config: str | None, control_socket: str | None, reason: str) -> None:
    """Ask the running daemon to announce every address now."""
    path = control_socket or _control_socket(config)
    value = _ask(path, "burst", {"reason": reason} if reason else None)
    if value["frames"]:
        click.echo(f"{counted(value['frames'], 'frame')} sent")
        return
    links = _ask(path, "status")["links"]
    if all(each["skipped"] for link in links for each in link["addresses"]):
        _fail(NOTHING)
    click.echo("no frame sent yet: the rate limit delays them")


@cli.command("doctor")
@_with_options(options.CONFIG, options.CONTROL_SOCKET)
@AS_JSON
@click.option("--no-send", is_flag=True, help="Send nothing, and skip the checks that need it.")
def doctor_command(
    config: str | None, control_socket: str | None, as_json: bool, no_send: bool
) -> None:
    """Check the whole chain, from addresses to frames on the wire.

    Asks the running agent for a burst and captures what is sent. Then asks the network whether
    other stations use our addresses. Shows what is wrong and what to do. Exit status 0 if no
    check failed, 1 otherwise.
    """
    from garp_agent.diagnosis.doctor import run as doctor

    sys.exit(doctor.run(config, control_socket, not no_send, as_json, screen()))


INSTALL_HELP = """Install unit, udev rule, group and an example configuration.

With --root, into the directory tree of an image. May be repeated: an existing configuration
is kept.
"""
UNINSTALL_HELP = "Remove what `install` has installed.\n\nAn edited configuration is kept."
add_install_commands(cli, "AGENT", (INSTALL_HELP, UNINSTALL_HELP))


@cli.command("watch")
@click.argument("interfaces", metavar="[INTERFACE]...", nargs=-1)
@AS_JSON
@click.option(
    "-r",
    "--read",
    metavar="FILE",
    shell_complete=FILE_NAMES,
    help="Read a capture file instead of interfaces.",
)
@click.option(
    "-w",
    "--write",
    metavar="FILE",
    shell_complete=FILE_NAMES,
    help="Write the announcements to a capture file.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N announcements.")
@click.option(
    "--seconds", type=click.FloatRange(0, min_open=True), metavar="N", help="End after N seconds."
)
def watch_command(
    interfaces: tuple[str, ...],
    as_json: bool,
    read: str | None,
    write: str | None,
    count: int | None,
    seconds: float | None,
) -> None:
    """Show announcements on the wire as they arrive.

    Shows our own and those of other stations.

    Listens on these INTERFACES, or on all that the agent would announce on, until Ctrl-C. Marks
    malformed frames, conflicts and storms. Exit status 1 if --count was not reached.
    """
    from garp_agent.diagnosis.observe import run as observe

    if read and interfaces:
        raise click.UsageError(
            "a capture file has no interfaces: give --read or INTERFACE, not both"
        )
    wanted = observe.Wanted(interfaces, read, write, as_json, count, seconds)
    sys.exit(observe.run(wanted, screen()))


def _settings(path: str | None) -> Settings:
    try:
        return _read_configuration(path)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_CONFIG)


def _read_configuration(path: str | None) -> Settings:
    from garp_agent.config.read import read_files

    return read_files(in_force.configuration_files(path))


def _control_socket(path: str | None) -> str:
    """Return the control socket of the configuration, also where other keys of it are wrong.

    The daemon may run with the configuration that was there before.
    """
    try:
        return _read_configuration(path).control_socket
    except ConfigError as error:
        click.echo(
            "garp-agent: the configuration has errors; `garp-agent check` shows them", err=True
        )
        usable: Settings = error.usable or Settings()
        return usable.control_socket


def _kernel_name(argument: str) -> str:
    """Return an interface name as the kernel's messages are decoded, whatever the locale is."""
    return os.fsencode(argument).decode("utf-8", "surrogateescape")


def _require_interfaces(names: tuple[str, ...]) -> None:
    import socket

    known = [name for _, name in socket.if_nameindex()]
    for name in names:
        if name not in known:
            there = ", ".join(map(printable, known))
            _fail(f"{printable(name)}: no such interface; there are: {there}")


def _ask(path: str, command: str, arguments: dict[str, object] | None = None) -> dict[str, Any]:
    from garp_agent.runtime import client

    if not path:
        _fail("the configuration has no control socket (control_socket: none)")
    try:
        return client.ask(path, command, arguments)
    except client.NotPermittedError as error:
        _fail(str(error), EXIT_NO_PERMISSION)
    except client.ClientError as error:
        _fail(str(error))


def _fail(text: str, status: int = EXIT_FAILED) -> NoReturn:
    click.echo(f"garp-agent: {text}", err=True)
    sys.exit(status)
