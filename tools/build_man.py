#!/usr/bin/env python3
"""Build the man pages with pandoc, from docs/man/PAGE.SECTION.md.

In these sources two lines stand for other text:

    @commands PROGRAM@    what `PROGRAM COMMAND --help` says for each command, from click
    @include FILE@        a page of docs/ without its title

So the text of an option stands only in the code, that of a key only in docs/configuration.md.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "agent"))

import click  # noqa: E402 # after the line above, like the next four

from garp_agent import __version__  # noqa: E402
from garp_agent.cli.garp_agent import cli as garp_agent  # noqa: E402
from garp_agent.cli.garp_hint import cli as garp_hint  # noqa: E402
from source_date import source_date  # noqa: E402

PROGRAMS: dict[str, Any] = {"garp-agent": garp_agent, "garp-hint": garp_hint}
FOOTER = f"garp-agent {__version__}"


def roff(source: Path) -> str:
    """Convert a source to a man page; raises CalledProcessError if pandoc fails."""
    name, section, _ = source.name.rsplit(".", 2)
    text = re.sub(r"^@(\w+) (\S+)@$", _insert, source.read_text(), flags=re.MULTILINE)
    text = re.sub(r"^(?:\|.*\n)+", _definitions, text, flags=re.MULTILINE)
    date = time.strftime("%Y-%m-%d", time.gmtime(source_date()))
    metadata = (f"title={name.upper()}", f"section={section}", f"date={date}", f"footer={FOOTER}")
    command = ["pandoc", "-s", "-f", "markdown-smart", "-t", "man"]
    command += [word for each in metadata for word in ("-M", each)]
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True)
    # No hyphenation, no justification: options and paths stay in one piece.
    page = done.stdout.replace("\n.SH NAME", "\n.nh\n.ad l\n.SH NAME", 1)
    # mandoc(1) knows no constant-width fonts (\\f[V], \\f[C]) and needs no .PP below a title.
    page = re.sub(r"\\f\[(?:[VC]B?|CR)\]", r"\\f[B]", page)
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", page, flags=re.MULTILINE)


def _insert(match: re.Match[str]) -> str:
    what, argument = match.groups()
    if what == "commands":
        commands = PROGRAMS[argument].commands.items()
        return "\n".join(_command(f"{argument} {name}", command) for name, command in commands)
    text = (ROOT / "docs" / argument).read_text().partition("\n")[2]
    return re.sub(r"^## .*$", lambda title: title[0][1:].upper(), text, flags=re.MULTILINE)


def _command(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {name} {usage}", "", inspect.cleandoc(command.help or ""), ""]
    for parameter in command.params:
        is_option = isinstance(parameter, click.Option)
        if is_option and (record := parameter.get_help_record(context)):
            lines += [f"**{record[0]}**", f":   {record[1]}", ""]
    return "\n".join(lines)


def _definitions(match: re.Match[str]) -> str:
    """Turn a table into a list: each first cell, with the others and their titles below it."""
    titles, _, *rows = (line.strip("| ").split(" | ") for line in match[0].splitlines())
    text = ""
    for term, *cells in rows:
        named = [f"{title}: {cell}" for title, cell in zip(titles[1:], cells)]
        text += f"**{term.strip('`')}**\n:   {'. '.join(named)}\n\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "build" / "man")
    output = parser.parse_args().output
    if shutil.which("pandoc") is None:
        sys.exit("build_man: needs `pandoc` (Debian package pandoc)")
    output.mkdir(parents=True, exist_ok=True)
    for source in sorted((ROOT / "docs" / "man").glob("*.[1-8].md")):
        target = output / source.stem
        target.write_text(roff(source))
        print(target)


if __name__ == "__main__":
    main()
