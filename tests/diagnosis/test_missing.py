"""Without netifaces and scapy: what still works, and what is skipped with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from garp_agent.diagnosis.capture_file import StoredFrame, write_frame, write_header
from garp_agent.diagnosis.doctor import run as doctor
from garp_agent.diagnosis.doctor.findings import Level
from tests import golden
from tests.diagnosis.world import facts
from tests.hypervisor.watching import ENVIRONMENT

# Python starts with neither package.
WITHOUT = """
import sys
sys.modules["scapy"] = sys.modules["netifaces"] = None
from garp_agent.__main__ import main
main()
"""
NEEDED = (
    "not checked: comparing them needs the Python package netifaces: "
    "apt-get install --no-install-recommends python3-netifaces"
)


def run_without(*arguments: str) -> tuple[int, str, str]:
    asked = [sys.executable, "-c", WITHOUT, *arguments]
    done = subprocess.run(asked, check=False, capture_output=True, text=True, env=ENVIRONMENT)
    return done.returncode, done.stdout, done.stderr


def test_doctor_without_netifaces_skips_the_comparison_and_says_what_to_install(
    tmp_path: Path,
) -> None:
    missing = str(tmp_path / "none.sock")
    status, out, err = run_without("doctor", "--no-send", "--json", "--control-socket", missing)
    assert (status, err) == (1, "")  # no agent runs
    found = [(each["check"], each["level"], each["found"]) for each in json.loads(out)["findings"]]
    assert ("addresses", "skip", NEEDED) in found
    assert ("addresses lo", "ok", "skipped (loopback): 127.0.0.1") in [
        (check, level, text.replace(", ::1", "")) for check, level, text in found
    ]


def test_addresses_that_were_not_seen_are_no_difference() -> None:
    seen = {name: each._replace(addresses={}) for name, each in facts().interfaces.items()}
    findings = doctor.examine(facts(interfaces=seen, not_seen="needs netifaces"))
    assert {each.level for each in findings} == {Level.OK, Level.SKIP}
    assert [each.check for each in findings if each.level is Level.SKIP] == ["addresses"]


def test_watch_without_scapy_reads_a_capture_file(tmp_path: Path) -> None:
    path = tmp_path / "seen.pcap"
    with path.open("wb", buffering=0) as file:
        write_header(file)
        for name in ("arp-announcement", "unsolicited-na", "dad-solicitation"):
            write_frame(file, StoredFrame(1_700_000_000.25, golden.read(f"frames/{name}")))
    status, out, err = run_without("watch", "--read", str(path), "--json")
    assert (status, err) == (0, "")
    told = [json.loads(line) for line in out.splitlines()]
    assert [(each["kind"], each["irregular"]) for each in told] == [
        ("arp-request", []),
        ("unsolicited-na", []),
    ]
    assert told[0]["time"] == 1_700_000_000.25
