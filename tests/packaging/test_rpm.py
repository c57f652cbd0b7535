"""The RPM spec: parsed and built by rpm's own tools, here without Fedora's macros and packages.

Run by `make test-packages`.  What those macros do on a Fedora is not tried.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import tool
from tests.packaging.support import CONTRIB, ROOT, need, run

SPEC = CONTRIB / "rpm" / "garp-agent.spec"
MACROS = {
    "_unitdir": "/usr/lib/systemd/system",
    "_sysusersdir": "/usr/lib/sysusers.d",
    "_udevrulesdir": "/usr/lib/udev/rules.d",
    "systemd_post()": ": post %*",
    "systemd_preun()": ": preun %*",
    "systemd_postun_with_restart()": ": postun %*",
}
DEFINITIONS = [word for name, text in MACROS.items() for word in ("--define", f"{name} {text}")]


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    rpmbuild = need("rpmbuild", "rpm")
    need("cpio", "cpio")
    top = tmp_path_factory.mktemp("rpm")
    version = tool("build_deb").version()
    tree = top / f"garp-agent-{version}"
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("agent", "contrib", "docs", "tools"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    run("tar", "-czf", top / f"{tree.name}.tar.gz", "-C", top, tree.name)
    folders = [f"_topdir {top}", f"_sourcedir {top}"]
    defined = [word for each in folders for word in ("--define", each)]
    run(
        *[rpmbuild, "-bb", "--nodeps", *DEFINITIONS, *defined, str(SPEC)],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": ""},
    )
    return {re.sub(r"-\d.*", "", path.name): path for path in top.glob("RPMS/noarch/*.rpm")}


def test_the_spec_names_this_version() -> None:
    said = run(need("rpmspec", "rpm"), "-q", "--qf", "%{name} %{version}\\n", *DEFINITIONS, SPEC)
    version = tool("build_deb").version()
    assert said.split("\n")[:2] == [f"garp-agent {version}", f"garp-hint {version}"]


def test_what_is_in_them(rpms: dict[str, Path]) -> None:
    assert set(rpms) == {"garp-agent", "garp-hint"}
    agent = run("rpm", "-qlp", rpms["garp-agent"]).splitlines()
    assert "/usr/sbin/garp-agent" in agent
    assert "/usr/lib/systemd/system/garp-agent.service" in agent
    assert [path for path in agent if path.startswith("/usr/share/man/man8/garp-agent.8")]
    assert not [path for path in agent if "/host/" in path or "__pycache__" in path]
    assert run("rpm", "-qcp", rpms["garp-agent"]).split() == ["/etc/garp-agent/config.yaml"]
    hint = run("rpm", "-qlp", rpms["garp-hint"]).splitlines()
    assert "/usr/share/garp-hint/garp_agent/hypervisor/__main__.py" in hint
    assert not set(agent) & set(hint) - {"/usr/share/licenses"}


def unpack(package: Path, to: Path) -> None:
    archive = subprocess.run(["rpm2cpio", package], capture_output=True, check=True)
    subprocess.run(["cpio", "-id", "--quiet"], input=archive.stdout, cwd=to, check=True)


@pytest.mark.parametrize("name", ["garp-agent", "garp-hint"])
def test_what_they_need(rpms: dict[str, Path], name: str) -> None:
    needed = run("rpm", "-qRp", rpms[name]).splitlines()
    version = run("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')")
    assert f"python(abi) = {version.strip()}" in needed
    assert "python3-click" in needed
    assert ("shadow-utils" in needed) == (name == "garp-agent")  # for its group


@pytest.mark.parametrize("name", ["garp-agent", "garp-hint"])
def test_completion_in_them(rpms: dict[str, Path], name: str, tmp_path: Path) -> None:
    unpack(rpms[name], tmp_path)
    variable = f"_{name.upper().replace('-', '_')}_COMPLETE"
    for path in ("bash-completion/completions/{}", "zsh/site-functions/_{}"):
        assert variable in (tmp_path / "usr/share" / path.format(name)).read_text()
    assert variable in (tmp_path / f"usr/share/fish/vendor_completions.d/{name}.fish").read_text()


def test_the_program_in_it_runs(rpms: dict[str, Path], tmp_path: Path) -> None:
    unpack(rpms["garp-agent"], tmp_path)
    launcher = tmp_path / "usr/sbin/garp-agent"
    text = launcher.read_text()
    launcher.write_text(text.replace('"/usr/share', f'"{tmp_path}/usr/share'))
    config = tmp_path / "etc/garp-agent/config.yaml"
    assert "good" in run(launcher, "check", config)
