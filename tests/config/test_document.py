"""The text: what is refused, with its whole line, and how much is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from garp_agent.config.read import MOST_BYTES
from garp_agent.config.settings import Settings
from tests.config.refusals import refusals, settings_of

TOP = (
    "interval, interval_with_lease, jitter, addresses_per_tick, burst, rate_limit, arp, mac_only, "
    "interfaces, addresses, conflict, reconcile_interval, hint_port and control_socket"
)


def refused() -> list[tuple[bytes, list[str]]]:
    """Return the texts of refused.txt, each with its lines."""
    found: list[tuple[bytes, list[str]]] = []
    for line in Path(__file__).with_name("refused.txt").read_text().splitlines():
        if line.startswith("    "):
            found[-1][1].append(f"f.yaml:{line.strip()}".replace("TOP", TOP))
        elif line and not line.startswith(";"):
            found.append((line.encode().decode("unicode_escape").encode("latin-1"), []))
    return found


@pytest.mark.parametrize(("text", "lines"), refused(), ids=lambda value: repr(value)[:40])
def test_a_bad_text_is_refused_with_a_line_for_each_problem(text: bytes, lines: list[str]) -> None:
    assert refusals(text) == lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (17 * "[", "1: nested too deeply; allowed at most 16 levels"),
        (5000 * "[" + 5000 * "]", "1: nested too deeply; allowed at most 16 levels"),
        ("burst:\n" + 5000 * "- ", "2: nested too deeply; allowed at most 16 levels"),
        (5000 * "{a: ", "1: nested too deeply; allowed at most 16 levels"),
        (5000 * "? ", "1: nested too deeply; allowed at most 16 levels"),
        (
            "interfaces:\n  include:\n" + 9_996 * "  - a\n",
            "9998: too many values; allowed at most 10000 keys and values",
        ),
        (f"%YAML {5000 * '1'}.1", "1: not YAML: a number or an escape is out of range"),
        ((MOST_BYTES + 1) * "#", " too large; allowed at most 1048576 bytes"),
    ],
    ids=lambda text: text[:20],
)
def test_a_text_beyond_a_limit_is_refused_with_one_line(text: str, line: str) -> None:
    assert refusals(text) == [f"f.yaml:{line}"]


def test_a_text_is_read_up_to_the_limits() -> None:
    settings_of(MOST_BYTES * "#")
    settings_of("interfaces:\n  include:\n" + 9_995 * "  - a\n")


def test_aliases_are_not_followed() -> None:
    laughs = "a0: &a0 [lol]\n"
    for level in range(1, 100):
        laughs += f"a{level}: &a{level} [{', '.join(9 * [f'*a{level - 1}'])}]\n"
    lines = refusals(f"{laughs}burst: *a99\n")
    assert len(lines) == 101
    assert lines[-1].startswith("f.yaml:101: burst: given *a99: YAML aliases are not supported")


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n", "# nothing but a comment\n", "---\n", "---\n...\n", "{}", "rate_limit:\n"),
        "interfaces:\n  # include: [eth0]\naddresses:\n",
        *("\ufeff", "\ufeffinterval: 5s\n", "interval: 5s\r\njitter: 20%\r\n"),
        *('"interval": "5s"\n', "? interval\n: 5s\n", "%YAML 1.1\n---\ninterval: 5s\n"),
    ],
)
def test_a_text_that_changes_nothing_gives_the_defaults(text: str) -> None:
    assert settings_of(text) == Settings()
