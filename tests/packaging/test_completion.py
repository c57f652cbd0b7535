"""Shell completion: files where a value is a path.  The rest is click's."""

from __future__ import annotations

import click
import pytest
from click.shell_completion import ShellComplete

from garp_agent.cli.garp_agent import cli as agent
from garp_agent.cli.garp_hint import cli as hint

PROGRAMS: dict[str, click.Group] = {"garp-agent": agent, "garp-hint": hint}
# What completion offers, by the word that stands for the value in --help.
KINDS = {"FILE": "file", "PATH": "file", "NAME|PATH": "file", "GLOB": "file", "DIRECTORY": "dir"}


def offered(program: str, *words: str) -> list[tuple[str, str]]:
    """Return (kind, value) of each thing that completion offers for the last of the words."""
    complete = ShellComplete(PROGRAMS[program], {}, program, "_COMPLETE")
    found = complete.get_completions(list(words[:-1]), words[-1])
    return [(item.type, item.value) for item in found]


@pytest.mark.parametrize("program", PROGRAMS)
def test_completion_of_a_value_offers_files_only_for_a_path(program: str) -> None:
    for name, command in PROGRAMS[program].commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                kind = KINDS.get(option.metavar or "")
                expected = [(kind, "/et")] if kind else []
                assert offered(program, name, option.opts[-1], "/et") == expected, option.opts


def test_completion_of_a_word_offers_commands_and_the_file_to_check() -> None:
    assert ("plain", "status") in offered("garp-agent", "sta")
    assert offered("garp-agent", "check", "/et") == [("file", "/et")]
