"""Which configuration is in force, read in a child."""

from __future__ import annotations

from pathlib import Path

import pytest

from garp_agent.config import in_force
from garp_agent.config.errors import ConfigError
from garp_agent.config.settings import Settings
from garp_agent.runtime.child import Child
from tests.config.test_read import EVERY_KEY, EVERY_SETTING


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for the usual file, which is not there yet."""
    path = tmp_path / "usual.yaml"
    monkeypatch.setattr(in_force, "DEFAULT_PATH", str(path))
    return path


def test_without_a_file_the_defaults_are_in_force(usual: Path) -> None:
    assert in_force.configuration_path(None) == ""
    assert in_force.read_settings(None, {}) == Settings()
    assert in_force.read_settings(None, {"interval": "7s"}) == Settings(interval=7.0)


def test_the_file_that_is_named_wins_over_the_usual_one(usual: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.yaml"
    named.write_text(EVERY_KEY)
    usual.write_text("interval: 9s\n")
    assert in_force.read_settings(None, {}) == Settings(interval=9.0)
    settings = in_force.read_settings(str(named), {"hint_port": "none"})
    assert settings == EVERY_SETTING._replace(hint_port="")


def test_the_problems_of_the_child_are_raised_here(usual: Path) -> None:
    usual.write_text("interval: 5\nburst: []\n")
    with pytest.raises(ConfigError) as caught:
        in_force.read_settings(None, {})
    first, second = caught.value.problems
    assert (first.wrong, second.line) == ("no unit, write 5s", 2)
    assert str(caught.value).startswith(f"{usual}:1: interval: given 5: ")


def test_a_child_without_a_result_is_a_configuration_that_could_not_be_read() -> None:
    with pytest.raises(ConfigError, match=r"^the configuration could not be read: it failed"):
        in_force.finish_reading(Child(object))
