"""docs/garp-hint.md names every option, state and value there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import click

from garp_agent.cli.garp_hint import cli
from garp_agent.hypervisor.core import guests as records
from garp_agent.hypervisor.core import watcher as hints
from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.hypervisor.core.guests import Failover
from garp_agent.hypervisor.core.watcher import Options, Watcher
from garp_agent.hypervisor.io import channels, fanout

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "garp-hint.md").read_text()


def options(command: str) -> set[str]:
    found = (each.opts for each in cli.commands[command].params if isinstance(each, click.Option))
    return {name for names in found for name in names if name.startswith("--")}


def test_every_option_of_watch_is_on_the_page_and_no_other() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    known = {name for command in cli.commands for name in options(command)}
    assert options("watch") <= named
    assert named - known == {"--live", "--config"}  # virsh's


def test_every_command_is_on_the_page() -> None:
    assert set(re.findall(r"^garp-hint ([a-z]+)", PAGE, re.MULTILINE)) == set(cli.commands)


def test_every_state_is_on_the_page() -> None:
    table = PAGE.partition("| state | |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall("`(.*?)`", row)} == {
        outcome.value for outcome in Outcome
    }


def test_every_value_is_on_the_page() -> None:
    mind = Watcher(Options(), "boot", lambda: 0.0)
    mind.found([channels.Channel("a", "/run/a")], 0.0)
    guests = mind.status(0.0)["guests"]
    assert isinstance(guests, list)
    entry = Failover(1, "bond0", "r", 0.0, 0.0).values()
    status, history = (
        PAGE.partition(start)[2].partition("\n\n")[0]
        for start in ("`garp-hint status --json` has", "`garp-hint history --json`:")
    )
    assert set(mind.status(0.0)) | set(guests[0]) - {"guest"} <= set(re.findall("`(.*?)`", status))
    assert set(entry) == set(re.findall("`(.*?)`", history))


def test_the_numbers_on_the_page() -> None:
    assert f"the next {hints.LEASE:g} s" in PAGE
    assert f"within `--timeout` ({fanout.TIMEOUT:g} s)" in PAGE
    assert "after {:g} s and {:g} s".format(*records.REPEATS) in PAGE
    assert f"cut after {channels.CUT_AT} characters" in PAGE
    assert f"the last {hints.HISTORY} failovers" in PAGE
    assert f"at most {records.NAMES})" in PAGE


def test_libvirts_snippet_is_the_one_on_the_page() -> None:
    file = ROOT / "contrib" / "libvirt" / "channel.xml"
    root = ElementTree.parse(file).getroot()
    assert root.find("target").get("name") == channels.PORT_NAME  # type: ignore[union-attr]
    assert root.find("source").attrib == {"mode": "bind"}  # type: ignore[union-attr]
    snippet = file.read_text().partition("-->\n")[2]
    assert snippet in PAGE
