"""The packages: Debian's in a chroot as docs/install says, those of the RPM spec unpacked.

The spec is built by rpm's own tools, here without Fedora's macros and packages.  What those macros
do on a Fedora is not tested.

test_booted.py has what needs a running system.  `make test-packages`
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
from pathlib import Path

import pytest

import build_deb
import build_pyz
from tests.packaging.rootfs import Chroot
from tests.packaging.support import CONTRIB, ROOT, need, run
from tests.packaging.test_docs import blocks
from tests.packaging.test_install import MAX_EXPOSURE

# apt and dpkg keep the previous version of these files.
BACKUPS = {f"etc/{name}-" for name in ("group", "gshadow", "passwd", "shadow", "subgid")}


def test_packages_satisfy_lintian(debs: dict[str, Path]) -> None:
    options = ("--allow-root", "--fail-on=error,warning")
    said = run(need("lintian", "lintian"), *options, debs["garp-agent"], debs["garp-hint"])
    assert re.findall("^[EW]:.*", said, re.MULTILINE) == []


def test_second_build_in_another_folder_gives_the_same_bytes(
    debs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    old = os.umask(0o077)
    try:
        again = build_deb.build(tmp_path / "again", build_pyz.VERSION)
    finally:
        os.umask(old)
    first = {debs[name].name: debs[name].read_bytes() for name in ("garp-agent", "garp-hint")}
    assert {path.name: path.read_bytes() for path in again} == first


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_packages_work_once_installed_and_leave_nothing_when_purged(
    debs: dict[str, Path], suite: str
) -> None:
    install_agent, look, install_hint, *purge = blocks("deb", "sh")
    with Chroot(suite) as system:
        before = system.files()
        for package in (debs["garp-agent"], debs["garp-hint"]):
            shutil.copy(package, system.top / "root")
        system.shell(f"cd /root; {install_agent}")
        printed = system.shell(look)
        assert "enabled\n" in printed
        assert "192.0.2.10" in printed
        system.shell(f"cd /root; {install_hint}")
        programs_work(system)
        units_satisfy_systemd(system, suite)
        config = system.top / "etc/garp-agent/config.yaml"
        assert not config.exists()
        config.write_text("interval: 2s\n")
        metrics = system.top / "var/lib/prometheus/node-exporter"
        metrics.mkdir(parents=True)
        for name in STARTS:
            (metrics / f"{name}.prom").touch()
        system.shell("apt-get remove -y garp-agent garp-hint")
        assert config.read_text() == "interval: 2s\n"
        assert list(metrics.iterdir()) == []
        shutil.rmtree(system.top / "var/lib/prometheus")
        assert not (system.top / "usr/sbin/garp-agent").exists()
        assert not (system.top / "usr/share/garp-agent").exists()
        assert "enabled\n" in system.shell(f"cd /root; {install_agent} {look}")
        system.shell("".join([*purge, "rm /root/*"]))
        after = system.files()
    assert before.keys() ^ after.keys() <= BACKUPS
    changed = {path for path in before if after.get(path) != before[path]} - BACKUPS
    assert changed <= {"etc/ld.so.cache"}


STARTS = {"garp-agent": "garp_agent.__main__", "garp-hint": "garp_agent.hypervisor.__main__"}


def missing_modules(top: Path, start: str) -> set[str]:
    """Return the modules below `top` that are imported from `start` on, and are no files there.

    An import within a function counts too, and no module is loaded.
    """
    waiting, seen, missing = {start}, set[str](), set[str]()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        path = top.joinpath(*module.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if not source.exists():
            missing.add(module)
            continue
        for node in ast.walk(ast.parse(source.read_text())):
            names = {each.name for each in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = top.joinpath(*node.module.split("."))
                modules = {path.stem for path in inside.glob("*")}
                members = {each.name for each in node.names} & modules
                names = {node.module, *(f"{node.module}.{member}" for member in members)}
            waiting |= {name for name in names if name.startswith("garp_agent")} - seen
    return missing


@pytest.mark.parametrize("name", STARTS)
def test_debian_package_has_each_module_that_its_program_imports(
    debs: dict[str, Path], name: str, tmp_path: Path
) -> None:
    run("dpkg-deb", "-x", debs[name], tmp_path)
    assert missing_modules(tmp_path / "usr/share" / name, STARTS[name]) == set()


def programs_work(system: Chroot) -> None:
    assert system.run("garp-agent", "--version").endswith(f" {build_pyz.VERSION}\n")
    assert "192.0.2.10" in json.dumps(json.loads(system.run("garp-agent", "list", "--json")))
    # As the unit starts it: not as root, with one capability.
    user = "setpriv --reuid 4242 --regid 4242 --clear-groups"
    able = f"{user} --inh-caps -all,+net_raw --ambient-caps +net_raw garp-agent announce eth0"
    assert "1 frame sent, 0 dropped" in system.shell(able)
    assert "CAP_NET_RAW is missing" in system.shell(f"{user} garp-agent announce eth0", status=77)
    assert system.run("getent", "group", "garp").startswith("garp:")
    assert system.run("systemctl", "is-enabled", "garp-hint").strip() == "enabled"
    drop_in = "/etc/systemd/system/garp-hint.service.d/learn.conf"
    assert f"wrote {drop_in}\n" in system.run("garp-hint", "install", "--learn")
    system.run("rm", "-r", str(Path(drop_in).parent))
    assert "fail  watcher" in system.run("garp-hint", "doctor", "--no-send", status=1)
    words = "_GARP_AGENT_COMPLETE=bash_complete COMP_WORDS='garp-agent st' COMP_CWORD=1"
    assert "status" in system.shell(f"{words} garp-agent 2>&1")
    system.run("bash", "-n", "/usr/share/bash-completion/completions/garp-agent")


def units_satisfy_systemd(system: Chroot, suite: str) -> None:
    metrics = [f"{name}-textfile.{kind}" for name in STARTS for kind in ("service", "timer")]
    units = ["garp-agent.service", "garp-agent-port.service", "garp-hint.service", *metrics]
    said = system.run("systemd-analyze", "verify", "--man=no", *units)
    assert [line for line in said.splitlines() if "garp" in line] == []
    for unit in (unit for unit in units if unit.endswith(".service")):
        judge = ("systemd-analyze", "security", "--offline=true", "--no-pager")
        system.run(*judge, f"--threshold={MAX_EXPOSURE}", f"/lib/systemd/system/{unit}")
    if suite == "trixie":  # the udevadm of bookworm cannot verify
        rules = "/usr/lib/udev/rules.d/80-garp-agent.rules"
        assert "Success: 1" in system.run("udevadm", "verify", rules)


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


def test_spec_satisfies_rpmlint() -> None:
    rpmlint = need("rpmlint", "rpmlint")
    spec = CONTRIB / "rpm" / "garp-agent.spec"
    assert "0 errors, 0 warnings" in run(rpmlint, "-r", spec.with_suffix(".rpmlintrc"), spec)


def test_spec_has_a_url_where_the_home_is_given() -> None:
    rpmspec = need("rpmspec", "rpm")
    home = "https://example.org/garp-agent"
    options = ("-q", "--define", f"project_home {home}", "--qf", "%{URL} ")
    assert home in run(rpmspec, *options, CONTRIB / "rpm" / "garp-agent.spec").split()


def test_rpms_share_no_file_and_ship_no_active_configuration(rpms: dict[str, Path]) -> None:
    assert rpms.keys() == {"garp-agent", "garp-hint"}
    agent, hint = (run("rpm", "-qlp", rpms[name]).splitlines() for name in sorted(rpms))
    assert {"/usr/sbin/garp-agent", "/usr/lib/systemd/system/garp-agent.service"} <= {*agent}
    assert not [path for path in agent if "garp_agent/hypervisor/" in path or "/__py" in path]
    assert "/etc/garp-agent/conf.d" in agent
    assert "/etc/garp-agent/config.yaml" not in agent
    assert not {*agent} & {*hint} - {"/usr/share/licenses"}
    assert "/usr/lib/systemd/system/garp-hint-textfile.timer" in hint
    assert "/usr/share/garp-hint/prometheus/garp-hint-textfile" in hint


@pytest.mark.parametrize("name", STARTS)
def test_rpm_needs_its_python_and_runs_unpacked(
    rpms: dict[str, Path], name: str, tmp_path: Path
) -> None:
    needed = run("rpm", "-qRp", rpms[name]).splitlines()
    version = run("/usr/bin/python3", "-c", "import sys; print(*sys.version_info[:2], sep='.')")
    assert {f"python(abi) = {version.strip()}", "python3-click >= 8.0"} <= {*needed}
    assert "shadow-utils" in needed  # for groupadd
    run("sh", "-c", f"rpm2cpio {rpms[name]} | cpio -id --quiet", cwd=tmp_path)
    assert missing_modules(tmp_path / "usr/share" / name, STARTS[name]) == set()
    launcher = tmp_path / "usr/sbin" / name
    launcher.write_text(launcher.read_text().replace('"/usr/share', f'"{tmp_path}/usr/share'))
    assert run(launcher, "--version").startswith(f"{name}, version ")
    if name == "garp-hint":
        contrib = tmp_path / "usr/share/garp-hint/garp_agent/contrib"
        assert (contrib / "systemd/garp-hint-learn.conf").exists()
    if name == "garp-agent":
        assert "good" in run(launcher, "check", CONTRIB / "garp-agent.yaml")
    completion = tmp_path / "usr/share/bash-completion/completions" / name
    assert f"_{name.upper().replace('-', '_')}_COMPLETE" in completion.read_text()
