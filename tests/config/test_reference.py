"""The example file and the reference page say what the code does."""

from __future__ import annotations

import contextlib
import re
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest

from garp_agent.config import read
from garp_agent.config.errors import ConfigError
from garp_agent.config.forms import FORMS
from garp_agent.config.settings import Settings
from tests.config.refusals import refusals, settings_of

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "contrib" / "garp-agent.yaml").read_text()
REFERENCE = (ROOT / "docs" / "configuration.md").read_text()


def leaves(value: Any, name: str = "") -> list[str]:
    """Return the dotted names of all fields that hold no further fields."""
    fields = getattr(value, "_fields", None)
    if fields is None:
        return [name.lstrip(".")]
    return [leaf for each in fields for leaf in leaves(getattr(value, each), f"{name}.{each}")]


def test_every_setting_has_one_key() -> None:
    assert list(FORMS) == leaves(Settings())


def test_the_example_has_every_key_at_its_default() -> None:
    assert settings_of(EXAMPLE) == Settings()
    bare = [line for line in EXAMPLE.splitlines() if line and not line.startswith("#")]
    assert bare == read.as_yaml(Settings()).splitlines()


def test_the_reference_has_every_key_with_its_default_and_bounds() -> None:
    rows = re.findall(r"^\| `([a-z0-9_.]+)` \| `(.*?)` \| (.*?) \| .+ \|$", REFERENCE, re.M)
    assert rows == [
        (name, form.write(attrgetter(name)(Settings())), form.allowed)
        for name, form in FORMS.items()
    ]


def test_the_reference_shows_the_errors_of_its_example() -> None:
    text = b"interval: 5\nrate_limit:\n  dept: 3\ninterfaces: {include: [eth0, *lan]}\n"
    text += b"addresses: {exclude: [10.0.0.1/8]}\n"
    (shown,) = re.findall(r"^```\n(.*?)\n```$", REFERENCE, re.M | re.S)
    with pytest.raises(ConfigError) as caught:
        read.read_files(["/etc/garp-agent/config.yaml"], lambda path: text)
    assert str(caught.value) == shown


PLACES = {
    "duration": "interval: {}",
    "percentage": "jitter: {}",
    "number": "rate_limit:\n  frames_per_second: {}",
    "switch": "mac_only: {}",
    "name, glob, path": "interfaces:\n  include:\n  - {}",
    "block": "addresses:\n  exclude:\n  - {}",
    "list": "interfaces:\n  exclude: {}",
}


@pytest.mark.parametrize("form", PLACES)
def test_the_reference_says_how_each_value_is_written(form: str) -> None:
    ((written, refused),) = re.findall(rf"^\| {form} \| (.*?) \| (.*) \|$", REFERENCE, re.M)
    for value in re.findall("`(.*?)`", written):
        text = PLACES[form].format(value)
        # Only beyond the bounds of this key, or longer than another one.
        assert is_good(text) or re.search(": (too|longer) ", str(refusals(text)))
    for value in re.findall("`(.*?)`", refused):
        assert not re.search(": (too|longer) ", str(refusals(PLACES[form].format(value))))


def is_good(text: str) -> bool:
    with contextlib.suppress(ConfigError):
        return bool(settings_of(text))
    return False
