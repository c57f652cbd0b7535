"""The command ``garp-hint drill``: switches a bond by hand, and shows what the network makes of it.

Decides whether a drill may begin, and tells of it.  hypervisor.drill_run carries it out,
hypervisor.core.drill measures, render.probe formats.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import click

from garp_agent.cli.hint_options import STATUS_SOCKET
from garp_agent.cli.install_commands import FILE_NAMES
from garp_agent.cli.probe import open_driver, probe_values, probed, watcher_status
from garp_agent.cli.terminal import AS_JSON, print_values, screen, write_page
from garp_agent.hypervisor.core.drill import Direction, drill_values, sample_of
from garp_agent.hypervisor.core.path_probes import ProbePath
from garp_agent.hypervisor.core.probe_series import DELIVERED
from garp_agent.hypervisor.drill_run import TARGETS_MOST, Drill, DrillError, wall_time
from garp_agent.hypervisor.probe_targets import Surroundings, look_around, ways_of_guests
from garp_agent.render import probe as render
from garp_agent.render.table import counted, printable
from garp_agent.runtime.exits import EXIT_FAILED, EXIT_NO_GUEST, EXIT_NO_PERMISSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from garp_agent.hypervisor.core.path_probes import ProbeTarget

NOT_CONFIRMED = (
    "This cuts off each guest that is not announced after a switch, for up to {watched:g} s. "
    "Add --yes to begin."
)
STAYS = "\ngarp-hint: Ctrl-Z is ignored while the bond is switched; Ctrl-C ends the drill\n"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@click.command("drill")
@click.option("--bond", metavar="NAME", help="The bond to switch; needed if there are several.")
@click.option("--to", metavar="PORT", help="The standby port to switch to; the first by name.")
@click.option("--yes", is_flag=True, help="Begin. Without it, print what would be done.")
@click.option(
    "--count",
    metavar="N",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="How often to switch to the standby port and back.",
)
@click.option(
    "--limit",
    metavar="SECONDS",
    type=click.FloatRange(0.01, 60),
    default=1.0,
    show_default=True,
    help="The longest outage with which the drill is passed.",
)
@click.option(
    "--html",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True),
    shell_complete=FILE_NAMES,
    help="Write a page with the result, to hand on.",
)
@AS_JSON
@STATUS_SOCKET
def drill_command(
    bond: str | None,
    to: str | None,
    yes: bool,
    count: int,
    limit: float,
    html: str | None,
    as_json: bool,
    status_socket: str,
) -> None:
    """Switch a bond over and back, and measure each guest's outage.

    First all guests are probed, as `garp-hint probe` does it; the drill begins only if all probes
    are delivered. After each switch the guests are probed 100 times a second, at most 20 of them.
    At the end, and after Ctrl-C or an error, the bond is put back.

    Exit status: 0 no guest was cut off for longer than --limit; 1 one was, or the drill could not
    begin or ended early; 2 wrong usage, or --yes is missing; 3 there is nothing to probe; 77
    CAP_NET_RAW or CAP_NET_ADMIN is missing.
    """
    around = look_around((bond,) if bond else (), watcher_status(status_socket))
    path = _path(around, to)
    targets = [target for target in around.targets if target.path == path]
    _refuse_unless_delivered(around, around.targets)  # a failover could use any standby port
    chosen = sample_of(targets, TARGETS_MOST)
    name = around.names[path.bond]
    if not yes:
        ports = f"{around.names[path.active]} to {around.names[path.standby]} and back"
        click.echo(f"{printable(name)} would go from {ports}, {counted(count, 'time')}.", err=True)
        click.echo(NOT_CONFIRMED.format(watched=max(10.0, 2 * limit)), err=True)
        sys.exit(2)
    began = wall_time()
    directions, ended_early = _carried_out(around, path, chosen, count, limit)
    behind = [target.port for target in targets]
    ways = ways_of_guests(watcher_status(status_socket), behind)
    values = drill_values(name, directions, around.names, ways, limit)
    values.update(
        time=began, probed=len(chosen), guests_in_all=len(targets), ended_early=ended_early
    )
    values["passed"] = values["passed"] and not ended_early
    print_values(values, as_json, lambda: render.drill_text(values, screen()))
    if html:
        write_page(html, render.drill_page(values), "garp-hint")
    sys.exit(0 if values["passed"] else EXIT_FAILED)


def _path(around: Surroundings, to: str | None) -> ProbePath:
    """Return the path of the drill; exit with the reason if there is none.

    ``to``: the name of the standby port; None: the first one.
    """
    bonds = sorted({around.names[path.bond] for path in around.plan.paths})
    if len(bonds) > 1:
        raise click.UsageError(f"name the bond: --bond {' or '.join(map(printable, bonds))}")
    if not bonds:
        for line in render.left_out_text(probe_values(around, [])):
            click.echo(line, err=True)
        click.echo("garp-hint: no bond has a standby port with carrier", err=True)
        sys.exit(EXIT_FAILED if around.plan.left_out else EXIT_NO_GUEST)
    paths = {around.names[path.standby]: path for path in around.plan.paths}
    if to is not None and to not in paths:
        ports = ", ".join(map(printable, sorted(paths)))
        raise click.UsageError(
            f"--to {printable(to)}: no standby port with carrier; there are: {ports}"
        )
    return paths[to or min(paths)]


def _refuse_unless_delivered(around: Surroundings, targets: Sequence[ProbeTarget]) -> None:
    if not targets:
        click.echo("garp-hint: no guest is behind the bond", err=True)
        sys.exit(EXIT_NO_GUEST)
    results = probed(around, targets)
    wrong = [result for result in results if result.verdict != DELIVERED]
    if wrong:
        click.echo(render.probe_table(probe_values(around, wrong)), nl=False, err=True)
        click.echo(render.loss_text(probe_values(around, results)), nl=False, err=True)
        click.echo(
            f"garp-hint: no drill: {len(wrong)} of {len(targets)} paths do not work, and guests "
            "would be cut off; `garp-hint probe` shows all",
            err=True,
        )
        sys.exit(EXIT_FAILED)


def _carried_out(
    around: Surroundings,
    path: ProbePath,
    targets: Sequence[ProbeTarget],
    count: int,
    limit: float,
) -> tuple[list[Direction], str]:
    """Return the directions that are over, and why it ended early, or ""."""
    directions: list[Direction] = []
    length = 2 * count * len(targets)
    bar = click.progressbar(length=length, label="guests reached again", file=sys.stderr)
    with open_driver(around) as driver, bar, _ending_once():

        def show(healed: int) -> None:
            bar.update(len(directions) * len(targets) + healed - bar.pos)

        try:
            with closing(Drill(driver, path, targets, limit, show).run(count)) as run:
                for direction in run:
                    directions.append(direction)  # one by one: an exception keeps the others
        except DrillError as error:
            return directions, str(error)
        except KeyboardInterrupt:
            return directions, "interrupted"
        except PermissionError:
            click.echo("garp-hint: switching a bond needs CAP_NET_ADMIN", err=True)
            sys.exit(EXIT_NO_PERMISSION)
        except OSError as error:
            return directions, f"the kernel refuses to switch: {error.strerror}"
    return directions, ""


@contextmanager
def _ending_once() -> Iterator[None]:
    """Turn the first signal that ends a process into KeyboardInterrupt; ignore the others.

    So that the bond is put back without another interruption.  A signal that stops a process
    (Ctrl-Z, output in the background) is ignored: guests would stay cut off.
    """

    def end(_number: int, _frame: object) -> None:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    def stay(_number: int, _frame: object) -> None:
        with suppress(OSError):  # not through a buffer that the signal may have interrupted
            os.write(2, STAYS.encode())

    before = {number: signal.signal(number, end) for number in ENDING}
    before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, stay)
    for number in (signal.SIGTTIN, signal.SIGTTOU):
        before[number] = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
