"""The table of outages: medians, what was not measured, and what did not end."""

from __future__ import annotations

from math import inf

from scapy.layers.l2 import ARP, Ether

from bench.lab import GUEST_ADDRESS, GUEST_MAC
from bench.outages import SITUATIONS, WAYS, Outage, table, trials
from bench.segment import answer_all
from tests.netns.agent import gratuitous


def test_table_has_the_median_and_the_longest_outage_of_each_method() -> None:
    situation = SITUATIONS[1]
    nothing, loop, agent = WAYS
    seconds = {nothing: (inf, inf, inf), loop: (1.0, 5.0, inf), agent: (0.0, 1.25, 1.52)}
    found = [Outage(situation, way, each) for way, all in seconds.items() for each in all]
    cells = "over 20 s | 5.0 s, at most over 20 s | 1.2 s, at most 1.5 s"
    assert f"| {situation.title} | {cells} |" in table(found, [situation]).splitlines()


def test_trials_leave_out_the_loop_with_ipv6_and_repeat_what_has_a_cycle() -> None:
    (situation,) = (each for each in SITUATIONS if each.ipv6)
    methods = [method.key for _, method, _ in trials([situation], 2)]
    assert methods == ["nothing"] + ["agent-5s"] * 2
    assert "arping has no IPv6" in table([Outage(situation, WAYS[0], inf)], [situation])


def test_proxy_answers_a_probe_but_no_announcement() -> None:
    probe = ARP(op=1, hwsrc=GUEST_MAC, psrc="0.0.0.0", pdst="192.0.2.77")
    answer = answer_all(Ether(src=GUEST_MAC) / probe)
    assert answer is not None
    assert (answer.dst, answer[ARP].op, answer[ARP].psrc) == (GUEST_MAC, 2, "192.0.2.77")
    assert answer_all(gratuitous(GUEST_MAC, GUEST_ADDRESS)) is None
