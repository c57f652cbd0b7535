"""Without scapy or netifaces: one line, no traceback."""

from __future__ import annotations

import sys

import pytest

from garp_agent import diagnosis as diagnose
from garp_agent.diagnosis.doctor import run as doctor
from garp_agent.diagnosis.watch import run as watch


def test_nothing_is_missing_here() -> None:
    assert diagnose.missing() == ""


@pytest.fixture
def without_scapy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scapy", None)


LINE = "needs the Python packages scapy: apt-get install python3-scapy\n"


def test_doctor_says_what_to_install(
    without_scapy: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.run(None, None, send=True, as_json=False) == 1
    assert capsys.readouterr() == ("", f"garp-agent doctor: {LINE}")


def test_watch_says_what_to_install(
    without_scapy: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert watch.run(watch.Wanted()) == 1
    assert capsys.readouterr() == ("", f"garp-agent watch: {LINE}")
