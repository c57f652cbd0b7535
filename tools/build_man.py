#!/usr/bin/env python3
"""Builds the man pages from the documentation and the commands themselves.

    docs/man/PAGE.SECTION.md     the page's own words, in Markdown
    @commands PROGRAM@           there: what each command's --help says, from click
    @include FILE@               there: a page of the documentation without its title

So an option's words stand in one place, the code, and a key's in one, docs/configuration.md.
Understands the Markdown that docs/ uses: headings, paragraphs, lists, tables, fenced code,
and `code`, **bold**, *italic*, [links](target) within a line.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "man"


def pages() -> list[Path]:
    """The sources, one for each man page."""
    return sorted(PAGES.glob("*.[1-8].md"))


def roff(source: Path) -> str:
    """The man page of which this is the source."""
    name, section, _ = source.name.rsplit(".", 2)
    text = re.sub(r"^@(\w+) (\S+)@$", _insert, source.read_text(), flags=re.MULTILINE)
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    day = datetime.datetime.fromtimestamp(int(epoch), datetime.timezone.utc) if epoch else None
    date = day.strftime("%Y-%m-%d") if day else ""
    head = f'.TH "{name.upper()}" "{section}" "{date}" "garp-agent {_version()}" ""\n'
    # No justification, no hyphens: options and paths stay whole.
    return head + ".nh\n.ad l\n" + "".join(_blocks(text.splitlines()))


# -- what is put in ------------------------------------------------------------------------


def _insert(match: re.Match[str]) -> str:
    what, argument = match.groups()
    return {"commands": _commands, "include": _included}[what](argument)


def _included(name: str) -> str:
    """A page of the documentation, without its title and with headings of a man page."""
    lines = (ROOT / "docs" / name).read_text().splitlines()
    return "\n".join(line.upper() if line.startswith("## ") else line for line in lines[1:])


def _commands(program: str) -> str:
    """Every command of a program, as Markdown."""
    group = _click_group(program)
    return "\n".join(_command(program, name, group.commands[name]) for name in group.commands)


def _click_group(program: str) -> Any:
    sys.path.insert(0, str(ROOT / "agent"))
    if program == "garp-agent":
        from garp_agent.cli.garp_agent import cli
    else:
        from garp_agent.cli.garp_hint import cli
    return cli


def _command(program: str, name: str, command: Any) -> str:
    import click

    context = click.Context(command, info_name=f"{program} {name}")
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"### {program} {name} {usage}", "", *(command.help or "").split("\n"), ""]
    for parameter in command.params:
        if not isinstance(parameter, click.Option):
            continue
        record = parameter.get_help_record(context)
        if record:
            lines += [f"**{record[0]}**", f":   {record[1]}", ""]
    return "\n".join(lines)


def _version() -> str:
    text = (ROOT / "agent" / "garp_agent" / "__init__.py").read_text()
    return str(re.findall(r'__version__ = "(.*)"', text)[0])


# -- Markdown to roff ----------------------------------------------------------------------


def _blocks(lines: list[str]) -> Iterator[str]:
    at = 0
    while at < len(lines):
        line = lines[at]
        end = at + 1
        if line.startswith("```"):
            while not lines[end].startswith("```"):
                end += 1
            yield ".IP\n.nf\n" + "".join(f"{_text(each)}\n" for each in lines[at + 1 : end])
            yield ".fi\n"
            end += 1
        elif line.startswith("|"):
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            yield from _table(lines[at:end])
        elif line.startswith(("## ", "# ")):
            yield f'.SH "{_text(line.lstrip("# "))}"\n'
        elif line.startswith("### "):
            yield f".SS {_inline(line[4:])}\n"
        elif line.strip():
            while end < len(lines) and lines[end].strip() and not _begins_block(lines[end]):
                end += 1
            yield _paragraph(lines[at:end])
        at = end


def _begins_block(line: str) -> bool:
    return bool(re.match(r"(#|```|\||- |\d+\. |:   )", line))


def _paragraph(lines: list[str]) -> str:
    text = " ".join(line.strip() for line in lines)
    if item := re.match(r"(- |\d+\. |:   )(.*)", text):
        mark, rest = item.groups()
        if mark.startswith(":"):  # the definition of the bold paragraph before it
            return f".RS\n{_inline(rest)}\n.RE\n"
        mark = r"\(bu" if mark == "- " else mark.strip()
        return f".IP {mark} 3\n{_inline(rest)}\n"
    return f".PP\n{_inline(text)}\n"


def _table(lines: list[str]) -> Iterator[str]:
    """Each row as a term and what belongs to it."""
    head, _, *rows = (_cells(line) for line in lines)
    for term, *others in rows:
        titled = [
            f"{title}: {cell}" if title and len(others) > 1 else cell
            for title, cell in zip(head[1:], others)
        ]
        text = "\n.br\n".join(_inline(each) for each in titled if each)
        yield f".TP\n{_inline(f'**{term.strip(chr(96))}**')}\n{text}\n"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def _inline(text: str) -> str:
    """One line of running text."""
    text = re.sub(r"\[`?([^\]`]+)`?\]\([^)]+\)", r"\1", text)  # links: their words
    parts = re.split(r"(`[^`]+`|\*\*.+?\*\*|(?<!\w)\*[^*\s][^*]*\*)", text)
    return _guarded("".join(map(_marked, parts)))


def _marked(part: str) -> str:
    if len(part) > 2 and part[0] == part[-1] == "`":
        return rf"\fB{_escaped(part[1:-1])}\fR"
    if part.startswith("**") and len(part) > 4:
        return rf"\fB{_escaped(part[2:-2].replace('`', ''))}\fR"
    if len(part) > 2 and part[0] == part[-1] == "*":
        return rf"\fI{_escaped(part[1:-1])}\fR"
    return _escaped(part)


def _text(text: str) -> str:
    return _guarded(_escaped(text))


def _escaped(text: str) -> str:
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub("[^\0-\x7f]", lambda match: rf"\[u{ord(match[0]):04X}]", text)


def _guarded(line: str) -> str:
    """A line that begins like a request is none."""
    return rf"\&{line}" if line[:1] in (".", "'") else line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "build" / "man")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for source in pages():
        target = output / source.name[:-3]
        target.write_text(roff(source))
        print(target)


if __name__ == "__main__":
    main()
