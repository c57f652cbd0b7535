"""Shell completion, which is click's own: what it offers where a path is wanted."""

from __future__ import annotations

import click
import pytest
from click.shell_completion import ShellComplete

from garp_agent.cli.garp_agent import cli as agent
from garp_agent.cli.garp_hint import cli as hint

PROGRAMS: dict[str, click.Group] = {"garp-agent": agent, "garp-hint": hint}
# By the word that stands for the value in the help; the shell does the looking.
KINDS = {"FILE": "file", "PATH": "file", "NAME|PATH": "file", "GLOB": "file", "DIRECTORY": "dir"}
WANTING = [
    (program, name, option.opts[-1], KINDS[option.metavar])
    for program, group in PROGRAMS.items()
    for name, command in group.commands.items()
    for option in command.params
    if isinstance(option, click.Option) and option.metavar in KINDS
]


def offered(program: str, *words: str) -> list[tuple[str, str]]:
    """(kind, value) of each thing that completion offers for the last of the words."""
    complete = ShellComplete(PROGRAMS[program], {}, program, "_COMPLETE")
    found = complete.get_completions(list(words[:-1]), words[-1])
    return [(item.type, item.value) for item in found]


@pytest.mark.parametrize(("program", "command", "option", "kind"), WANTING)
def test_files_where_an_option_takes_a_path(
    program: str, command: str, option: str, kind: str
) -> None:
    assert offered(program, command, option, "/et") == [(kind, "/et")]


def test_a_file_to_check() -> None:
    assert offered("garp-agent", "check", "/et") == [("file", "/et")]


def test_no_files_where_none_is_taken() -> None:
    assert ("plain", "status") in offered("garp-agent", "sta")
    assert offered("garp-agent", "run", "--interval", "/et") == []
    assert offered("garp-hint", "send", "--guest", "/et") == []
