"""Rows of 80 columns, lines of any length, JSON."""

from __future__ import annotations

import time

import pytest

from garp_agent.diagnosis.observe.observer import SeenAnnouncement
from garp_agent.diagnosis.observe.table import Table, as_json, clock, gap
from garp_agent.render.table import Screen
from tests.diagnosis.world import ADVERTISEMENT, MAC, REQUEST

LONG = "2001:db8:1234:5678:5054:ff:fe12:3456"


def seen(**changes: object) -> SeenAnnouncement:
    return SeenAnnouncement(86399.1239, "eth0", REQUEST, 5.01, True, ())._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_only_the_longest_ipv4_address_fits_80_columns() -> None:
    longest = seen(interface="ens18", sighting=REQUEST._replace(address="192.168.100.100"))
    assert len(Table(["ens18"], Screen(80)).row(longest)) == 80
    row = Table(["eth0"], Screen(80)).row(seen(sighting=ADVERTISEMENT._replace(address=LONG)))
    assert row.endswith(f" own\n{LONG.rjust(80)}")


def tagged(vlan: str) -> SeenAnnouncement:
    return seen(sighting=REQUEST._replace(vlan=vlan))


def test_row_stands_below_its_headings_which_a_stacked_tag_widens_and_repeats() -> None:
    table = Table(["eth0"], Screen(80))
    lines = [table.header(), *(table.row(tagged(vlan)) for vlan in ("", "100", "200.100", "100"))]
    assert "\n".join(lines).splitlines() == [
        "TIME         IF   VLAN KIND    MAC                  GAP WHOSE   ADDRESS",
        "23:59:59.123 eth0 -    request 02:00:5e:00:53:10  5.01s own     192.0.2.10",
        "23:59:59.123 eth0 100  request 02:00:5e:00:53:10  5.01s own     192.0.2.10",
        "TIME         IF   VLAN      KIND    MAC                  GAP WHOSE   ADDRESS",
        "23:59:59.123 eth0 200.100   request 02:00:5e:00:53:10  5.01s own     192.0.2.10",
        "23:59:59.123 eth0 100       request 02:00:5e:00:53:10  5.01s own     192.0.2.10",
    ]


@pytest.mark.parametrize("width", [0, 120])
def test_wide_terminal_has_room_for_two_stacked_tags_from_the_start(width: int) -> None:
    table = Table(["eth0"], Screen(width))
    before = table.header()
    assert table.row(tagged("4094.4094")).count("4094.4094 request") == 1
    assert table.header() == before
    assert " 4094.40.. request " in table.row(tagged("4094.4093.4092"))


@pytest.mark.parametrize("interface", ["eth0", "enx0123456789ab"])
@pytest.mark.parametrize("address", ["192.168.100.100", LONG])
@pytest.mark.parametrize("vlan", ["4094", "4094.4094.4094.4094"])
def test_no_line_is_wider_than_the_terminal(interface: str, address: str, vlan: str) -> None:
    sighting = REQUEST._replace(address=address, kind="arp-opcode-65535", vlan=vlan)
    marks = ("a very long remark " * 10, "short")
    row = Table([interface], Screen(80)).row(
        seen(interface=interface, sighting=sighting, gap=1e9, marks=marks, own=False)
    )
    assert max(map(len, row.splitlines())) <= 80


def test_marks_have_their_own_lines_and_colour_where_wanted_but_not_in_a_pipe() -> None:
    marked = seen(sighting=ADVERTISEMENT._replace(address=LONG), marks=("odd", "storm"))
    assert Table(["eth0"], Screen(80)).row(marked).splitlines()[2:] == ["    ! odd", "    ! storm"]
    screen = Screen(80, lambda text, meaning: f"<{meaning}>{text}</>")
    coloured = Table(["eth0"], screen).row(marked).splitlines()
    assert coloured[2:] == ["<bad>    ! odd</>", "<bad>    ! storm</>"]
    row = Table(["eth0"], Screen(0)).row(marked)
    assert row.endswith(f"{LONG}  ! odd; storm")
    assert "\n" not in row


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "0ms"), (0.0994, "99ms"), (0.9996, "1.00s"), (5.0, "5.00s"), (59.999, "60.00s")),
        *((99.99, "99.99s"), (99.996, "2min"), (5970.0, "2h"), (1e12, "9999h")),
    ],
)
def test_gap_fits_six_columns(seconds: float, text: str) -> None:
    assert gap(seconds) == text
    assert len(text) <= 6


def test_clock_does_not_round_up() -> None:
    assert clock(86399.9999) == "23:59:59.999"
    assert clock(86400.0) == "00:00:00.000"


def test_json_has_all_fields() -> None:
    expected = (
        '{"time": 86399.1239, "interface": "eth0", "vlan": null, "kind": "arp-request", '
        f'"source": "{MAC}", "hardware_address": "{MAC}", "address": "192.0.2.10", '
        '"gap": null, "own": true, "irregular": ["odd"]}'
    )
    assert as_json(seen(gap=None, marks=("odd",))) == expected
