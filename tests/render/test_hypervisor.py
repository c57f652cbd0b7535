"""What `garp-hint` prints of guests, whatever they say."""

from __future__ import annotations

from typing import Any

import pytest

from garp_agent.render import hypervisor

HOSTILE = "\x1b]0;forged\x07\n\u202e"


@pytest.mark.parametrize(
    "answer",
    [
        {"state": "answered", "reply": {"frames": HOSTILE}},
        {"state": "answered", "reply": {"frames": [HOSTILE, {HOSTILE: HOSTILE}]}},
        {"state": "refused", "error": f"Failed: {HOSTILE}"},
    ],
)
def test_sent_hostile_answer_is_one_printable_line(answer: dict[str, Any]) -> None:
    line = hypervisor.sent({"guest": f"guest{HOSTILE}", "seconds": 0.001, **answer})
    assert line.isprintable()
