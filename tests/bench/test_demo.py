"""What the demo computes and shows; needs no lab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import demo
from bench.demo import Method, Result
from bench.prober import Arrivals

NOTHING = Method("nothing", "nothing", 0.5, 2)
LOOP = Method("loop", "a loop", 6.0, 2)
RESULTS = [
    Result("loop", 5.0),
    Result("nothing", None),
    Result("loop", 0.0305),
    Result("loop", 2.5),
]


def test_the_table() -> None:
    assert demo.table(RESULTS, [NOTHING, LOOP]) == "\n".join(
        [
            "  in the guest  failovers        min     median        max",
            "  --------------------------------------------------------",
            "  nothing               1     > 12 s     > 12 s     > 12 s",
            "  a loop                3      30 ms     2.50 s     5.00 s",
        ]
    )


def test_the_table_of_a_method_without_results() -> None:
    assert demo.table([], [LOOP]).splitlines()[-1].split() == ["a", "loop", "0", "-", "-", "-"]


def test_a_median_between_an_outage_and_none_is_none() -> None:
    results = [Result("loop", 1.0), Result("loop", None)]
    last = demo.table(results, [LOOP]).splitlines()[-1]
    assert last == "  a loop                2     1.00 s     > 12 s     > 12 s"


def test_the_figures_as_json() -> None:
    made = demo.Demo([NOTHING, LOOP], 3, Path())
    nothing, loop = json.loads(demo.as_json(RESULTS, made))["methods"]
    assert (nothing["outages"], nothing["median"]) == ([None], None)
    assert (loop["outages"], loop["median"]) == ([0.0305, 2.5, 5.0], 2.5)


@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_moments_cover_the_cycle(count: int) -> None:
    moments = demo.moments(count, 6.0)
    assert sorted(int(moment * count / 6.0) for moment in moments) == list(range(count))


def test_dealing_loses_nothing_and_leaves_no_hand_empty() -> None:
    assert demo.dealt([1.0, 2.0, 3.0], 2) == [[1.0, 3.0], [2.0]]
    assert demo.dealt([1.0], 5) == [[1.0]]


@pytest.mark.parametrize("given", ["0", "-1"])
def test_a_number_of_failovers_that_makes_no_sense(
    given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        demo.options(["--failovers", given])
    assert f"--failovers: {given} given, at least 1 is needed" in capsys.readouterr().err


def test_a_json_file_that_cannot_be_written_is_told_before_the_minute_of_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        demo.options(["--json", str(tmp_path / "missing" / "file")])
    assert "No such file or directory" in capsys.readouterr().err


class TestArrivals:
    def test_no_probe_lost_is_no_outage_however_late_it_was_sent(self) -> None:
        arrivals = Arrivals()
        for number, sent in ((0, 1.0), (1, 1.1), (2, 9.0)):
            arrivals.add(number, sent)
        assert arrivals.longest(0.0) == 0.0

    def test_the_outage_is_between_the_arrivals_around_the_lost_ones(self) -> None:
        arrivals = Arrivals()
        for number, sent in ((0, 1.0), (1, 1.25), (5, 2.25), (6, 2.5)):
            arrivals.add(number, sent)
        assert arrivals.longest(1.5) == 1.0

    def test_earlier_outages_do_not_count(self) -> None:
        arrivals = Arrivals()
        for number, sent in ((0, 1.0), (9, 5.0), (10, 6.0), (12, 6.5)):
            arrivals.add(number, sent)
        assert arrivals.longest(5.5) == 0.5
        assert arrivals.longest(7.0) == 0.0
