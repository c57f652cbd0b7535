"""The man pages, readable without warnings, and completion: made from pages and commands."""

from __future__ import annotations

import os
import re
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete

import build_man
from tests.packaging.support import ROOT, need, run

# What completion offers, by the word that stands for the value in --help.
KINDS = {"FILE": "file", "PATH": "file", "NAME|PATH": "file", "GLOB": "file", "DIRECTORY": "dir"}


@pytest.fixture(params=["garp-agent.8", "garp-agent.yaml.5", "garp-hint.8"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The text of a page as a reader sees it, one paragraph a line; groff gives no warning."""
    need("pandoc", "pandoc")
    need("groff", "groff-base")
    path = tmp_path / request.param
    path.write_text(build_man.roff(build_man.ROOT / "docs" / "man" / f"{request.param}.md"))
    environment = {**os.environ, "MANWIDTH": "1000", "LC_ALL": "C.UTF-8", "MANROFFSEQ": ""}
    man = [need("man", "man-db"), "--warnings", "-E", "UTF-8", "-P", "cat", "-l", path]
    text = re.sub("\x1b\\[[0-9;]*m|.\b", "", run(*man, env=environment))
    assert "warning" not in text
    assert run(need("mandoc", "mandoc"), "-T", "lint", path) == ""
    return text


def test_page_has_no_markup_left(page: str) -> None:
    markup = ("**", "](", "../", "@commands", "@include", "```", "\\")
    assert [mark for mark in markup if mark in page] == []


@pytest.mark.parametrize("page", ["garp-agent.8", "garp-hint.8"], indirect=True)
def test_page_of_a_program_has_every_command_and_option(page: str) -> None:
    words = " ".join(page.split())
    program = "garp-agent" if words.startswith("GARP-AGENT") else "garp-hint"
    at = 0
    for name, command in build_man.PROGRAMS[program].commands.items():
        context = click.Context(command)
        options = [each for each in command.params if isinstance(each, click.Option)]
        wanted = [f"{program} {name} [OPTIONS]"] if options else []
        wanted += [" ".join(each.get_help_record(context) or ()) for each in options]
        for text in wanted:
            at = words.index(" ".join(text.split()), at)


@pytest.mark.parametrize("page", ["garp-agent.yaml.5"], indirect=True)
def test_page_of_the_configuration_has_every_key(page: str) -> None:
    keys = re.findall(r"^\| `([a-z_.]+)` \|", (ROOT / "docs/configuration.md").read_text(), re.M)
    assert len(keys) > 20
    assert [key for key in keys if not re.search(rf"^ +{key}\s+Default: ", page, re.M)] == []


@pytest.mark.parametrize("program", build_man.PROGRAMS)
def test_completion_of_a_value_offers_files_only_for_a_path(program: str) -> None:
    complete = ShellComplete(build_man.PROGRAMS[program], {}, program, "_COMPLETE")
    for name, command in build_man.PROGRAMS[program].commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                offered = complete.get_completions([name, option.opts[-1]], "/et")
                kind = KINDS.get(option.metavar or "")
                expected = [(kind, "/et")] if kind else []
                assert [(item.type, item.value) for item in offered] == expected, option.opts
