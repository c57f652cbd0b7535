"""The commands ``install`` and ``uninstall`` of both programs, as click declares them.

Does not do their work: cli.install does.  It is loaded when one of them runs.
"""

from __future__ import annotations

import sys
from typing import Callable

import click

from garp_agent.runtime.exits import EXIT_FAILED, EXIT_NO_PERMISSION

# Only for completion.  As types of the options they would make click look at the files.
FILE_NAMES = click.Path().shell_complete
DIRECTORY_NAMES = click.Path(file_okay=False).shell_complete


def add_install_commands(group: click.Group, kit: str, helps: tuple[str, str]) -> None:
    """Add both commands to a program.

    ``kit``: the name of its Kit in cli.install.  ``helps``: the help texts of both.
    """

    def install_command(root: str, program: str | None, learn: bool = False) -> None:
        from garp_agent.cli import install

        chosen: install.Kit = getattr(install, kit)
        drop_ins = (install.LEARN,) if learn else ()
        _print_lines(lambda: install.install(root, program, chosen, drop_ins), chosen.name)
        steps = install.next_steps(root, chosen)
        click.echo(steps, nl=bool(steps))

    def uninstall_command(root: str) -> None:
        from garp_agent.cli import install

        chosen: install.Kit = getattr(install, kit)
        _print_lines(lambda: install.uninstall(root, chosen), chosen.name)

    installing = [_root_option("install into"), _program_option()]
    installing += [_learn_option()] if kit == "WATCHER" else []
    for name, work, text, options in (
        ("install", install_command, helps[0], installing),
        ("uninstall", uninstall_command, helps[1], [_root_option("remove from")]),
    ):
        group.add_command(click.Command(name, callback=work, params=[*options], help=text))


def _root_option(what: str) -> click.Option:
    return click.Option(
        ["--root"],
        metavar="DIRECTORY",
        default="/",
        shell_complete=DIRECTORY_NAMES,
        help=f"Root of the system to {what}.",
    )


def _learn_option() -> click.Option:
    return click.Option(
        ["--learn"],
        is_flag=True,
        help="Let the watcher send learning frames too: a drop-in for the unit, with CAP_NET_RAW. "
        "Beside a package nothing else is installed.",
    )


def _program_option() -> click.Option:
    return click.Option(
        ["--program"],
        metavar="PATH",
        shell_complete=FILE_NAMES,
        help="Program that the unit starts. By default this program; a single-file program copies "
        "itself to /usr/local/sbin.",
    )


def _print_lines(work: Callable[[], list[str]], program: str) -> None:
    from garp_agent.cli.install import InstallError

    try:
        for line in work():
            click.echo(line)
    except (InstallError, OSError) as error:
        click.echo(f"{program}: {error}", err=True)
        sys.exit(EXIT_NO_PERMISSION if isinstance(error, PermissionError) else EXIT_FAILED)
