"""What `garp-hint` prints, and with which status it exits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.guests import PORT, Guests, Manner
from garp_agent.cli.garp_hint import _guest_values
from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.io.channels import Channel
from garp_agent.render import hypervisor as show
from garp_agent.wire.protocol import Burst
from tests.hypervisor.watching import eventually, run, watching

HERE = ("--port", PORT, "--timeout", "1")


def test_list(short_path: Path) -> None:
    with Guests(short_path, [Manner.ANSWERS, Manner.MUTE, Manner.DEAF, Manner.REFUSES]):
        found = run("list", *HERE)
        assert (found.returncode, found.stderr) == (0, "")
        assert [line.split() for line in found.stdout.splitlines()] == [
            ["GUEST", "STATE", "VERSION", "ADDRESSES", "SOCKET"],
            ["guest0", "answered", "0.1.0", "192.0.2.10", f"{short_path}/0-guest0/{PORT}"],
            ["guest1", "no-agent", "-", "-", f"{short_path}/1-guest1/{PORT}"],
            ["guest2", "busy", "-", "-", f"{short_path}/2-guest2/{PORT}"],
            ["guest3", "refused", "-", "-", f"{short_path}/3-guest3/{PORT}"],
        ]
        values = json.loads(run("list", *HERE, "--json").stdout)
        assert [value["state"] for value in values] == ["answered", "no-agent", "busy", "refused"]
        assert values[0]["reply"]["links"][0]["addresses"] == ["192.0.2.10"]
        assert values[3]["error"] == "Failed: not today"


def test_list_where_there_is_nobody() -> None:
    found = run("list", *HERE)
    assert (found.returncode, found.stdout) == (3, "")
    assert found.stderr == "garp-hint: no guest has a channel\n"
    assert json.loads(run("list", *HERE, "--json").stdout) == []


def test_send_to_one_guest(short_path: Path) -> None:
    with Guests(short_path, [Manner.ANSWERS, Manner.MUTE]) as guests:
        options = ("--count", "4", "--interval", "0.5", "--delay", "1", "--reason", "moved")
        found = run("send", "--guest", "guest0", *options, *HERE)
        assert (found.returncode, found.stderr) == (0, "")
        assert re.fullmatch(r"guest0: answered in \d+\.\d ms, 1 frames\n", found.stdout)
        [hint] = guests.requests(0)
        assert isinstance(hint, Burst)
        assert hint[1:5] == ("moved", 4, 0.5, 1.0)
        assert guests.requests(1) == []


def test_send_to_all(short_path: Path) -> None:
    with Guests(short_path, [Manner.ANSWERS, Manner.MUTE, Manner.REFUSES]) as guests:
        found = run("send", "--all", *HERE)
        assert found.returncode == 1
        lines = found.stdout.splitlines()
        assert re.fullmatch(r"guest0: answered in \d+\.\d ms, 1 frames", lines[0])
        assert re.fullmatch(r"guest1: no-agent after \d+\.\d ms", lines[1])
        assert re.fullmatch(r"guest2: refused after \d+\.\d ms \(Failed: not today\)", lines[2])
        first, second = guests.requests(0), guests.requests(2)
        assert len(first) == len(second) == 1


def test_two_sends_are_two_hints(short_path: Path) -> None:
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        assert run("send", "--all", *HERE).returncode == 0
        assert run("send", "--all", *HERE).returncode == 0
        boots = [each.boot for each in guests.requests(0) if isinstance(each, Burst)]
        assert len(set(boots)) == 2


def test_send_to_a_socket(short_path: Path) -> None:
    with Guests(short_path, [Manner.ANSWERS]) as guests:
        path, gone = guests.paths[0], str(short_path / "none")
        found = run("send", "--socket", path, "--socket", gone, "--json")
        assert found.returncode == 1
        values = json.loads(found.stdout)
        assert [value["state"] for value in values] == ["answered", "gone"]
        assert [value["guest"] for value in values] == [path, gone]


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("send",), 2, "say to whom: --all, --guest NAME or --socket PATH"),
        (("send", "--all", "--count", "11"), 2, "11 is not in the range 1<=x<=10"),
        (("send", "--all", "--delay", "61"), 2, "not in the range 0.0<=x<=60.0"),
        (("send", "--all", *HERE), 3, "garp-hint: no guest has a channel\n"),
        (("send", "--guest", "x", *HERE), 3, "garp-hint: x: no such guest, or it has no channel\n"),
        (("watch", "--lease", "-1"), 2, "not in the range 0.0<=x<=3600.0"),
        (("watch", "--lease", "2.9"), 2, "2.9 is too short: 0 (none), or at least 3"),
        (("watch", "--announce-self"), 2, "--announce-self needs monitors: --monitor GLOB"),
        (("watch", "--nonsense"), 2, "--nonsense"),
        (("nonsense",), 2, "No such command"),
        (("watch", "extra"), 2, "unexpected extra argument"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], status: int, text: str) -> None:
    found = run(*arguments)
    assert (found.returncode, found.stdout) == (status, "")
    assert text in found.stderr


def test_help() -> None:
    for arguments in (("--help",), ("watch", "--help"), ("watch", "-h")):
        found = run(*arguments)
        assert (found.returncode, found.stderr) == (0, "")
        assert "Usage: garp-hint" in found.stdout
    assert "Exit status: 0 done" in run("--help").stdout
    assert run("--version").stdout.startswith("garp-hint, version ")


def test_status_and_history(short_path: Path) -> None:
    options = ("--timeout", "1", "--port", PORT)
    guests = Guests(short_path, [Manner.ANSWERS, Manner.MUTE])
    with guests, watching(short_path, *options) as watcher:
        where = ("--status-socket", watcher.status_socket)
        eventually(lambda: "new" not in watcher.states().values(), "all were met")
        assert len(run("history", *where).stdout.splitlines()) == 1
        watcher.ask("burst")
        assert watcher.last()["answered"] == 1
        text = run("status", *where).stdout
        table = [line.split() for line in text.splitlines() if line.startswith("guest")]
        assert table[0][:6] == ["guest0", "answered", "0.1.0", "-", "1", "1"]
        assert table[1][:6] == ["guest1", "no-agent", "-", "-", "1", "0"]
        assert json.loads(run("status", *where, "--json").stdout)["guests"]
        [entry] = json.loads(run("history", *where, "--json").stdout)
        assert (entry["guests"], entry["answered"]) == (2, 1)
        line = run("history", *where).stdout.splitlines()[1]
        assert re.search(r"  operator +2 +1 +(\d+\.\dms) +\1 +1 no-agent \(guest1\)$", line)
        check_metrics(run("status", *where, "--prometheus").stdout, short_path)


def check_metrics(text: str, directory: Path) -> None:
    lines = text.splitlines()
    assert 'garp_hint_failovers_total{link="operator"} 1' in lines
    assert 'garp_hint_hints_total{outcome="answered"} 1' in lines
    assert 'garp_hint_hints_total{outcome="no-agent"} 1' in lines
    assert 'garp_hint_guests{state="no-agent"} 1' in lines
    path = f"{directory}/1-guest1/{PORT}"
    assert f'garp_hint_guest_hints_total{{guest="guest1",path="{path}"}} 1' in lines
    assert f'garp_hint_guest_hints_answered_total{{guest="guest1",path="{path}"}} 0' in lines
    assert "garp_hint_netlink_overruns_total 0" in lines


def test_what_a_guest_says_breaks_no_terminal() -> None:
    conversation = Exchange({"i": b""})
    links: list[Any] = [{"addresses": ["\x1b[31m", 7]}, {"addresses": 1}, 5]
    reply = {"version": "\x1b]0;x\x07" + "y" * 999, "links": links}
    conversation.received(json.dumps({"id": "i", "return": reply}).encode() + b"\n")
    result = Result(Call("/run/a", conversation), Outcome.ANSWERED, 0.001)
    values = _guest_values(Channel("a", "/run/a"), result)
    [_, line] = show.guest_list([values]).splitlines()
    assert line.isprintable()
    assert "?[31m 7" in line
    assert len(line) < 300
    assert show.sent(values) == "a: answered in 1.0 ms, ? frames"
