"""How findings are printed: as text of any width, and as JSON."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from garp_agent.diagnosis.doctor import listen, report
from garp_agent.diagnosis.doctor import run as doctor
from garp_agent.diagnosis.doctor.facts import AgentAnswer
from garp_agent.diagnosis.doctor.findings import fail, ok, skip, warn
from garp_agent.diagnosis.host import run as host
from garp_agent.render.table import PIPE, Screen
from tests.diagnosis.world import address, facts, link

FINDINGS = [
    ok("daemon", "garp-agent 1.0, pid 7"),
    warn("hint port", "no request has ever come " * 4, "look at the hypervisor " * 4),
    fail("wire eth0", "not seen", "look at tc"),
    skip("claimants", "--no-send was given"),
]


TEXT = """\
ok    daemon     garp-agent 1.0, pid 7
warn  hint port  no request has ever come no request has
                 ever come no request has ever come no
                 request has ever come
                 -> look at the hypervisor look at the
                    hypervisor look at the hypervisor look
                    at the hypervisor
fail  wire eth0  not seen
                 -> look at tc
skip  claimants  not checked: --no-send was given

1 good, 1 to look at, 1 broken, 1 not checked"""


def test_text_has_one_line_for_each_finding_and_the_advice_below() -> None:
    assert report.as_text(FINDINGS, Screen(60)) == TEXT


@pytest.mark.parametrize("width", [1, 40, 80, 200])
def test_text_fits_the_terminal(width: int) -> None:
    findings = [*FINDINGS, ok("addresses enx0123456789ab", "announced")]
    lines = report.as_text(findings, Screen(width)).splitlines()[:-2]
    assert max(map(len, lines)) <= max(width, report.WIDTH_LEAST)


def test_text_has_a_colour_for_each_level_and_80_columns_in_a_pipe() -> None:
    painted = report.as_text(FINDINGS, Screen(60, lambda text, meaning: f"<{meaning}>{text}</>"))
    assert re.findall("<([a-z]+)>", painted) == ["good", "warn", "bad", "quiet"]
    assert re.sub("<.*?>", "", painted) == TEXT
    assert report.as_text(FINDINGS, PIPE) == report.as_text(FINDINGS, Screen(80))


def test_json_has_every_finding_and_warnings_are_no_failure() -> None:
    told = json.loads(report.as_json_text(FINDINGS))
    assert told["good"] is False
    assert [each["level"] for each in told["findings"]] == ["ok", "warn", "fail", "skip"]
    failure = {"check": "wire eth0", "level": "fail", "found": "not seen", "advice": "look at tc"}
    assert told["findings"][2] == failure
    assert json.loads(report.as_json_text(FINDINGS[:2]))["good"] is True


RUNS, GONE = facts().agent, AgentAnswer("/run/c.sock", error="no garp-agent answers there")
BOTH = facts().links
RARP = [link("eth0", address("", "rarp"))]
QUIET = [link("eth0", address("192.0.2.10", skipped="down"))]


@pytest.mark.parametrize(
    ("answer", "links", "unasked", "said"),
    [
        (RUNS, BOTH, "", f"sends: {doctor.BURST}, then {doctor.PROBES}; --no-send sends nothing"),
        (GONE, BOTH, "", f"sends: {doctor.PROBES}; --no-send sends nothing"),
        (RUNS, RARP, "", f"sends: {doctor.BURST}; --no-send sends nothing"),
        (RUNS, QUIET, "", "sends nothing: no address is announced"),
        (GONE, RARP, "", "sends nothing: no address is announced"),
        (RUNS, BOTH, "needs root", "sends nothing: needs root"),
    ],
)
def test_sends_names_what_goes_out(
    answer: AgentAnswer, links: list[Any], unasked: str, said: str
) -> None:
    assert doctor.sends(listen.plan(answer, links, unasked)) == said


def test_notice_of_what_goes_out_fits_the_terminal() -> None:
    lines = doctor.notice(listen.plan(RUNS, BOTH, ""), Screen(60)).splitlines()
    lines += host.host_notice(
        "3 probes of each of 2 MACs, on the standby port", Screen(60)
    ).splitlines()
    assert len(lines) > 4
    assert max(map(len, lines)) <= 60
