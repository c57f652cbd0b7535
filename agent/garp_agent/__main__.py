"""``garp-agent``, and ``python -m garp_agent``: the lean way to the daemon, click for the rest."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the arguments name, and exit with its status."""
    if sys.argv[1:2] == ["run"]:
        from garp_agent.guest import options

        chosen = options.parse(sys.argv[2:])
        if chosen is not None:
            from garp_agent.guest.daemon import run

            sys.exit(run(chosen))
    from garp_agent.cli import garp_agent as cli

    cli.main()


if __name__ == "__main__":
    main()
