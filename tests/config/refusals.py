"""What the tests of the configuration share: settings of a text, and the lines about a bad one."""

from __future__ import annotations

import pytest

from garp_agent.config import read
from garp_agent.config.errors import ConfigError
from garp_agent.config.settings import Settings


def settings_of(text: str | bytes) -> Settings:
    return read.read_files(
        ["f.yaml"], lambda path: text if isinstance(text, bytes) else text.encode()
    )


def refusals(text: str | bytes) -> list[str]:
    """Return the lines about a text that is refused, in the file f.yaml."""
    with pytest.raises(ConfigError) as caught:
        settings_of(text)
    return str(caught.value).split("\n")
