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


@pytest.mark.parametrize("program", PROGRAMS)
def test_completion_of_a_value_offers_files_only_for_a_path(program: str) -> None:
    complete = ShellComplete(PROGRAMS[program], {}, program, "_COMPLETE")
    for name, command in PROGRAMS[program].commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and not option.is_flag:
                offered = complete.get_completions([name, option.opts[-1]], "/et")
                kind = KINDS.get(option.metavar or "")
                expected = [(kind, "/et")] if kind else []
                assert [(item.type, item.value) for item in offered] == expected, option.opts
