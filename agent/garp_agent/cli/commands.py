"""What the groups of commands of both programs have in common."""

from __future__ import annotations

from typing import Any

import click

from garp_agent.runtime.exits import EXIT_INTERRUPTED


class Commands(click.Group):
    """A group whose commands exit with 130 at Ctrl-C, and not as if they had found something."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the arguments name."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo(err=True)  # the terminal has written ^C
            ctx.exit(EXIT_INTERRUPTED)
