"""The commands of ``garp-hint``, the hypervisor's end.

Decides what is printed where, and the exit status: 0 done, and every guest answered;
1 not done, or a guest did not answer; 2 wrong usage; 3 there is no such guest; 4 the
watcher can't be asked.  ``watch`` has its options read in a child, so that the daemon
never loads click.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXIT_FAILED = 1


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    if sys.argv[1:2] != ["watch"]:
        from garp_agent.cli.garp_hint import cli
        from garp_agent.render.guard import guarded

        guarded(lambda: cli(prog_name="garp-hint"), "garp-hint")
    given = _read_options(sys.argv[1:])
    sys.exit(given if isinstance(given, int) else _watch(given))


def _read_options(arguments: list[str]) -> dict[str, Any] | int:
    """What ``watch`` was told, or the exit status if that was not to watch."""
    from garp_agent.runtime.child import Child, ChildError

    def work() -> dict[str, Any] | int:
        from garp_agent.cli.garp_hint import read_watch_options

        return read_watch_options(arguments)

    try:
        given: dict[str, Any] | int = Child(work).result()
    except ChildError as error:
        print(f"garp-hint: the options could not be read: {error}", file=sys.stderr)
        return EXIT_FAILED
    return given


def _watch(given: dict[str, Any]) -> int:
    from garp_agent.hypervisor.daemon import Watch, WatchOptions
    from garp_agent.runtime.control_socket import AlreadyRunningError
    from garp_agent.runtime.log import Log
    from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_INFO

    options = WatchOptions(**given)
    log = Log(LEVEL_DEBUG if options.verbose else LEVEL_INFO, options.log_format == "json")
    try:
        watch = Watch(options, log)
    except AlreadyRunningError:
        print(f"garp-hint: {options.status_socket}: another one watches", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        where = f"{options.status_socket}: {error.strerror}"
        print(f"garp-hint: {where}; choose another --status-socket, or none", file=sys.stderr)
        return EXIT_FAILED
    watch.run()
    return 0


if __name__ == "__main__":
    main()
