"""docs/garp-hint.md names every option, command, state and value that exists, and no other."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from bench.guests import Guests, Manner
from garp_agent.cli.garp_hint import cli
from garp_agent.hypervisor.core import channel_names, hint_rounds
from garp_agent.hypervisor.core.contacts import FIRST_SPREAD
from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.hypervisor.core.failover_record import NAMES, REPEATS
from garp_agent.hypervisor.core.guests_without_channel import NO_CHANNEL, UNMATCHED
from garp_agent.hypervisor.core.lease import LEASE
from garp_agent.hypervisor.core.lease_paths import LEASE_AFTER
from garp_agent.hypervisor.io import channels, fanout
from garp_agent.wire.protocol import Burst
from tests.hypervisor.core.talk import A, Talk

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "garp-hint.md").read_text()
OPTIONS = {
    name: {
        long
        for option in command.params
        for long in (*option.opts, *option.secondary_opts)
        if long.startswith("--")
    }
    for name, command in cli.commands.items()
}


def first_column(start: str) -> set[str]:
    """Return what stands in backquotes in the first column of the first table after ``start``."""
    rows = PAGE.partition(start)[2].partition("\n|")[2].partition("\n\n")[0].splitlines()[2:]
    return {name for row in rows for name in re.findall("`([^`]*)`", row.split("|")[1])}


def test_page_names_every_option_of_watch_and_every_command() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert OPTIONS["watch"] <= named
    known = {option for options in OPTIONS.values() for option in options}
    assert named - known == set()
    assert set(re.findall(r"^garp-hint ([a-z]+)", PAGE, re.MULTILINE)) == set(cli.commands)


def test_page_names_every_state_and_every_value() -> None:
    states = first_column("`garp-hint list` shows the channels")
    assert states == {*(outcome.value for outcome in Outcome), NO_CHANNEL, UNMATCHED}
    talk = Talk(A)
    talk.failover(0.0)
    assert set(talk.watcher.status(0.0)) <= first_column("`garp-hint status --json` has")
    assert set(talk.guest("a")) - {"guest"} == first_column("Each of `guests` has")
    assert set(talk.history()[0]) == first_column("`garp-hint history --json` has")


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    text = " ".join(PAGE.split())
    assert f"the next {LEASE:g} s" in text
    assert f"within `--timeout` ({fanout.TIMEOUT:g} s)" in text
    assert "after {:g}, {:g}, {:g}, {:g}, {:g} and {:g} s".format(*REPEATS) in text
    assert f"for {LEASE_AFTER:g} s (`--lease-after`)" in text
    assert f"spread over {FIRST_SPREAD:g} s" in text
    assert f"cut after {channel_names.CUT_AT} characters" in text
    assert f"the last {hint_rounds.HISTORY} failovers" in text
    assert f"at most {NAMES})" in text


def test_libvirt_snippet_on_the_page_is_the_file() -> None:
    snippet = (ROOT / "contrib" / "libvirt" / "channel.xml").read_text().partition("-->\n")[2]
    assert f"<target type='virtio' name='{channels.PORT_NAME}'/>" in snippet
    assert snippet in PAGE


def test_shell_command_on_the_protocol_page_hints_a_guest(short_path: Path) -> None:
    if not shutil.which("socat"):
        pytest.skip("needs `socat` (Debian package socat)")
    page = (ROOT / "docs" / "protocol.md").read_text()
    [command] = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        mine = re.sub(r"(?<=UNIX-CONNECT:)[^,]*", guests.paths[0], command)
        done = subprocess.run(["sh", "-c", mine], stdout=subprocess.PIPE, timeout=60, check=True)
        assert guests.requests(0) == [Burst(reason="maintenance")]
    assert json.loads(done.stdout)["return"]["frames"] == 1
