"""The cloud-init snippets, judged by cloud-init's own schema checker.  `make test-packages`"""

from __future__ import annotations

import base64
import gzip
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.packaging.support import CONTRIB, ROOT, need, run

SNIPPETS = sorted((CONTRIB / "cloud-init").glob("*.yaml"))


def judged(path: Path, *, good: bool) -> str:
    """What the checker says; its status must be as expected."""
    cloud_init = need("cloud-init", "cloud-init")
    return run(cloud_init, "schema", "--config-file", path, accept=(0,) if good else (1,))


@pytest.mark.parametrize("path", SNIPPETS, ids=lambda path: path.name)
def test_the_schema_takes_it(path: Path) -> None:
    assert "Valid" in judged(path, good=True)


def test_a_mistake_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "user-data"
    path.write_text((SNIPPETS[0]).read_text().replace("permissions:", "permission:"))
    judged(path, good=False)


@pytest.mark.parametrize("path", SNIPPETS, ids=lambda path: path.name)
def test_the_configuration_in_it_is_good(path: Path, tmp_path: Path) -> None:
    files = yaml.safe_load(path.read_text())["write_files"]
    (config,) = [each for each in files if each["path"].endswith("config.yaml")]
    (tmp_path / "config.yaml").write_text(config["content"])
    command = [sys.executable, "-m", "garp_agent", "check", str(tmp_path / "config.yaml")]
    run(*command, env={"PYTHONPATH": str(ROOT / "agent")})


def test_the_file_comes_through(tmp_path: Path) -> None:
    user_data = tmp_path / "user-data"
    user_data.write_text(run(sys.executable, ROOT / "tools" / "cloud_init.py"))
    assert "Valid" in judged(user_data, good=True)
    first = yaml.safe_load(user_data.read_text())["write_files"][0]
    program = tmp_path / "garp-agent"
    program.write_bytes(gzip.decompress(base64.b64decode(first["content"])))
    program.chmod(int(first["permissions"], 8))
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("garp-agent, version")
