"""What the status socket answers; tests/wire has the errors of lines that are no requests."""

from __future__ import annotations

import json

from garp_agent.hypervisor.requests import OperatorRequests


def test_requests_are_answered_with_their_id_and_errors_with_their_class() -> None:
    hinted: list[tuple[str, float]] = []

    def hint(reason: str, now: float) -> int:
        hinted.append((reason, now))
        return 3

    requests = OperatorRequests(hint, lambda now: {"uptime": now})
    assert requests.answer(b'{"execute": "sync", "id": 7}', 5.0) == b'\xff{"id": 7, "return": {}}\n'
    for line, expected in (
        (b'{"execute": "status", "id": 8}', {"id": 8, "return": {"uptime": 5.0}}),
        (b'{"execute": "burst"}', {"return": {"guests": 3}}),
        (b'{"execute": "burst", "arguments": {"reason": "x"}}', {"return": {"guests": 3}}),
    ):
        assert json.loads(requests.answer(line, 5.0)) == expected
    assert hinted == [("operator", 5.0), ("x", 5.0)]
    for line, error in ((b"{}", "InvalidRequest"), (b'{"execute": "lease"}', "CommandNotFound")):
        assert json.loads(requests.answer(line, 5.0))["error"]["class"] == error
