"""The commands of ``garp-agent``; the only module that imports click.

Decides what is printed where, and the exit status: 0 done, 1 not done, 2 wrong usage,
77 no permission (EX_NOPERM), 78 bad configuration (EX_CONFIG).
"""

from __future__ import annotations

import json
import sys
from typing import Any, Callable, TypeVar

import click

from garp_agent import __version__
from garp_agent.config import load as configuration
from garp_agent.config.errors import ConfigError
from garp_agent.config.settings import Settings
from garp_agent.guest import daemon, options
from garp_agent.render.guard import guarded
from garp_agent.runtime.log import Log
from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_WARNING

Command = TypeVar("Command", bound=Callable[..., Any])

# What completion offers.  Not as the options' types: click would look at the files, and word
# the errors.
FILES = click.Path().shell_complete
DIRECTORIES = click.Path(file_okay=False).shell_complete


def main() -> None:
    """Run a command, and exit with its status."""
    guarded(lambda: cli(prog_name="garp-agent"), "garp-agent")


def _option(option: options.Option) -> Callable[[Command], Command]:
    if not option.metavar:
        return click.option(*option.names, is_flag=True, help=option.help)
    choice = click.Choice(option.choices) if option.choices else None
    default = option.choices[0] if option.choices else None
    is_path = {"FILE", "PATH"} & {*option.metavar.split("|")}
    return click.option(
        *option.names,
        metavar=option.metavar,
        type=choice,
        default=default,
        help=option.help,
        shell_complete=FILES if is_path else None,
    )


def _options(*wanted: options.Option) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed(wanted):
            command = _option(option)(command)
        return command

    return decorate


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="garp-agent")
def cli() -> None:
    """Announce this machine's addresses, so that switches follow it after a failover.

    Every configured IPv4 and IPv6 address is announced (gratuitous ARP, unsolicited
    neighbour advertisement) on a jittered timer, at every change, and in a burst when
    the hypervisor hints at one.
    """


@cli.command("run")
@_options(*options.RUN)
def run_command(**given: Any) -> None:
    """Be the daemon: announce everything, and go on until SIGTERM.

    SIGUSR1 asks for a burst, SIGHUP reloads the configuration.
    """
    sys.exit(daemon.run(options.RunOptions(**given)))


@cli.command("announce")
@click.argument("interfaces", metavar="[INTERFACE]...", nargs=-1)
@_options(options.CONFIG, options.DRY_RUN, options.VERBOSE, options.LOG_FORMAT)
def announce_command(
    interfaces: tuple[str, ...], config: str | None, dry_run: bool, verbose: bool, log_format: str
) -> None:
    """Announce every address once, now; on these interfaces, or on all suitable ones.

    Exit status 0 if every frame went out, 1 if one was dropped or there was nothing to
    announce, on one of the interfaces named or at all.
    """
    from garp_agent.guest import once

    settings = _settings(config)
    level = LEVEL_DEBUG if verbose or dry_run else LEVEL_WARNING
    log = Log(level, log_format == "json", daemon.DRY_RUN if dry_run else ())
    if interfaces:
        _require_interfaces(interfaces)
        settings = once.only(settings, interfaces)
    try:
        done = once.announce(settings, daemon.sender(dry_run), log)
    except PermissionError:
        click.echo(daemon.NO_PERMISSION, err=True)
        sys.exit(daemon.EXIT_NO_PERMISSION)
    silent = [each for each in done.plans if each.link.name in interfaces and not each.targets]
    for each in silent:
        why = each.skip.value if each.skip else "no address to announce"
        click.echo(f"garp-agent: {each.link.name}: not announced: {why}", err=True)
    if not done.sent and not done.dropped:
        _fail("nothing to announce; `garp-agent list` says why")
    verb = "would be sent" if dry_run else "sent"
    click.echo(f"{done.sent} frames {verb}, {done.dropped} dropped")
    sys.exit(1 if done.dropped or silent else 0)


@cli.command("list")
@_options(options.CONFIG)
@AS_JSON
def list_command(config: str | None, as_json: bool) -> None:
    """Show every interface and address: announced how, or skipped and why.

    Sends nothing and needs no privilege.
    """
    from garp_agent.guest import once
    from garp_agent.guest import status as report
    from garp_agent.render import agent as show

    links = report.links(once.plans(_settings(config)))
    click.echo(json.dumps(links, indent=2) if as_json else show.link_list(links), nl=as_json)


@cli.command("check")
@click.argument("file", required=False, shell_complete=FILES)
def check_command(file: str | None) -> None:
    """Check a configuration FILE: all errors at once; exit status 78 if there are any."""
    settings = _settings(file)
    path = configuration.configuration_path(file)
    click.echo(f"{path}: good" if path else "no configuration file: the defaults are in force")
    del settings


@cli.command("config")
@_options(options.CONFIG)
def config_command(config: str | None) -> None:
    """Print the configuration in force, the defaults included, as a configuration file."""
    from garp_agent.config.read import as_yaml

    click.echo(as_yaml(_settings(config)), nl=False)


