"""The man pages: made from the documentation and the commands, and good roff."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest

from garp_agent.cli.garp_agent import cli as agent
from garp_agent.cli.garp_hint import cli as hint
from garp_agent.config import settings
from tests.packaging.conftest import tool
from tests.packaging.support import need, run

build_man = tool("build_man")
PROGRAMS: dict[str, click.Group] = {"garp-agent": agent, "garp-hint": hint}
PAGES = {source.name[:-3]: source for source in build_man.pages()}


def shown(name: str, folder: Path) -> str:
    """A page as a reader sees it; groff must have nothing to complain about."""
    man = need("man", "man-db")
    need("groff", "groff-base")
    path = folder / name
    path.write_text(build_man.roff(PAGES[name]))
    environment = {**os.environ, "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "MANROFFSEQ": ""}
    text = run(man, "--warnings", "-E", "UTF-8", "-P", "cat", "-l", path, env=environment)
    assert "warning" not in text, text
    return re.sub("\x1b\\[[0-9;]*m|.\b", "", text)


def test_there_are_three() -> None:
    assert set(PAGES) == {"garp-agent.8", "garp-agent.yaml.5", "garp-hint.8"}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_groff_has_nothing_to_complain_about(name: str, tmp_path: Path) -> None:
    text = shown(name, tmp_path)
    for left_over in ("**", "](", "@commands", "@include", "```"):
        assert left_over not in text


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_command_and_option_is_in_the_page(program: str, tmp_path: Path) -> None:
    lines = [line.strip() for line in shown(f"{program}.8", tmp_path).splitlines()]
    assert ":" not in {line[:1] for line in lines}
    for name, command in PROGRAMS[program].commands.items():
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{program} {name} "))
        for option in command.params:
            if isinstance(option, click.Option):
                names, words = option.get_help_record(click.Context(command)) or ("", "")
                assert option.help, f"{program} {name} {names} has no help"
                at = lines.index(names, at)
                assert lines[at + 1].startswith(words[:60])


def test_every_key_is_in_the_page(tmp_path: Path) -> None:
    text = shown("garp-agent.yaml.5", tmp_path)
    for key in settings.Settings._fields:
        assert re.search(rf"^ +({key}|rate_limit)\b", text, re.MULTILINE), key


def test_a_line_that_looks_like_a_request_is_text() -> None:
    assert build_man._inline(".so /etc/passwd") == r"\&.so /etc/passwd"
    assert build_man._inline(r"a \fB backslash") == r"a \efB backslash"
