"""strict_json reads and writes what the module json does; what it refuses beside that is below."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from garp_agent.wire.strict_json import INTEGER_MOST, JsonError, dumps, loads

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-INTEGER_MOST, INTEGER_MOST)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
# Pieces that lie near JSON, so that most of their sequences are wrong in one place.
SPELLED = """
{ } [ ] , : " \\ / 0 1 -1 01 -0 1.5 1. .5 - + 1e3 1E-2 1e+ e 2e null true false nulL truE ' ½ ²
"" "a" "b": "\\n" "\\u0041" "\\ud83d\\ude00" "\\ud83d" "\\ud83d\\u0041" "\\u00e" "\\x" "é"
{} [] [1] {"a":1} {"a":{"b":[2,{}]}}
"""
WHITE = " \n\r\t\v\xa0\0\x1f\x7f"
PIECES = st.sampled_from((*SPELLED.split(), *WHITE, *(f'"{each}"' for each in WHITE)))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError
    return dict(pairs)


def _finite(digits: str) -> float:
    if float(digits) in (float("inf"), float("-inf")):
        raise ValueError
    return float(digits)


def of_json(text: str) -> tuple[bool, Any]:
    """Return whether json reads a text, and the value; what peers read differently is no JSON."""
    try:
        return True, json.loads(text, object_pairs_hook=_once, parse_float=_finite)
    except ValueError:
        return False, None


def read(text: str) -> tuple[bool, Any]:
    try:
        return True, loads(text.encode())
    except JsonError:
        return False, None


@given(VALUES, st.sampled_from((None, 1)), st.booleans())
def test_every_value_is_read_as_json_wrote_it(value: Any, indent: int | None, plain: bool) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=plain)
    assert loads(text.encode()) == value


@given(VALUES)
def test_every_value_is_written_as_json_writes_it(value: Any) -> None:
    written = dumps(value)
    assert written == json.dumps(value, sort_keys=True).encode()
    assert repr(loads(written)) == repr(json.loads(written))


@given(st.lists(PIECES, max_size=8).map("".join))
@example("-")
@example("1e5x")
@example('{"a":1,}')
@example("[1,]")
@example('{"a" 1}')
@example('"\\ud83d\\n"')
@example('"\\ud83d\\ue000"')
def test_every_text_near_json_is_read_or_refused_as_json_does(text: str) -> None:
    assert repr(read(text)) == repr(of_json(text))


@pytest.mark.parametrize(
    ("line", "position"),
    [
        (b"", 0),
        (b" burst", 1),
        (b'{"a": 1} x', 9),
        (b'{"a" 1}', 5),
        (b'{"a": 1 "b": 2}', 8),
        (b"{1: 2}", 1),
        (b"[1 2]", 3),
        (b"[01]", 1),
        (b'["ab', 1),
        (b'["a\tb"]', 3),
        (b'["a\\q"]', 3),
        (b'["a\\u12x4"]', 3),
    ],
)
def test_the_error_of_a_line_names_the_first_wrong_character(line: bytes, position: int) -> None:
    with pytest.raises(JsonError, match=f"^the line is not JSON at character {position}$"):
        loads(line)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": {1}}, b"a"])
def test_a_value_without_a_form_in_json_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        dumps(value)
