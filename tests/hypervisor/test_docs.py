"""docs/garp-hint.md names every option, command, state and value that exists, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import click

from garp_agent.cli.garp_hint import cli
from garp_agent.hypervisor.core import rounds
from garp_agent.hypervisor.core.exchange import Outcome
from garp_agent.hypervisor.core.lease import LEASE
from garp_agent.hypervisor.io import channels, fanout
from tests.hypervisor.core.talk import A, Talk

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "garp-hint.md").read_text()
FLAT = " ".join(PAGE.split())
SNIPPET = ROOT / "contrib" / "libvirt" / "channel.xml"


def options(command: str) -> set[str]:
    found = (each.opts for each in cli.commands[command].params if isinstance(each, click.Option))
    return {name for names in found for name in names if name.startswith("--")}


def quoted_after(start: str) -> set[str]:
    """Return what stands in backquotes from ``start`` to the end of the paragraph."""
    return set(re.findall("`([^`]*)`", PAGE.partition(start)[2].partition("\n\n")[0]))


def test_page_names_every_option_of_watch_and_every_command() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", PAGE))
    assert options("watch") <= named
    assert named - {name for command in cli.commands for name in options(command)} == {
        "--live",  # of virsh
        "--config",
    }
    assert set(re.findall(r"^garp-hint ([a-z]+)", PAGE, re.MULTILINE)) == set(cli.commands)


def test_page_names_every_state_and_every_value() -> None:
    rows = re.findall(
        r"^\| (`.*?`) \|", PAGE.partition("| state | |")[2].partition("\n\n")[0], re.M
    )
    states = {name for row in rows for name in re.findall("`(.*?)`", row)}
    assert states == {outcome.value for outcome in Outcome}
    talk = Talk(A)
    talk.failover(0.0)
    values = set(talk.watcher.status(0.0)) | set(talk.guest("a")) - {"guest"}
    assert values <= quoted_after("`garp-hint status --json` has")
    assert set(talk.history()[0]) == quoted_after("`garp-hint history --json`:")


def test_numbers_on_the_page_are_those_of_the_code() -> None:
    assert f"the next {LEASE:g} s" in FLAT
    assert f"within `--timeout` ({fanout.TIMEOUT:g} s)" in FLAT
    assert "after {:g} s and {:g} s".format(*rounds.REPEATS) in FLAT
    assert f"cut after {channels.CUT_AT} characters" in FLAT
    assert f"the last {rounds.HISTORY} failovers" in FLAT
    assert f"at most {rounds.NAMES})" in FLAT


def test_libvirt_snippet_on_the_page_is_the_file() -> None:
    root = ElementTree.parse(SNIPPET).getroot()
    assert [element.attrib for element in root] == [
        {"mode": "bind"},
        {"type": "virtio", "name": channels.PORT_NAME},
    ]
    assert SNIPPET.read_text().partition("-->\n")[2] in PAGE
