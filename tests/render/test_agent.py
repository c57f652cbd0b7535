"""show: what people see, to the letter."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent.render import agent as show
from tests.world import property_settings


def row(address: str | None, how: list[str], skipped: str | None, **more: Any) -> dict[str, Any]:
    counted = {"sent": 0, "dropped": {}, "last_cause": None, "seconds_since_last": None}
    return {
        "address": address,
        "announced_as": how,
        "skipped": skipped,
        **(counted if skipped is None else {}),
        **more,
    }


LINKS: list[dict[str, Any]] = [
    {
        "interface": "lo",
        "kind": "physical",
        "hardware_address": "00:00:00:00:00:00",
        "skipped": "loopback",
        "addresses": [row("127.0.0.1", [], "loopback")],
    },
    {
        "interface": "eth0",
        "kind": "physical",
        "hardware_address": "02:00:5e:00:00:01",
        "skipped": None,
        "next_refresh": 2.25,
        "last_burst": {"cause": "hint", "seconds_ago": 12.3, "over": True},
        "held": 0,
        "addresses": [
            row(
                "10.0.0.1",
                ["arp-request", "arp-reply"],
                None,
                sent=12,
                dropped={"ENOBUFS": 2, "ENETDOWN": 1},
                last_cause="refresh",
                seconds_since_last=1.26,
            ),
            row("fd00::1", ["unsolicited-na"], None),
            row("169.254.1.1", [], "link-local IPv4"),
        ],
    },
    {
        "interface": "tun0",
        "kind": "tun",
        "hardware_address": "",
        "skipped": "point-to-point",
        "next_refresh": None,
        "last_burst": None,
        "held": 0,
        "addresses": [],
    },
    {
        "interface": "eth1",
        "kind": "physical",
        "hardware_address": "02:00:5e:00:00:02",
        "skipped": None,
        "next_refresh": 0.5,
        "last_burst": None,
        "held": 0,
        "addresses": [row(None, ["rarp"], None)],
    },
    {
        "interface": "eth2",
        "kind": "physical",
        "hardware_address": "02:00:5e:00:00:03",
        "skipped": None,
        "addresses": [],
    },
]

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "pid": 77,
    "uptime": 3601.4,
    "interval": 5.0,
    "lease": None,
    "frames": {"sent": 14, "dropped": {}, "by_cause": {"start": 3, "refresh": 11}},
    "overruns": 0,
    "resumes": 0,
    "conflicts": 0,
    "dry_run": False,
    "hint_port": {
        "name": "org.garp_agent.0",
        "path": None,
        "state": "not there",
        "error": None,
        "requests": 0,
        "errors": 0,
        "seconds_since_last": None,
    },
    "links": LINKS[1:4],
}


def test_list() -> None:
    assert show.link_list(LINKS) == (
        "INTERFACE  KIND      HARDWARE ADDRESS   ADDRESS      ANNOUNCED AS\n"
        "lo         physical  00:00:00:00:00:00  127.0.0.1    skipped: loopback\n"
        "eth0       physical  02:00:5e:00:00:01  10.0.0.1     arp-request and arp-reply\n"
        "eth0       physical  02:00:5e:00:00:01  fd00::1      unsolicited-na\n"
        "eth0       physical  02:00:5e:00:00:01  169.254.1.1  skipped: link-local IPv4\n"
        "tun0       tun       -                  -            skipped: point-to-point\n"
        "eth1       physical  02:00:5e:00:00:02  -            rarp\n"
        "eth2       physical  02:00:5e:00:00:03  -            skipped: no address\n"
    )


def test_what_was_held_back_and_a_dry_run_are_told() -> None:
    one = {**LINKS[1], "held": 12}
    lines = show.status({**STATUS, "dry_run": True, "links": [one, LINKS[2]]}).splitlines()
    assert lines[0].endswith(", DRY RUN: nothing is sent")
    assert "times that the rate limit made frames wait: eth0 12" in lines


def test_status() -> None:
    assert show.status(STATUS) == (
        "garp-agent 1.2.3, pid 77, up 3601 s\n"
        "refresh interval 5 s\n"
        "frames sent 14 (start 3, refresh 11), dropped 0\n"
        "hint port org.garp_agent.0: not there, 0 requests, 0 errors\n"
        "\n"
        "INTERFACE  ADDRESS            SENT  DROPPED                LAST CAUSE  AGO   NEXT  "
        "LAST BURST\n"
        "eth0       10.0.0.1           12    ENOBUFS 2, ENETDOWN 1  refresh     1.3s  2.2s  "
        "hint 12.3s ago\n"
        "eth0       fd00::1            0     0                      -           -     2.2s  "
        "hint 12.3s ago\n"
        "eth1       02:00:5e:00:00:02  0     0                      -           -     0.5s  -\n"
    )


def test_status_of_a_host_that_hints_and_of_trouble() -> None:
    port = {
        **STATUS["hint_port"],
        "state": "open, host connected",
        "error": "Permission denied",
        "requests": 4,
        "errors": 1,
        "seconds_since_last": 3.25,
    }
    frames = {"sent": 0, "dropped": {"ENOBUFS": 3}, "by_cause": {}}
    rival = {"claimed_by": "02:00:00:00:00:66", "claims": 3, "seconds_ago": 1.5, "withheld": True}
    values = {
        **STATUS,
        "lease": 29.6,
        "interval": 60.0,
        "hint_port": port,
        "frames": frames,
        "overruns": 2,
        "resumes": 1,
        "links": [
            {**LINKS[1], "addresses": [row("10.0.0.1", ["arp-probe"], None, conflict=rival)]}
        ],
    }
    head, _, _ = show.status(values).partition("\n\n")
    assert head == (
        "garp-agent 1.2.3, pid 77, up 3601 s\n"
        "refresh interval 60 s, host's promise of hints for 30 s more\n"
        "frames sent 0, dropped ENOBUFS 3\n"
        "hint port org.garp_agent.0: open, host connected (Permission denied), "
        "4 requests, 1 errors, last 3.2 s ago\n"
        "netlink overruns 2, resumes 1\n"
        "CONFLICT: 10.0.0.1 on eth0 is claimed by 02:00:00:00:00:66 too "
        "(3 times, last 1.5s ago), so it is not announced for now"
    )


@pytest.mark.parametrize(
    ("overruns", "resumes", "said"), [(0, 0, False), (1, 0, True), (0, 1, True)]
)
def test_overruns_and_resumes_are_told_if_there_were_any(
    overruns: int, resumes: int, said: bool
) -> None:
    text = show.status({**STATUS, "overruns": overruns, "resumes": resumes})
    assert (f"netlink overruns {overruns}, resumes {resumes}\n" in text) is said


def test_a_rival_to_whom_nothing_is_yielded_and_a_port_without_a_name() -> None:
    rival = {"claimed_by": "02:00:00:00:00:66", "claims": 1, "seconds_ago": 1.5, "withheld": False}
    one = {**LINKS[1], "addresses": [row("10.0.0.1", ["arp-request"], None, conflict=rival)]}
    port = {**STATUS["hint_port"], "name": None, "state": "off"}
    lines = show.status({**STATUS, "links": [one], "hint_port": port}).splitlines()
    assert lines[3:5] == [
        "hint port -: off, 0 requests, 0 errors",
        "CONFLICT: 10.0.0.1 on eth0 is claimed by 02:00:00:00:00:66 too (1 times, last 1.5s ago)",
    ]


@pytest.mark.parametrize("name", ["br\N{LATIN SMALL LETTER U WITH DIAERESIS}", "a\\b"])
def test_a_printable_name_stays_as_it_is(name: str) -> None:
    assert show.printable(name) == name


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\udcff", "\u202eabc"])
def test_no_name_moves_the_cursor_or_breaks_the_output(name: str) -> None:
    rival = {"claimed_by": "02:00:00:00:00:66", "claims": 3, "seconds_ago": 1.5, "withheld": False}
    one = {**LINKS[1], "interface": name}
    one["addresses"] = [row("10.0.0.1", ["arp-request"], None, conflict=rival)]
    for text in (show.link_list([one]), show.status({**STATUS, "links": [one]})):
        assert all(line.isprintable() for line in text.splitlines())
        assert text.encode("utf-8")
    assert len(show.link_list([one]).splitlines()) == 2


@property_settings(100)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.tuples(*[st.text(st.characters(exclude_categories=()))] * width), min_size=1
        )
    )
)
def test_a_table_has_a_line_for_each_row_and_its_columns_stand_in_line(
    rows: list[tuple[str, ...]],
) -> None:
    lines = show.table(rows).split("\n")
    assert len(lines) == len(rows) + 1
    assert lines[-1] == ""
    starts = [0]
    for column in list(zip(*rows))[:-1]:
        starts.append(starts[-1] + 2 + max(len(show.printable(cell)) for cell in column))
    for line, cells in zip(lines, rows):
        for start, cell in zip(starts, cells):
            assert line[start:].startswith(show.printable(cell).rstrip())
