"""The scripts that pip installs: they run the package beside them, whatever surrounds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from garp_agent import __version__
from tests.packaging.support import CONTRIB, ROOT


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the scripts in a virtual environment that knows this tree."""
    top = tmp_path_factory.mktemp("venv")
    venv.create(top, symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(top)})
    paths = [str(ROOT / "agent"), sysconfig.get_path("purelib")]
    Path(packages, "tree.pth").write_text("\n".join(paths))
    for script in (CONTRIB / "pip").iterdir():
        shutil.copy(script, top / "bin")
    return top / "bin"


@pytest.mark.parametrize("name", ["garp-agent", "garp-hint"])
@pytest.mark.parametrize("through", ["path", "link"])
def test_pip_script_ignores_the_current_folder_and_python_variables(
    programs: Path, tmp_path: Path, name: str, through: str
) -> None:
    for forged in ("json", "garp_agent", "sitecustomize"):
        (tmp_path / f"{forged}.py").write_text("raise SystemExit('forged')")
    program = programs / name
    if through == "link":  # as pipx does
        program = tmp_path / "link"
        program.symlink_to(programs / name)
    forging = {"PYTHONPATH": f":{tmp_path}", "PYTHONINSPECT": "1", "PYTHONHOME": str(tmp_path)}
    done = subprocess.run(
        [program, "--version"],
        env={**os.environ, **forging},
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert (done.stdout, done.stderr) == (f"{name}, version {__version__}\n", ""), sys.version
