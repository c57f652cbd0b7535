"""``garp-agent`` and ``python -m garp_agent``: starts the daemon without click if it can."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Run the command that the arguments name, and exit with its status.

    The imports are here, because each command loads only what it needs: a daemon with click takes
    5 MB more, and 22 ms longer to its first frame.
    """
    if sys.argv[1:2] == ["run"]:
        # Until the daemon is ready nothing becomes garbage, and looking for it takes time.
        gc.disable()
        from garp_agent.guest import options

        chosen = options.parse_run_options(sys.argv[2:])
        if chosen is not None:
            from garp_agent.guest.daemon import run

            sys.exit(run(chosen))
        gc.enable()
    from garp_agent.cli import garp_agent as cli

    cli.main()


if __name__ == "__main__":
    main()
