"""The options of `run`: what our parser accepts, click accepts with the same values."""

from __future__ import annotations

import contextlib
import io

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from garp_agent.cli.garp_agent import cli
from garp_agent.guest.options import RUN, RunOptions, parse_run_options
from tests.world import property_settings


def by_click(arguments: list[str]) -> RunOptions | None:
    """Return what click reads; None if it prints something and ends."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            with cli.commands["run"].make_context("run", list(arguments)) as context:
                return RunOptions(**context.params)
        except (click.UsageError, click.exceptions.Exit):
            return None


@pytest.mark.parametrize(
    "arguments",
    [
        *("", "--config /etc/x.yaml", "--config=/etc/x.yaml", "-c a --config b"),
        *("--interval 500ms", "--hint-port=/dev/hvc1=x", "--control-socket /run/x.sock"),
        *("-v --dry-run", "--verbose --verbose", "--log-format=json --log-format text"),
    ],
)
def test_a_plain_form_is_read_without_click_and_as_by_click(arguments: str) -> None:
    ours = parse_run_options(arguments.split())
    assert ours is not None
    assert ours == by_click(arguments.split())


@pytest.mark.parametrize(
    "arguments",
    [
        *("--help", "-h", "--versoin", "-x", "extra", "-", "=", "--=x", "-v extra"),
        *("--config", "-c", "-cx", "-vc x", "--config=", "--config -x", "--interval 5s --"),
        *("--log-format xml", "--log-format JSON", "--log-format=", "--dry-run=yes", "--dry-run="),
    ],
)
def test_any_other_form_is_left_to_click(arguments: str) -> None:
    assert parse_run_options(arguments.split()) is None


names = [name for option in RUN for name in option.names]
values = st.sampled_from(
    ["5s", "json", "text", "none", "/x", "", "-", "--", "-v", "-c", "=", "a=b", "--config", "x y"]
)
words = st.one_of(
    st.sampled_from(names),
    st.builds("{}={}".format, st.sampled_from(names), values),
    st.builds("{}{}".format, st.sampled_from(names), values),
    values,
    st.sampled_from(["--help", "-vv", "-vc", "--conf", "--dry", "--verbos=1", "--no-verbose"]),
    st.text(max_size=6),
)


@property_settings(500)
@given(st.lists(words, max_size=5))
@example(["--config", "--dry-run"])
@example(["--interval=", "5s"])
@example([""])
def test_arguments_read_without_click_are_read_alike_by_click(arguments: list[str]) -> None:
    ours = parse_run_options(arguments)
    assert ours is None or ours == by_click(arguments)


def test_every_option_has_a_field_and_only_given_ones_override_the_configuration() -> None:
    assert {option.key for option in RUN} == set(RunOptions._fields)
    assert RunOptions().overrides() == {}
    given = RunOptions("file", "5s", "none", "/run/x", dry_run=True, verbose=True)
    assert given.overrides() == {"interval": "5s", "hint_port": "none", "control_socket": "/run/x"}
