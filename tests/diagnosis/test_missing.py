"""Without scapy or netifaces: one line that says what to install, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from garp_agent import diagnosis
from garp_agent.diagnosis.doctor import run as doctor
from garp_agent.diagnosis.observe import run as observe


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("doctor", lambda: doctor.run(None, None, send=True, as_json=False)),
        ("watch", lambda: observe.run(observe.Wanted())),
    ],
)
def test_command_without_scapy_names_the_package(
    name: str,
    command: Callable[[], int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert diagnosis.missing() == ""
    monkeypatch.setitem(sys.modules, "scapy", None)
    assert command() == 1
    line = "needs the Python packages scapy: apt-get install python3-scapy\n"
    assert capsys.readouterr() == ("", f"garp-agent {name}: {line}")
