"""``garp-hint``, and ``python -m garp_agent.hypervisor``: runs the watcher, or a click command.

The options of ``watch`` are read by click in a child process, so that the daemon never loads
click.
"""

from __future__ import annotations

import sys

from garp_agent.runtime.exits import EXIT_FAILED, EXIT_NO_PERMISSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    if sys.argv[1:2] != ["watch"]:
        from garp_agent.cli.garp_hint import cli
        from garp_agent.render.output_errors import guarded

        guarded(lambda: cli(prog_name="garp-hint"), "garp-hint")
    given = _options_from_child(sys.argv[1:])
    sys.exit(given if isinstance(given, int) else _run_daemon(given))


def _options_from_child(arguments: list[str]) -> dict[str, Any] | int:
    """Return the options of ``watch``; after --help or wrong usage, the exit status."""
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


def _run_daemon(given: dict[str, Any]) -> int:
    from garp_agent.hypervisor.daemon import WatcherDaemon
    from garp_agent.hypervisor.io.learning_socket import NoRawFramesError
    from garp_agent.hypervisor.options import WatchOptions
    from garp_agent.runtime.control_socket import AlreadyRunningError
    from garp_agent.runtime.log import Log
    from garp_agent.wire.model import LEVEL_DEBUG, LEVEL_INFO

    options = WatchOptions(**given)
    log = Log(LEVEL_DEBUG if options.verbose else LEVEL_INFO, options.log_format == "json")
    try:
        daemon = WatcherDaemon(options, log)
    except AlreadyRunningError:
        print(f"garp-hint: {options.status_socket}: another watcher runs", file=sys.stderr)
        return EXIT_FAILED
    except NoRawFramesError as error:
        print(
            f"garp-hint: {error}; see docs/garp-hint.md, or leave out the option", file=sys.stderr
        )
        return EXIT_NO_PERMISSION
    except OSError as error:
        where = f"{options.status_socket}: {error.strerror or error}"
        print(f"garp-hint: {where}; choose another --status-socket, or none", file=sys.stderr)
        return EXIT_FAILED
    daemon.run()
    return 0


if __name__ == "__main__":
    main()
