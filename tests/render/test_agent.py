"""What `list` and `status` print, to the letter."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.render.agent import link_list, status_text
from garp_agent.render.table import Screen

RIVAL = {"claimed_by": "02:00:00:00:00:66", "claims": 3, "seconds_ago": 1.5, "withheld": True}


def row(address: str | None, how: list[str], skipped: str | None = None, **more: Any) -> Any:
    head = {"address": address, "announced_as": how, "skipped": skipped}
    counted = {"sent": 0, "dropped": {}, "last_cause": None, "seconds_since_last": None}
    return head | (counted if skipped is None else {}) | more


def link(name: str, mac: str, *addresses: Any, **changes: Any) -> Any:
    head = {"interface": name, "kind": "physical", "hardware_address": mac, "skipped": None}
    timed = {"next_refresh": 2.25, "last_burst": None, "held": 0}
    return head | timed | {"addresses": list(addresses)} | changes


SENT: dict[str, Any] = {"sent": 12, "dropped": {"ENOBUFS": 2, "ENETDOWN": 1}}
SENT |= {"last_cause": "refresh", "seconds_since_last": 1.26}
ETH0 = link(
    "eth0",
    "02:00:5e:00:00:01",
    row("10.0.0.1", ["arp-request", "arp-reply"], **SENT),
    row("fd00::1", ["unsolicited-na"]),
    row("169.254.1.1", [], "link-local IPv4"),
    last_burst={"cause": "hint", "seconds_ago": 12.3, "over": True},
)
LINKS = [
    link("lo", "00:00:00:00:00:00", row("127.0.0.1", [], "loopback"), skipped="loopback"),
    ETH0,
    link("tun0", "", skipped="point-to-point", kind="tun", next_refresh=None),
    link("eth1", "02:00:5e:00:00:02", row(None, ["rarp"])),
    link("eth2", "02:00:5e:00:00:03"),
]
PORT: dict[str, Any] = {"name": "org.garp_agent.0", "state": "not there", "error": None}
PORT |= {"requests": 0, "errors": 0, "seconds_since_last": None}
STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "pid": 77,
    "uptime": 3601.4,
    "dry_run": False,
    "interval": 5.0,
    "lease": None,
    "overruns": 0,
    "resumes": 0,
    "frames": {"sent": 14, "dropped": {}, "by_cause": {"start": 3, "refresh": 11}},
    "hint_port": PORT,
    "links": LINKS[1:4],
}


def test_list_has_a_line_for_each_link_and_each_address() -> None:
    assert link_list(LINKS) == (
        "INTERFACE  ADDRESS            ANNOUNCED AS\n"
        "lo         00:00:00:00:00:00  (physical)\n"
        "lo         127.0.0.1          skipped: loopback\n"
        "eth0       02:00:5e:00:00:01  (physical)\n"
        "eth0       10.0.0.1           arp-request and arp-reply\n"
        "eth0       fd00::1            unsolicited-na\n"
        "eth0       169.254.1.1        skipped: link-local IPv4\n"
        "tun0       -                  (tun), skipped: point-to-point\n"
        "eth1       02:00:5e:00:00:02  (physical), rarp\n"
        "eth2       02:00:5e:00:00:03  (physical), skipped: no address\n"
    )


def test_status_has_totals_and_a_line_for_each_announced_address() -> None:
    assert status_text(STATUS) == (
        "garp-agent 1.2.3, pid 77, up 3601 s\n"
        "refresh interval 5 s\n"
        "frames sent 14 (start 3, refresh 11), dropped 0\n"
        "hint port org.garp_agent.0: not there, 0 requests, 0 errors\n"
        "eth0: next refresh in 2.2s, last burst (hint) 12.3s ago\n"
        "eth1: next refresh in 2.2s\n"
        "\n"
        "INTERFACE  ADDRESS            SENT  DROPPED                CAUSE    AGO\n"
        "eth0       10.0.0.1           12    ENOBUFS 2, ENETDOWN 1  refresh  1.3s\n"
        "eth0       fd00::1            0     0                      -        -\n"
        "eth1       02:00:5e:00:00:02  0     0                      -        -\n"
    )


def test_list_and_status_with_long_addresses_fit_80_columns() -> None:
    long = "2001:db8:1234:5678:5054:ff:fe12:3456"
    one = ETH0 | {
        "addresses": [row(long, ["unsolicited-na"], **SENT), row("fd00::1", [], "x" * 80)]
    }
    for text in (
        link_list([one], Screen(80)),
        status_text(STATUS | {"links": [one]}, Screen(80)).partition("\n\n")[2],
    ):
        assert max(map(len, text.splitlines())) <= 80
        assert long in text


HINTED = {"state": "open, host connected", "error": "Permission denied", "requests": 4}
CLAIMED = ETH0 | {"addresses": [row("10.0.0.1", ["arp-probe"], conflict=RIVAL)]}
WARNED = ETH0 | {"addresses": [row("10.0.0.1", [], conflict=RIVAL | {"withheld": False})]}
CONFLICT = "CONFLICT: 10.0.0.1 on eth0 is also claimed by 02:00:00:00:00:66 (3 times, last 1.5s ago"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dry_run": True}, "garp-agent 1.2.3, pid 77, up 3601 s, DRY RUN: nothing is sent"),
        ({"lease": 29.6}, "refresh interval 5 s, lease of the host for 30 s more"),
        (
            {"frames": {"sent": 0, "dropped": {"ENOBUFS": 3}, "by_cause": {}}},
            "frames sent 0, dropped ENOBUFS 3",
        ),
        (
            {"hint_port": PORT | HINTED | {"errors": 1, "seconds_since_last": 3.25}},
            "hint port org.garp_agent.0: open, host connected (Permission denied), "
            "4 requests, 1 error, last 3.2 s ago",
        ),
        (
            {"hint_port": PORT | {"name": None, "state": "off"}},
            "hint port -: off, 0 requests, 0 errors",
        ),
        ({"overruns": 1}, "netlink overruns 1, resumes 0"),
        ({"resumes": 1}, "netlink overruns 0, resumes 1"),
        ({"links": [ETH0 | {"held": 12}]}, "frames delayed by the rate limit: eth0 12"),
        (
            {
                "answer_for_everything": [
                    {"interface": "eth0", "hardware_address": "02:00:00:00:00:01"}
                ]
            },
            "02:00:00:00:00:01 on eth0 answers for every address; its claims are ignored",
        ),
        ({"links": [CLAIMED]}, f"{CONFLICT}); not announced now"),
        ({"links": [WARNED]}, f"{CONFLICT})"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_status_has_a_line_about_what_is_unusual(changes: dict[str, Any], line: str) -> None:
    usual = status_text(STATUS).splitlines()
    head = status_text(STATUS | changes).partition("\n\n")[0].splitlines()
    assert [each for each in head if each not in usual] == [line]


def test_a_name_with_control_characters_breaks_no_line() -> None:
    one = CLAIMED | {"interface": "\x1b[2J\n", "held": 1}
    for text, count in ((link_list([one]), 3), (status_text(STATUS | {"links": [one]}), 10)):
        assert all(line.isprintable() for line in text.splitlines())
        assert len(text.splitlines()) == count