@cli.command("status")
@_options(options.CONTROL_SOCKET)
@AS_JSON
@click.option("--prometheus", is_flag=True, help="Print Prometheus metrics.")
def status_command(control_socket: str | None, as_json: bool, prometheus: bool) -> None:
    """Show what the running daemon announces, has sent and has dropped."""
    from garp_agent.render import agent as show
    from garp_agent.render import prometheus as metrics

    values = _ask(control_socket, "status")
    if as_json:
        click.echo(json.dumps(values, indent=2))
    else:
        click.echo(
            metrics.agent_metrics(values) if prometheus else show.status_text(values), nl=False
        )


@cli.command("burst")
@_options(options.CONTROL_SOCKET)
@click.option("--reason", metavar="TEXT", default="", help="Words for the log.")
def burst_command(control_socket: str | None, reason: str) -> None:
    """Ask the running daemon for a burst of announcements now."""
    value = _ask(control_socket, "burst", {"reason": reason} if reason else None)
    if value["frames"]:
        click.echo(f"{value['frames']} frames sent")
        return
    links = _ask(control_socket, "status")["links"]
    if all(each["skipped"] for link in links for each in link["addresses"]):
        _fail("nothing to announce; `garp-agent list` says why")
    click.echo("no frame sent yet: the rate limit makes them wait")


@cli.command("doctor")
@_options(options.CONFIG, options.CONTROL_SOCKET)
@AS_JSON
@click.option("--no-send", is_flag=True, help="Send nothing, and check what can be checked so.")
def doctor_command(
    config: str | None, control_socket: str | None, as_json: bool, no_send: bool
) -> None:
    """Check the whole chain, from the kernel's addresses to the frames on the wire.

    Asks the running agent for a burst and looks at what goes out, then asks the network
    who else has our addresses; says what is wrong and what to do.  Exit status 0 if
    nothing failed, 1 otherwise.
    """
    from garp_agent.diagnosis.doctor import run as doctor

    sys.exit(doctor.run(config, control_socket, not no_send, as_json))


@cli.command("install")
@click.option(
    "--root",
    metavar="DIRECTORY",
    default="/",
    shell_complete=DIRECTORIES,
    help="The tree to install into.",
)
@click.option(
    "--program",
    metavar="PATH",
    shell_complete=FILES,
    help="The program as the unit is to start it; without it this one, and a single-file "
    "program copies itself to /usr/local/sbin.",
)
def install_command(root: str, program: str | None) -> None:
    """Put the systemd unit, the udev rule, the group and an example configuration into place.

    With --root into the tree of an image.  May be repeated; an existing configuration is kept.
    """
    from garp_agent.cli import install

    try:
        for line in install.install(root, program):
            click.echo(line)
    except (install.InstallError, OSError) as error:
        _fail(str(error))
    click.echo(install.next_steps(root), nl=bool(install.next_steps(root)))


@cli.command("uninstall")
@click.option(
    "--root",
    metavar="DIRECTORY",
    default="/",
    shell_complete=DIRECTORIES,
    help="The tree to remove from.",
)
def uninstall_command(root: str) -> None:
    """Take away what `install` put into place; an edited configuration is kept."""
    from garp_agent.cli import install

    try:
        for line in install.uninstall(root):
            click.echo(line)
    except (install.InstallError, OSError) as error:
        _fail(str(error))


@cli.command("watch")
@click.argument("interfaces", metavar="[INTERFACE]...", nargs=-1)
@AS_JSON
@click.option(
    "-r", "--read", metavar="FILE", shell_complete=FILES, help="Read a capture file instead."
)
@click.option(
    "-w",
    "--write",
    metavar="FILE",
    shell_complete=FILES,
    help="Keep the announcements in a capture file.",
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
    """Show the announcements on the wire as they come: our own, and everybody else's.

    On these interfaces, or on all that the agent would announce on; until Ctrl-C.  Marks
    what is irregular: malformed frames, conflicts, storms.  Exit status 1 if --count was
    not reached.
    """
    from garp_agent.diagnosis.watch import run as watch

    if read and interfaces:
        raise click.UsageError("a capture file has no interfaces: give --read or INTERFACE")
    sys.exit(watch.run(watch.Wanted(interfaces, read, write, as_json, count, seconds)))


def _settings(path: str | None) -> Settings:
    from garp_agent.config import read as config

    file = configuration.configuration_path(path)
    try:
        return config.read_file(file) if file else Settings()
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(daemon.EXIT_CONFIG)


def _require_interfaces(names: tuple[str, ...]) -> None:
    import socket

    known = [name for _, name in socket.if_nameindex()]
    for name in names:
        if name not in known:
            _fail(f"{name}: no such interface; there are: {', '.join(known)}")


def _ask(
    control_socket: str | None, command: str, arguments: dict[str, object] | None = None
) -> dict[str, Any]:
    from garp_agent.runtime import client

    path = control_socket or _settings(None).control_socket
    if not path:
        _fail("the configuration has no control socket: control_socket is none")
    try:
        return client.ask(path, command, arguments)
    except client.ClientError as error:
        _fail(str(error))
        raise


def _fail(text: str) -> None:
    click.echo(f"garp-agent: {text}", err=True)
    sys.exit(daemon.EXIT_FAILED)
