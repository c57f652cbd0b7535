"""answers: what a request makes the engine do, and the line that comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from garp_agent import __version__
from garp_agent.config.settings import Settings
from garp_agent.guest.core.model import Cause, SendOutcome
from garp_agent.guest.requests import RequestHandler
from garp_agent.wire.lines import LineDecoder, Overlong
from garp_agent.wire.protocol import CONTROL_COMMANDS, PORT_COMMANDS, encode_request
from tests.world import Agent, address, causes, dump, link, property_settings, times

QUIET = Settings(interval=60.0, interval_with_lease=240.0, jitter=0.0)


class Door:
    """A guest with two addresses, and a door to it."""

    def __init__(
        self, commands: tuple[str, ...] = PORT_COMMANDS, cause: Cause = Cause.HINT
    ) -> None:
        self.agent = Agent(QUIET)
        lo = link(1, "lo", hardware_address=bytes(6), flags=0x10049)
        items = (address("10.0.0.1/24"), address("fd00::1/64"), address("127.0.0.1/8", 1))
        self.agent.tell(*dump(lo, link(2), link(3), *items))
        self.agent.wait(2.0)
        self.answers = RequestHandler(self.agent.engine, commands, cause, self.status)
        self.sent: list[Any] = []

    def status(self, now: float) -> dict[str, object]:
        return {"asked at": now}

    def act(self, event: Any) -> int:
        frames = self.agent.tell(event)
        self.sent += frames
        return len(frames) if self.agent.outcome[0] is SendOutcome.SENT else 0

    def ask_line(self, line: bytes | Overlong) -> bytes:
        return self.answers.answer(line, self.agent.now, self.act)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        (line,) = LineDecoder().feed(encode_request(command, arguments, delimited=False))
        reply = json.loads(self.ask_line(line))
        assert isinstance(reply, dict)
        return reply


def test_a_burst_is_sent_before_it_is_answered() -> None:
    door = Door()
    start = door.agent.now
    reply = door.ask("burst", reason="bond0 failed over")
    assert reply["return"]["frames"] == len(door.sent) == 2
    assert reply["return"]["offsets"] == [0.0, 0.1, 0.4]
    later = door.agent.wait(5.0)
    assert times(door.sent + later, start) == [0.0, 0.1, 0.4]
    assert causes(door.sent + later) == ["hint"]
    (notice,) = [n for n in door.agent.engine.take_notices() if n.event == "burst"]
    assert dict(notice.fields) == {"cause": "hint", "reason": "bond0 failed over"}


def test_a_burst_has_the_rounds_asked_for() -> None:
    door = Door()
    start = door.agent.now
    reply = door.ask("burst", count=2, interval=1, delay=3)
    assert reply["return"]["offsets"] == [3.0, 4.0]
    assert reply["return"]["frames"] == 0
    assert times(door.agent.wait(4.0), start) == [3.0, 4.0]


def test_a_burst_from_the_control_socket_is_the_operators() -> None:
    door = Door(CONTROL_COMMANDS, Cause.OPERATOR)
    door.ask("burst")
    assert causes(door.sent) == ["operator"]


def test_a_hint_repeated_is_not_acted_on_twice() -> None:
    door = Door()
    first = door.ask("burst", boot="b1", sequence=4)["return"]
    again = door.ask("burst", boot="b1", sequence=4)["return"]
    other = door.ask("burst", boot="b2", sequence=4)["return"]
    assert (first["duplicate"], first["frames"]) == (False, 2)
    assert (again["duplicate"], again["frames"]) == (True, 0)
    assert (other["duplicate"], other["frames"]) == (False, 2)
    assert len(door.sent) == 4


def test_hints_without_numbers_are_never_duplicates() -> None:
    door = Door()
    assert [door.ask("burst")["return"]["duplicate"] for _ in range(3)] == [False] * 3


def test_a_request_with_an_error_leaves_its_number_unused() -> None:
    door = Door()
    assert "error" in door.ask("burst", boot="b1", sequence=4, cuont=1)
    assert door.ask("burst", boot="b1", sequence=4)["return"]["duplicate"] is False


def test_frames_that_were_dropped_are_not_claimed_to_be_sent() -> None:
    door = Door()
    door.agent.outcome = (SendOutcome.DROPPED, 105)
    assert door.ask("burst")["return"]["frames"] == 0


def test_a_lease_says_which_interval_is_in_force() -> None:
    door = Door()
    assert door.ask("lease", seconds=30)["return"]["interval"] == 240.0
    assert door.ask("info")["return"]["lease"] == 30.0
    assert door.ask("lease", seconds=0)["return"]["interval"] == 60.0
    assert door.ask("info")["return"]["lease"] == 0


def test_info_tells_how_long_the_promise_still_holds() -> None:
    door = Door()
    door.ask("lease", seconds=30)
    door.agent.wait(29.5)
    assert door.ask("info")["return"]["lease"] == 0.5


def test_info_names_what_is_announced_and_nothing_else() -> None:
    door = Door()
    value = door.ask("info")["return"]
    assert value["version"] == __version__
    assert value["links"] == [
        {"name": "eth2", "mac": "02:00:00:00:00:02", "addresses": ["10.0.0.1", "fd00::1"]}
    ]
    assert value["counters"] == {"sent": 6, "dropped": 0}
    assert door.sent == []


def test_status_is_asked_for_at_this_moment() -> None:
    door = Door(CONTROL_COMMANDS, Cause.OPERATOR)
    assert door.ask("status")["return"] == {"asked at": door.agent.now}


@pytest.mark.parametrize(
    ("commands", "refused"), [(PORT_COMMANDS, "status"), (CONTROL_COMMANDS, "lease")]
)
def test_each_door_has_its_own_commands(commands: tuple[str, ...], refused: str) -> None:
    door = Door(commands)
    assert door.ask(refused)["error"]["class"] == "CommandNotFound"
    assert door.sent == []
    assert not door.agent.engine.has_lease()


def test_sync_comes_back_with_its_delimiter() -> None:
    assert Door().ask_line(b'{"execute": "sync", "id": 5}') == b'\xff{"id": 5, "return": {}}\n'


def test_what_came_in_is_counted() -> None:
    door = Door()
    assert door.answers.last_request is None
    door.ask("info")
    door.agent.wait(3.0)
    door.ask("burst")
    door.ask_line(b"junk")
    door.ask_line(Overlong(4096))
    assert (door.answers.requests, door.answers.errors) == (2, 2)
    assert door.answers.last_request == door.agent.now


def test_a_line_that_was_too_long_is_answered() -> None:
    reply = json.loads(Door().ask_line(Overlong(4096)))
    assert reply["error"]["class"] == "LineTooLong"


requests = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda command, arguments: encode_request(command, arguments, delimited=False)[:-1],
        st.sampled_from([*PORT_COMMANDS, *CONTROL_COMMANDS, "exec"]),
        st.dictionaries(
            st.sampled_from(
                ["seconds", "count", "interval", "delay", "boot", "sequence", "reason"]
            ),
            st.one_of(st.integers(-5, 5), st.floats(-1, 99), st.text(max_size=3), st.none()),
            max_size=3,
        ),
    ),
)


@property_settings(60)
@given(st.lists(requests, max_size=12))
def test_every_line_has_exactly_one_answer(lines: list[bytes]) -> None:
    door = Door()
    for line in lines:
        answer = door.ask_line(line)
        assert answer.count(b"\n") == 1
        assert answer.endswith(b"\n")
        assert len({"return", "error"} & set(json.loads(answer.lstrip(b"\xff")))) == 1
        door.agent.wait(0.3)
    assert door.answers.requests + door.answers.errors == len(lines)
