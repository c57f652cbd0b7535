"""What commands show on a real terminal of 80 columns, and what they print into a pipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.guests import PORT, Guests, Manner
from tests.cli.terminal import COLOUR, on_terminal
from tests.hypervisor.watching import COMMAND, eventually, run, watching

AGENT_DOCTOR = (sys.executable, "-m", "garp_agent", "doctor", "--no-send")
AGENT_LIST = (sys.executable, "-m", "garp_agent", "list")


def test_tables_of_the_host_fit_the_terminal_and_are_whole_in_a_pipe(short_path: Path) -> None:
    folder = short_path / ("long" * 6)
    folder.mkdir()
    options = ("--port", PORT, "--timeout", "3")
    with Guests(folder, [Manner.ANSWERS, Manner.REFUSES]) as guests:
        with watching(short_path, *options) as watcher:
            eventually(lambda: "new" not in watcher.states().values(), "all were contacted")
            watcher.ask("burst")
            watcher.last()
            where = ("--status-socket", watcher.status_socket)
            doctor = ("doctor", "--no-send", *options, *where)
            for command in (("list", *options), ("status", *where), ("history", *where), doctor):
                status, shown = on_terminal(*COMMAND, *command)
                plain = COLOUR.sub("", shown)
                assert status == int(command == doctor)  # the watcher follows nothing
                assert shown != plain, "no colour"
                assert max(map(len, plain.splitlines())) <= 80
                assert not COLOUR.search(run(*command)[1])
        piped = run("list", *options)[1]
        assert all(path in piped for path in guests.paths)
        assert max(map(len, piped.splitlines())) > 80


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_terminal_without_colours_gets_none(environment: dict[str, str]) -> None:
    assert COLOUR.search(on_terminal(*AGENT_LIST)[1])
    assert not COLOUR.search(on_terminal(*AGENT_LIST, environment=environment)[1])


def test_doctor_of_the_agent_has_colours_on_a_terminal_and_fits_it() -> None:
    _, shown = on_terminal(*AGENT_DOCTOR, "--control-socket", "/none/x", columns=60)
    assert shown.startswith("\x1b[31mfail\x1b[0m  daemon ")
    assert max(map(len, COLOUR.sub("", shown).splitlines())) <= 60
