"""The man pages: made from the documentation and the commands, and good roff."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest

from garp_agent.cli import cli
from garp_agent.core import settings
from tests.packaging.conftest import tool
from tests.packaging.support import need, run

build_man = tool("build_man")
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


def test_every_command_and_option_is_in_the_page(tmp_path: Path) -> None:
    text = shown("garp-agent.8", tmp_path)
    for name, command in cli.commands.items():
        assert f"garp-agent {name}" in text
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.opts[0] in text


def test_every_key_is_in_the_page(tmp_path: Path) -> None:
    text = shown("garp-agent.yaml.5", tmp_path)
    for key in settings.Settings._fields:
        assert re.search(rf"^ +({key}|rate_limit)\b", text, re.MULTILINE), key


def test_a_line_that_looks_like_a_request_is_text() -> None:
    assert build_man._inline(".so /etc/passwd") == r"\&.so /etc/passwd"
    assert build_man._inline(r"a \fB backslash") == r"a \efB backslash"
