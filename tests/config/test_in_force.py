"""Which configuration is in force, read in a child."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from garp_agent.cli.garp_agent import cli
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
    assert in_force.configuration_files(None) == ()
    assert in_force.files_left_out(None) == ()
    assert in_force.read_settings(None, {}) == Settings()
    assert in_force.read_settings(None, {"interval": "7s"}) == Settings(interval=7.0)


def test_the_file_that_is_named_wins_over_the_usual_one(usual: Path, tmp_path: Path) -> None:
    named = tmp_path / "named.yaml"
    named.write_text(EVERY_KEY)
    usual.write_text("interval: 9s\n")
    assert in_force.read_settings(None, {}) == Settings(interval=9.0)
    settings = in_force.read_settings(str(named), {"hint_port": "none"})
    # A tuple equals a Network, but has no address.
    assert repr(settings) == repr(EVERY_SETTING._replace(hint_port=""))


def test_files_of_conf_d_override_in_the_order_of_their_names(usual: Path) -> None:
    usual.write_text("interval: 9s\njitter: 5%\ninterfaces: {include: [eth*], exclude: [eth1]}\n")
    folder = usual.parent / "conf.d"
    folder.mkdir()
    (folder / "20-last.yaml").write_text("interval: 7s\n")
    (folder / "10-first.yaml").write_text("interval: 8s\ninterfaces: {exclude: [eth2]}\n")
    (folder / "30-none.yml").write_text("interval: 3s\n")
    (folder / ".hidden.yaml").write_text("interval: 3s\n")
    (folder / "40-empty.yaml").touch()
    names = ("10-first.yaml", "20-last.yaml", "40-empty.yaml")
    assert in_force.configuration_files(None) == (str(usual), *(str(folder / n) for n in names))
    assert in_force.files_left_out(None) == (str(folder / "30-none.yml"),)
    assert in_force.files_left_out("named") == ()
    settings = in_force.read_settings(None, {})
    assert (settings.interval, settings.jitter) == (7.0, 0.05)
    assert settings.interfaces.include == ("eth*",)
    assert settings.interfaces.exclude == ("eth2",)
    assert in_force.configuration_files("named") == ("named",)
    usual.unlink()
    assert in_force.read_settings(None, {}).interfaces.include == Settings().interfaces.include


def test_check_names_the_files_of_conf_d_that_are_not_read(usual: Path) -> None:
    folder = usual.parent / "conf.d"
    folder.mkdir()
    (folder / "10-first.yaml").touch()
    (folder / "20-ex\x1bclude.yml").touch()
    result = CliRunner().invoke(cli, ["check"])
    good = f"{folder}/10-first.yaml: good"
    left_out = f"{folder}/20-ex\\x1bclude.yml: not read: its name does not end in .yaml"
    assert (result.exit_code, result.output) == (0, f"{good}\ngarp-agent: {left_out}\n")


def test_check_shows_a_name_that_could_control_the_terminal_escaped(usual: Path) -> None:
    folder = usual.parent / "conf.d"
    folder.mkdir()
    os.close(os.open(os.fsencode(folder) + b"/\xff\x1b.yaml", os.O_CREAT | os.O_WRONLY))
    result = CliRunner().invoke(cli, ["check"])
    assert (result.exit_code, result.output) == (0, f"{folder}/\\udcff\\x1b.yaml: good\n")


def test_daemon_names_a_hundred_problems_and_how_many_more_there_are(usual: Path) -> None:
    usual.write_text(f"burst: [{', '.join('x' * 250)}]\n")
    with pytest.raises(ConfigError) as caught:
        in_force.read_settings(None, {})
    last, rest = caught.value.problems[99:]
    assert last.key == "burst[99]"
    assert str(rest) == "more problems: 150; `garp-agent check` shows all"
    assert len(CliRunner().invoke(cli, ["check"]).output.splitlines()) == 250


def test_problems_of_several_files_name_their_file(usual: Path) -> None:
    usual.write_text("interval: 50s\nnonsense: 1\n")
    folder = usual.parent / "conf.d"
    folder.mkdir()
    (folder / "a.yaml").write_text("jitter: 5\n")
    (folder / "b.yaml").write_text("[")
    (folder / "c.yaml").write_text("# shorter than the interval\ninterval_with_lease: 20s\n")
    with pytest.raises(ConfigError) as caught:
        in_force.read_settings(None, {})
    places = [(Path(each.source).name, each.line) for each in caught.value.problems]
    assert places == [("usual.yaml", 2), ("a.yaml", 1), ("b.yaml", 1), ("c.yaml", 2)]


@pytest.mark.parametrize("folder", [".", "conf.d"])
@pytest.mark.parametrize("is_link", [True, False], ids=["link to nowhere", "file"])
def test_a_folder_of_the_configuration_that_is_none_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, is_link: bool
) -> None:
    """A file system that is not mounted yet must not make `exclude` vanish."""
    top = tmp_path / "garp-agent"
    monkeypatch.setattr(in_force, "DEFAULT_PATH", str(top / "config.yaml"))
    wrong = top / folder
    wrong.parent.mkdir(exist_ok=True)
    if is_link:
        wrong.symlink_to("/nowhere")
    else:
        wrong.write_text("interfaces: {exclude: [eth0]}\n")
    reason = "No such file or directory" if is_link else "Not a directory"
    with pytest.raises(ConfigError, match=f"^{wrong}: cannot be read: {reason}$"):
        in_force.read_settings(None, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
@pytest.mark.parametrize("private", ["folder", "conf.d", "file"])
def test_a_configuration_that_this_user_may_not_see_is_an_error(
    private: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `exclude` would not count, if it were taken for one that does not exist."""
    with tempfile.TemporaryDirectory() as top:
        os.chmod(top, 0o755)
        folder = Path(top, "garp-agent")
        (folder / "conf.d").mkdir(parents=True)
        file = folder / "config.yaml"
        file.write_text("interfaces: {exclude: [eth0]}\n")
        monkeypatch.setattr(in_force, "DEFAULT_PATH", str(file))
        {"folder": folder, "conf.d": folder / "conf.d", "file": file}[private].chmod(0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(ConfigError, match="cannot be read: Permission denied"):
                in_force.read_settings(None, {})
        finally:
            os.seteuid(0)


def test_the_problems_of_the_child_are_raised_here(usual: Path) -> None:
    usual.write_text("interval: 5\nburst: []\n")
    with pytest.raises(ConfigError) as caught:
        in_force.read_settings(None, {})
    first, second = caught.value.problems
    assert (first.wrong, second.line) == ("no unit, write 5s", 2)
    assert str(caught.value).startswith(f"{usual}:1: interval: given 5: ")


def test_a_child_without_a_result_is_a_configuration_that_could_not_be_read() -> None:
    with pytest.raises(ConfigError, match=r"^the configuration could not be read: it was killed"):
        in_force.finish_reading(Child(object))
