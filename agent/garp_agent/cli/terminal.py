"""The terminal that a command prints to: its width and its colours; JSON, and files of HTML.

Does not decide what has a colour: render and the doctors say what a text means.

Source: no-color.org.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from typing import Any, Callable

import click

from garp_agent.render.table import PIPE, Screen
from garp_agent.runtime.exits import EXIT_FAILED

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
STYLES: dict[str, dict[str, Any]] = {
    "heading": {"bold": True},
    "good": {"fg": "green"},
    "warn": {"fg": "yellow"},
    "bad": {"fg": "red"},
    "quiet": {"dim": True},
}


def screen() -> Screen:
    """Return what standard output is: a terminal, with colours if it has them, or a pipe."""
    if sys.stdout is None or not sys.stdout.isatty():  # None: it was closed at the start
        return PIPE
    width = shutil.get_terminal_size().columns
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return Screen(width)
    return Screen(width, lambda text, meaning: click.style(text, **STYLES[meaning]))


def print_values(values: object, as_json: bool, text: Callable[[], str]) -> None:
    """Print values as JSON, or else the text that shows them, which ends with its own newline."""
    click.echo(json.dumps(values, indent=2) + "\n" if as_json else text(), nl=False)


def write_page(path: str, text: str, program: str) -> None:
    """Write a page to a file; "-" is standard output.  Exit with 1 if it cannot be written."""
    try:
        with click.open_file(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        click.echo(f"{program}: {path}: could not be written: {error.strerror}", err=True)
        sys.exit(EXIT_FAILED)
