"""What `garp-hint` prints, and its exit statuses."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bench.guests import PORT, Guests, Manner
from garp_agent.hypervisor.converse import guest_values
from garp_agent.hypervisor.core.exchange import Call, Exchange, Outcome, Result
from garp_agent.hypervisor.core.guests import Channel
from garp_agent.render import hypervisor as render
from garp_agent.wire.protocol import Burst
from tests.hypervisor.watching import eventually, run, watching

NO_GUEST = (
    f"garp-hint: no running guest has a channel: no socket named {PORT} listens in this network "
)
IS_FOLDER = os.strerror(errno.EISDIR)
HERE = ("--port", PORT, "--timeout", "3")


def test_list_shows_each_guest_with_its_state(short_path: Path) -> None:
    with Guests(
        short_path, [Manner.ANSWERS, Manner.NO_AGENT, Manner.STOPPED, Manner.REFUSES]
    ) as guests:
        status, out, err = run("list", *HERE)
        assert (status, err) == (0, "")
        nothing = ("nothing", "(no", "watcher", "answers)")
        assert [line.split() for line in out.splitlines()] == [
            ["GUEST", "STATE", "WAY", "VERSION", "ADDRESSES", "BEHIND", "SOCKET"],
            ["guest0", "answered", "agent", "0.1.0", "192.0.2.10", "?", guests.paths[0]],
            ["guest1", "no-agent", *nothing, "-", "-", "?", guests.paths[1]],
            ["guest2", "busy", *nothing, "-", "-", "?", guests.paths[2]],
            [
                "guest3",
                *["refused", "(Failed:", "not", "today)", *nothing, "-", "-", "?"],
                guests.paths[3],
            ],
        ]
        values = json.loads(run("list", *HERE, "--json")[1])
        assert [value["state"] for value in values] == ["answered", "no-agent", "busy", "refused"]
        assert values[0]["reply"]["links"][0]["addresses"] == ["192.0.2.10"]
        assert values[3]["error"] == "Failed: not today"


def test_send_hints_the_chosen_guests_and_reports_each(short_path: Path) -> None:
    with Guests(short_path, [Manner.ANSWERS, Manner.NO_AGENT, Manner.REFUSES]) as guests:
        options = ("--count", "4", "--interval", "0.5", "--delay", "1", "--reason", "moved")
        named = run("send", "guest0", *options, *HERE)
        every = run("send", "--all", *HERE)
        gone = str(short_path / "none")
        sockets = run("send", "--socket", guests.paths[0], "--socket", gone, "--json")
        hints = [each for each in guests.requests(0) if isinstance(each, Burst)]
        assert guests.requests(2)[1:] == []  # the first one was to all
    answered = r"guest0: answered in \d+\.\d ms, 1 frame\n"
    assert (named[0], named[2]) == (0, "")
    assert re.fullmatch(answered, named[1])
    silent = r"guest1: no-agent after \d+\.\d ms\n"
    refused = r"guest2: refused after \d+\.\d ms \(Failed: not today\)\n"
    assert every[0] == 1
    assert re.fullmatch(answered + silent + refused, every[1])
    found = [(value["state"], value["guest"]) for value in json.loads(sockets[1])]
    assert (sockets[0], found) == (1, [("answered", guests.paths[0]), ("gone", gone)])
    assert hints[0][1:5] == ("moved", 4, 0.5, 1.0)
    assert len({hint.boot for hint in hints}) == len(hints) == 3  # none is a repetition
    assert json.loads(sockets[1])[1]["error"] == "No such file or directory"


def test_sockets_that_are_no_channels_are_shown_with_the_reason(short_path: Path) -> None:
    """An abstract name with a line break made every command fail."""
    public = short_path / "9-pub\nlic"
    public.mkdir()
    public.chmod(0o777)
    shown = f"{short_path}/9-pub\\nlic"
    refused = f"garp-hint: {shown}/{PORT}: left out: others may write to its folder {shown}\n"
    with Guests(short_path, [Manner.ANSWERS]) as guests, ExitStack() as stack:
        broken, other = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in "12")
        broken.bind(f"\0a\nb c d e f g h /{PORT}")
        other.bind(f"{public}/{PORT}")
        other.listen(1)
        for command, lines in ((["list"], 2), (["send", "--all"], 1)):
            status, out, err = run(*command, *HERE)
            assert (status, err, len(out.splitlines())) == (0, refused, lines)
        assert run("send", "--guest", "guest0", *HERE)[::2] == (0, "")
        os.unlink(guests.paths[0])
        gone = f"garp-hint: {guests.paths[0]}: left out: it was made in another mount namespace, "
        gone += "or its file was removed\n"
        missing = "garp-hint: guest0: no such guest, or it has no channel\n"
        assert run("send", "--guest", "guest0", *HERE) == (3, "", gone + refused + missing)


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        *((each, 0, "Usage: garp-hint") for each in ("--help", "watch --help", "watch -h")),
        ("--version", 0, "garp-hint, version "),
        ("list --port PORT", 3, "garp-hint: no running guest has a channel: "),
        (
            "list --json --port PORT",
            3,
            "garp-hint: no running guest has a channel: no socket named ",
        ),
        ("send", 2, "name the guests: NAME..., --all or --socket PATH"),
        ("send --all x", 2, "--all and names of guests exclude each other"),
        ("send --all --guest x", 2, "--all and names of guests exclude each other"),
        ("send --all --count 11", 2, "11 is not in the range 1<=x<=10"),
        ("send --all --delay 61", 2, "not in the range 0.0<=x<=60.0"),
        (
            "send --all --port PORT",
            3,
            "garp-hint: no running guest has a channel: no socket named ",
        ),
        ("send --guest x --port PORT", 3, "garp-hint: x: no such guest, or it has no channel\n"),
        ("send x y --port PORT", 3, "garp-hint: y: no such guest, or it has no channel\n"),
        ("watch --lease -1", 2, "not in the range 0.0<=x<=3600.0"),
        ("watch --lease 2.9", 2, "2.9 is too short; allowed: 0 (no leases), or at least 3"),
        ("watch --announce-self", 2, "--announce-self needs Xen, or monitors of QEMU: --monitor"),
        (
            "watch --announce-self --connect x --status-socket none",
            2,
            "--connect needs a --status-socket",
        ),
        ("watch --nonsense", 2, "--nonsense"),
        ("nonsense", 2, "No such command"),
        ("watch extra", 2, "unexpected extra argument"),
        ("status --status-socket /none/x", 4, "/none/x: no garp-hint watch answers there"),
        ("history --status-socket /none/x", 4, "/none/x: no garp-hint watch answers there"),
    ],
)
def test_arguments_have_their_text_and_exit_status(arguments: str, status: int, text: str) -> None:
    # PORT differs in each process: workers of xdist must collect the same names.
    found, out, err = run(*arguments.replace("PORT", PORT).split())
    assert found == status
    assert text in (err if status else out)
    assert (out if status else err) == ("[]\n" if "--json" in arguments else "")


def test_list_without_a_guest_says_where_it_looked_and_what_to_do() -> None:
    _, _, err = run("list", "--port", PORT, "--channel", "/none/*.a", "--channel", "/none/*.b")
    assert err.startswith(f"{NO_GUEST}namespace, no socket matches /none/*.a, no socket matches")
    assert "garp-hint attach GUEST" in err
    assert "--channel GLOB" in err


def test_status_and_history_show_guests_and_hints(short_path: Path) -> None:
    guests = Guests(short_path, [Manner.ANSWERS, Manner.NO_AGENT])
    with guests, watching(short_path, *HERE) as watcher:
        where = ("--status-socket", watcher.status_socket)
        eventually(lambda: "new" not in watcher.states().values(), "all were contacted")
        none = run("history", *where)
        assert (none[0], none[1].splitlines()[1:], none[2]) == (0, [], "")
        assert none[1].startswith("no failover since the watcher started at 20")
        assert run("history", *where, "--json") == (0, "[]\n", "")
        watcher.ask("burst")
        entry = watcher.last()
        text = run("status", *where)[1]
        found = json.loads(run("status", *where, "--json")[1])
        assert [guest["state"] for guest in found["guests"]] == ["answered", "no-agent"]
        [shown] = json.loads(run("history", *where, "--json")[1])
        changing = ("rounds", "awaited", "frames")  # because the hint is repeated
        assert {**shown, **{name: entry[name] for name in changing}} == entry
        past = run("history", *where)[1].splitlines()
        metrics = run("status", *where, "--prometheus")[1].splitlines()
        file = short_path / "history.html"
        assert run("history", *where, "--html", str(file)) == (0, "", "")
        page = run("history", *where, "--html", "-")[1]
        status, _, refused = run("history", *where, "--html", str(short_path))
    for line in (
        r"guest0 +answered +agent +0\.1\.0 +- +1 of 1 .* \?",
        r"hints are repeated, round \d is over: operator",
        r"no lease: guest0: no link .*",
        r"no lease: guest1: it does not answer",
        r"guest1 +no-agent +nothing +- +- +0 of 1 .*",
        r"not announced: guest1: no agent answers, and watch has no --learn",
        r"GUEST .* BEHIND",
    ):
        assert re.search(f"^{line}$", text, re.MULTILINE)
    assert re.search(r"  1 of 2 +\d\+ +\d+\.\dms  operator$", past[1])
    assert file.read_text().startswith("<!DOCTYPE html>")
    assert "1 no-agent (guest1)" in page
    assert (status, refused) == (1, f"garp-hint: {short_path}: could not be written: {IS_FOLDER}\n")
    assert past[2].split() == ["unanswered:", "1", "no-agent", "(guest1)"]
    guest = f'guest="guest1",path="{guests.paths[1]}"'
    assert {
        'garp_hint_failovers_total{link="operator"} 1',
        'garp_hint_hints_total{outcome="no-agent"} 1',
        'garp_hint_guests{state="no-agent"} 1',
        f"garp_hint_guest_hints_total{{{guest}}} 1",
        f"garp_hint_guest_hints_answered_total{{{guest}}} 0",
        "garp_hint_netlink_overruns_total 0",
    } <= set(metrics)


def test_text_from_a_guest_cannot_control_the_terminal() -> None:
    exchange = Exchange({"i": b""})
    links: list[Any] = [{"addresses": ["\x1b[31m", 7]}, {"addresses": 1}, 5]
    reply = {"version": "\x1b]0;x\x07" + "y" * 999, "links": links, "frames": "\x1b[2J"}
    exchange.received(json.dumps({"id": "i", "return": reply}).encode() + b"\n")
    result = Result(Call("/run/a", exchange), Outcome.ANSWERED, 0.001)
    values = guest_values(Channel("a", "/run/a"), result)
    [_, line] = render.guest_list([values]).splitlines()
    assert line.isprintable()
    assert r"\x1b[31m 7" in line
    assert len(line) < 300
    assert render.sent(values) == r"a: answered in 1.0 ms, \x1b[2J frames"
    failed = guest_values(Channel("a\x1b[2J", "/run/a"), Result(result.call, Outcome.GONE, 0.001))
    assert render.sent(failed) == r"a\x1b[2J: gone after 1.0 ms"
