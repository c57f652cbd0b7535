"""What the status socket answers, whatever the line."""

from __future__ import annotations

import json

import pytest

from garp_agent.hypervisor.requests import OperatorRequests
from garp_agent.wire.lines import Overlong

HINTED: list[tuple[str, float]] = []
REQUESTS = OperatorRequests(
    lambda reason, now: HINTED.append((reason, now)) or 3,  # type: ignore[func-returns-value]
    lambda now: {"uptime": now},
)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"\x00\xfe", "InvalidJSON"),
        (b"[" * 4000, "InvalidJSON"),
        (Overlong(4096), "LineTooLong"),
        (b'{"execute": "lease"}', "CommandNotFound"),
        (b"{}", "InvalidRequest"),
    ],
)
def test_line_that_is_no_request_is_answered_with_its_error(
    line: bytes | Overlong, error: str
) -> None:
    assert json.loads(REQUESTS.answer(line, 5.0))["error"]["class"] == error


def test_requests_are_answered_with_their_id() -> None:
    assert REQUESTS.answer(b'{"execute": "sync", "id": 7}', 5.0) == b'\xff{"id": 7, "return": {}}\n'
    status = REQUESTS.answer(b'{"execute": "status", "id": 8}', 5.0)
    assert json.loads(status) == {"id": 8, "return": {"uptime": 5.0}}
    hints = [b'{"execute": "burst"}', b'{"execute": "burst", "arguments": {"reason": "x"}}']
    assert [json.loads(REQUESTS.answer(line, 5.0)) for line in hints] == [
        {"return": {"guests": 3}}
    ] * 2
    assert HINTED == [("operator", 5.0), ("x", 5.0)]
