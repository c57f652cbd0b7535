"""options: what the fast parser accepts, click accepts with the same values."""

from __future__ import annotations

import contextlib
import io

import click
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from garp_agent.cli.garp_agent import cli
from garp_agent.guest.options import RUN, RunOptions, parse
from tests.world import property_settings


def by_click(arguments: list[str]) -> RunOptions | None:
    """What click makes of them; None where it prints something and ends."""
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            with cli.commands["run"].make_context("run", list(arguments)) as context:
                return RunOptions(**context.params)
        except (click.UsageError, click.exceptions.Exit):
            return None


# -- both the same ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], RunOptions()),
        (["--config", "/etc/x.yaml"], RunOptions(config="/etc/x.yaml")),
        (["--config=/etc/x.yaml"], RunOptions(config="/etc/x.yaml")),
        (["-c", "/etc/x.yaml"], RunOptions(config="/etc/x.yaml")),
        (["-c", "a", "--config", "b"], RunOptions(config="b")),
        (["--interval", "500ms"], RunOptions(interval="500ms")),
        (["--hint-port", "none"], RunOptions(hint_port="none")),
        (["--hint-port=/dev/hvc1=x"], RunOptions(hint_port="/dev/hvc1=x")),
        (["--control-socket", "/run/x.sock"], RunOptions(control_socket="/run/x.sock")),
        (["--dry-run"], RunOptions(dry_run=True)),
        (["-v", "--dry-run"], RunOptions(dry_run=True, verbose=True)),
        (["--verbose", "--verbose"], RunOptions(verbose=True)),
        (["--log-format", "json"], RunOptions(log_format="json")),
        (["--log-format=json", "--log-format=text"], RunOptions(log_format="text")),
        (["--interval", "two words"], RunOptions(interval="two words")),
    ],
)
def test_plain_forms_are_read_without_click_and_as_click_reads_them(
    arguments: list[str], expected: RunOptions
) -> None:
    assert parse(arguments) == expected
    assert by_click(arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        ["--versoin"],
        ["-x"],
        ["extra"],
        ["--config"],
        ["-c"],
        ["--log-format", "xml"],
        ["--log-format", "JSON"],
        ["--log-format="],
        ["--dry-run=yes"],
        ["--dry-run="],
        ["-v", "extra"],
        ["--interval", "5s", "--"],
        ["-"],
        [""],
        ["="],
        ["--=x"],
    ],
)
def test_what_is_no_plain_form_is_left_to_click(arguments: list[str]) -> None:
    assert parse(arguments) is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-cx"], RunOptions(config="x")),
        (["-vc", "x"], RunOptions(verbose=True, config="x")),
        (["--config="], RunOptions(config="")),
        (["--config", ""], RunOptions(config="")),
        (["--config", "-x"], RunOptions(config="-x")),
    ],
)
def test_forms_that_only_click_reads(arguments: list[str], expected: RunOptions) -> None:
    assert parse(arguments) is None
    assert by_click(arguments) in (expected, None)  # click changes its mind about some


names = [name for option in RUN for name in option.names]
values = st.sampled_from(
    ["5s", "json", "text", "none", "/x", "", "-", "--", "-v", "-c", "=", "a=b", "--config", "x y"]
)
words = st.one_of(
    st.sampled_from(names),
    st.builds("{}={}".format, st.sampled_from(names), values),
    st.builds("{}{}".format, st.sampled_from(names), values),
    values,
    st.sampled_from(
        ["--help", "-h", "-vv", "-vc", "--conf", "--dry", "--verbos=1", "--no-verbose"]
    ),
    st.text(max_size=6),
)


@property_settings(500)
@given(st.lists(words, max_size=5))
@example(["--config", "--dry-run"])
@example(["--interval=", "5s"])
def test_whatever_is_read_without_click_click_reads_alike(arguments: list[str]) -> None:
    mine = parse(arguments)
    assert mine is None or mine == by_click(arguments)


# -- the table ------------------------------------------------------------------------------


def test_every_option_has_its_field_and_every_field_its_option() -> None:
    assert {option.key for option in RUN} == set(RunOptions._fields)
    assert len(names) == len(set(names))


def test_only_what_was_said_overrides_the_configuration() -> None:
    assert RunOptions().overrides() == {}
    said = RunOptions("file", "5s", "none", "/run/x", dry_run=True, verbose=True)
    assert said.overrides() == {"interval": "5s", "hint_port": "none", "control_socket": "/run/x"}
