"""Rows of eighty columns, lines, JSON."""

from __future__ import annotations

import json

import pytest

from garp_agent.diagnosis.watch.observe import Observation
from garp_agent.diagnosis.watch.table import Table, as_json, clock, gap
from tests.diagnosis.world import ADVERTISEMENT, MAC, REQUEST

LONG = "2001:db8:1234:5678:5054:ff:fe12:3456"


def seen(**changes: object) -> Observation:
    return Observation(86399.1239, "eth0", REQUEST, 5.01, True, ())._replace(**changes)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_a_row() -> None:
    table = Table(["eth0"], 80)
    lines = [table.header(), table.row(seen())]
    assert lines == [
        "TIME         IF   VLAN KIND    MAC                  GAP WHOSE   ADDRESS",
        "23:59:59.123 eth0 -    request 02:00:5e:00:53:10  5.01s own     192.0.2.10",
    ]


def test_the_longest_ipv4_address_on_an_ordinary_interface_fits() -> None:
    longest = seen(interface="ens18", sighting=REQUEST._replace(address="192.168.100.100"))
    row = Table(["ens18"], 80).row(longest)
    assert len(row) == 80
    assert "\n" not in row


def test_what_does_not_fit_goes_below() -> None:
    row = Table(["eth0"], 80).row(seen(sighting=ADVERTISEMENT._replace(address=LONG)))
    first, second = row.splitlines()
    assert second == LONG.rjust(80)
    assert first.endswith("own")


def tagged(vlan: str) -> Observation:
    return seen(sighting=REQUEST._replace(vlan=vlan))


def test_a_stacked_tag_makes_room_for_itself_and_the_rows_below() -> None:
    table = Table(["eth0"], 80)
    lines = [table.row(tagged("100")), table.row(tagged("200.100")), table.row(tagged("100"))]
    assert "\n".join(lines).splitlines() == [
        "23:59:59.123 eth0 100  request 02:00:5e:00:53:10  5.01s own     192.0.2.10",
        "TIME         IF   VLAN      KIND    MAC                  GAP WHOSE   ADDRESS",
        "23:59:59.123 eth0 200.100   request 02:00:5e:00:53:10  5.01s own     192.0.2.10",
        "23:59:59.123 eth0 100       request 02:00:5e:00:53:10  5.01s own     192.0.2.10",
    ]


@pytest.mark.parametrize("width", [0, 120])
def test_where_there_is_room_stacked_tags_have_it_from_the_start(width: int) -> None:
    table = Table(["eth0"], width)
    before = table.header()
    assert table.row(tagged("4094.4094")).count("4094.4094 request") == 1
    assert table.header() == before


def test_a_deeper_stack_keeps_to_its_column() -> None:
    assert " 4094.40.. request " in Table(["eth0"], 0).row(tagged("4094.4093.4092"))


@pytest.mark.parametrize("interface", ["eth0", "enx0123456789ab"])
@pytest.mark.parametrize("address", ["192.168.100.100", LONG])
@pytest.mark.parametrize("vlan", ["4094", "4094.4094.4094.4094"])
def test_nothing_is_wider_than_the_terminal(interface: str, address: str, vlan: str) -> None:
    sighting = REQUEST._replace(address=address, kind="arp-opcode-65535", vlan=vlan)
    marks = ("a very long remark " * 10, "short")
    row = Table([interface], 80).row(
        seen(interface=interface, sighting=sighting, gap=1e9, marks=marks, own=False)
    )
    assert max(map(len, row.splitlines())) <= 80


def test_marks_have_lines_of_their_own_and_colour_only_where_wanted() -> None:
    marked = seen(marks=("odd", "storm"))
    assert Table(["eth0"], 80).row(marked).splitlines()[1:] == ["    ! odd", "    ! storm"]
    coloured = Table(["eth0"], 80, colour=True).row(marked).splitlines()
    assert coloured[1:] == ["\x1b[31m    ! odd\x1b[0m", "\x1b[31m    ! storm\x1b[0m"]


def test_in_a_pipe_everything_is_on_one_line() -> None:
    sighting = ADVERTISEMENT._replace(address=LONG)
    row = Table(["eth0"], 0).row(seen(sighting=sighting, marks=("odd", "storm")))
    assert row.endswith(f"{LONG}  ! odd; storm")
    assert "\n" not in row


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0ms"),
        (0.0994, "99ms"),
        (0.9996, "1.00s"),
        (5.0, "5.00s"),
        (59.999, "60.00s"),
        (99.99, "99.99s"),
        (99.996, "2min"),
        (5970.0, "2h"),
        (1e12, "9999h"),
    ],
)
def test_gaps(seconds: float, text: str) -> None:
    assert gap(seconds) == text
    assert len(text) <= 6


def test_midnight() -> None:
    assert clock(86399.9999) == "23:59:59.999"
    assert clock(86400.0) == "00:00:00.000"


def test_json() -> None:
    told = json.loads(as_json(seen(gap=None, marks=("odd",))))
    assert told == {
        "time": 86399.1239,
        "interface": "eth0",
        "vlan": None,
        "kind": "arp-request",
        "source": MAC,
        "hardware_address": MAC,
        "address": "192.0.2.10",
        "gap": None,
        "own": True,
        "irregular": ["odd"],
    }
