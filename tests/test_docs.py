"""The documentation names tests and pages that exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from garp_agent.cli.garp_agent import cli as agent
from garp_agent.cli.garp_hint import cli as hint

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files_that_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_of_a_page_wrap_at_100_columns(page: Path) -> None:
    """Tables, examples, pictures and what a command has written are as wide as they are."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!-- (.*?) -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)
    assert re.findall(r"^(?! *\||!\[).{101,}$", text, re.MULTILINE) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_that_a_page_names_exist(page: Path) -> None:
    groups: dict[str, click.Group] = {"agent": agent, "hint": hint}
    unknown = []
    text = page.read_text().replace("\\\n", "")
    pattern = r"(`?)\bgarp-(agent|hint) ([a-z]+)\b([^`\n|;#*]*)"
    for mark, program, name, rest in re.findall(pattern, text):
        command = groups[program].commands.get(name)
        options = {*re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", rest)} - {"--help"}
        known = {option for each in command.params for option in each.opts} if command else set()
        if options - known or (mark and not command):
            unknown.append((program, name, *options - known))
    assert unknown == []


def test_reliability_page_names_tests_that_exist() -> None:
    named = re.findall(r"`(test_\w+)`", (ROOT / "docs/reliability.md").read_text())
    assert len(named) > 20
    assert [name for name in named if name not in TESTS] == []


def test_design_page_names_files_that_exist() -> None:
    named = re.findall(r"`((?!tests)\w+/[\w/]+\.py)`", (ROOT / "docs/design.md").read_text())
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "agent/garp_agent" / name).exists()] == []


def test_readme_and_its_picture_show_the_medians_of_the_measurements() -> None:
    table = (ROOT / "docs/measurements.md").read_text()
    picture = (ROOT / "docs/outages.svg").read_text()
    title = re.findall(r"!\[(.*)\]\(docs/outages.svg\)", (ROOT / "README.md").read_text())[0]
    rows = {
        "arping loop": "arping loop, sleep 5 s",
        "agent": "garp-agent, every 5 s",
        "hints": "garp-agent with hints (garp-hint watch)",
    }
    for name, row in rows.items():
        line = next(line for line in table.splitlines() if line.startswith(f"| {row} |"))
        seconds = int(line.split(" | ")[3].split()[0]) / 1000
        shown = f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
        assert f"{name} {shown}" in title
        assert f">{shown}<" in picture


def test_pages_give_the_figures_of_the_performance_page() -> None:
    table = (ROOT / "docs/performance.md").read_text()
    found = re.findall(r"^\| (resident memory|last of 1,000.*?) \| (.*) \|$", table, re.MULTILINE)
    rows = dict(reversed(found))  # the first of a name: the second one has the floor beside it
    used, _, ratio, _ = rows["resident memory"].split(" | ")
    memory = f"{float(used.split()[0]):.0f} MB"
    assert (
        f" {memory} of memory ({float(ratio):.1f} times a bare" in (ROOT / "README.md").read_text()
    )
    assert f"Python program of about {memory}" in (ROOT / "docs/faq.md").read_text()
    slow, peer, *_ = rows["last of 1,000 guests hinted"].split(" | ")
    fast, script = float(slow.split()[0]), float(peer.split()[0]) / 1000
    said = f"after {fast:.0f} ms; with the script, after {script:.0f} s"
    assert said in (ROOT / "docs/garp-hint.md").read_text().replace("\n", " ")


def test_index_of_the_documentation_links_to_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs/install").glob("*.md")]
    names = {str(page.relative_to(ROOT / "docs")) for page in pages} - {"README.md"}
    assert names <= set(re.findall(r"\]\(([^)#]+)\)", index))
