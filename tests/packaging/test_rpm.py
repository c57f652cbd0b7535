"""The RPM spec: built by rpm's own tools, here without Fedora's macros and packages.

What those macros do on a Fedora is not tested.  `make test-packages`
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import build_pyz
from tests.packaging.support import CONTRIB, ROOT, need, run

MACROS = {
    "_unitdir": "/usr/lib/systemd/system",
    "_sysusersdir": "/usr/lib/sysusers.d",
    "_udevrulesdir": "/usr/lib/udev/rules.d",
    "systemd_post()": ": post %*",
    "systemd_preun()": ": preun %*",
    "systemd_postun_with_restart()": ": postun %*",
}


@pytest.fixture(scope="module")
def rpms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages by name, of this version."""
    rpmbuild = need("rpmbuild", "rpm")
    need("cpio", "cpio")
    need("pandoc", "pandoc")
    top = tmp_path_factory.mktemp("rpm")
    version = build_pyz.VERSION
    tree = top / f"garp-agent-{version}"
    for name in ("agent", "contrib", "docs", "tools"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    run("tar", "-czf", top / f"{tree.name}.tar.gz", "-C", top, tree.name)
    macros = {**MACROS, "_topdir": top, "_sourcedir": top}
    defined = [word for name, text in macros.items() for word in ("--define", f"{name} {text}")]
    run(
        rpmbuild,
        *("-bb", "--nodeps", *defined, str(CONTRIB / "rpm" / "garp-agent.spec")),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": ""},
    )
    made = top.glob(f"RPMS/noarch/*-{version}-*.rpm")
    return {path.name.partition(f"-{version}-")[0]: path for path in made}


def test_packages_share_no_file_and_keep_the_configuration(rpms: dict[str, Path]) -> None:
    assert rpms.keys() == {"garp-agent", "garp-hint"}
    agent, hint = (run("rpm", "-qlp", rpms[name]).splitlines() for name in sorted(rpms))
    assert {"/usr/sbin/garp-agent", "/usr/lib/systemd/system/garp-agent.service"} <= {*agent}
    assert not [path for path in agent if "garp_agent/hypervisor/" in path or "/__py" in path]
    assert run("rpm", "-qcp", rpms["garp-agent"]).split() == ["/etc/garp-agent/config.yaml"]
    assert not {*agent} & {*hint} - {"/usr/share/licenses"}


@pytest.mark.parametrize("name", ["garp-agent", "garp-hint"])
def test_package_needs_its_python_and_runs_unpacked(
    rpms: dict[str, Path], name: str, tmp_path: Path
) -> None:
    needed = run("rpm", "-qRp", rpms[name]).splitlines()
    version = run("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')")
    assert {f"python(abi) = {version.strip()}", "python3-click"} <= {*needed}
    assert ("shadow-utils" in needed) == (name == "garp-agent")  # for groupadd
    run("sh", "-c", f"rpm2cpio {rpms[name]} | cpio -id --quiet", cwd=tmp_path)
    launcher = tmp_path / "usr/sbin" / name
    launcher.write_text(launcher.read_text().replace('"/usr/share', f'"{tmp_path}/usr/share'))
    assert run(launcher, "--version").startswith(f"{name}, version ")
    if name == "garp-agent":
        assert "good" in run(launcher, "check", tmp_path / "etc/garp-agent/config.yaml")
    completion = tmp_path / "usr/share/bash-completion/completions" / name
    assert f"_{name.upper().replace('-', '_')}_COMPLETE" in completion.read_text()
