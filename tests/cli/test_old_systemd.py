"""The drop-in for an old systemd: what each version makes of the units, by its parser's rules.

tests/packaging/test_old_systemd_runs.py boots 229 and 237.  The rules for all versions are those of
systemd.exec(5) and NEWS: a directive, a value or a group of calls that a version does not know is
ignored.  So is a command with the prefix "+", which 231 brought: there the udev rule alone gives
the port its group.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from garp_agent.cli import install, old_systemd
from tests.packaging.support import CONTRIB, need, run

UNITS = sorted((CONTRIB / "systemd").glob("*.service"))
# RHEL 7, Ubuntu 16.04, the first with groups, with dynamic users, SLES 15, Ubuntu 18.04, RHEL 8.
VERSIONS = [219, 229, 230, 231, 232, 234, 237, 238, 239, 252]
each_version = pytest.mark.parametrize("version", VERSIONS)
each_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)

# systemd's NEWS.  What is not here is older than 219.  Without one of these a service still
# starts; what it then lacks is decided in old_systemd.RULES.
SINCE = {
    "AmbientCapabilities": 229,
    "MemoryDenyWriteExecute": 231,
    "RestrictRealtime": 231,
    "DynamicUser": 232,
    "ProtectControlGroups": 232,
    "ProtectKernelModules": 232,
    "ProtectKernelTunables": 232,
    "RemoveIPC": 232,
    "RestrictNamespaces": 233,
    "IPAddressDeny": 235,
    "KeyringMode": 235,
    "LockPersonality": 235,
    "PrivateMounts": 239,
    "ProtectHostname": 242,
    "RestrictSUIDSGID": 242,
    "ProtectKernelLogs": 244,
    "ProtectClock": 245,
    "ProcSubset": 247,
    "ProtectProc": 247,
}
KNOWN_TO_219 = """
Description Documentation After WantedBy Type ExecStart ExecStartPre ExecReload WatchdogSec
TimeoutStartSec TimeoutStopSec Restart RestartSec RestartPreventExitStatus OOMScoreAdjust Group
SupplementaryGroups CapabilityBoundingSet NoNewPrivileges RuntimeDirectory RuntimeDirectoryMode
UMask ProtectHome PrivateTmp PrivateDevices PrivateNetwork DevicePolicy DeviceAllow
RestrictAddressFamilies SystemCallArchitectures SystemCallErrorNumber StartLimitInterval
SystemCallFilter ProtectSystem
"""
GROUPS = {"@system-service": 239, "@resources": 232}  # the others: 231


def directives(text: str) -> list[tuple[str, str, str]]:
    """Return section, name and value of each line."""
    found, section = [], ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.append((section, name, value))
    return found


class Effect:
    """What a version of systemd makes of a unit and the drop-in for it."""

    def __init__(self, unit: Path, version: int, drop_in: str) -> None:
        self.protect_system = "no"
        self.start_limit = "10s"
        self.calls: set[str] = set()
        self.allows: bool | None = None  # the list allows; None: there is no filter
        for section, name, value in directives(f"{unit.read_text()}\n{drop_in}"):
            if name == "ProtectSystem" and (value != "strict" or version >= 232):
                self.protect_system = value
            elif (section, name) == ("Service", "StartLimitInterval") or (
                (section, name) == ("Unit", "StartLimitIntervalSec") and version >= 230
            ):
                self.start_limit = value
            elif name == "SystemCallFilter":
                self._filter(value, version)

    def _filter(self, value: str, version: int) -> None:
        if not value:
            self.calls, self.allows = set(), None
            return
        words = set(value.lstrip("~").split())
        known = {
            word for word in words if not word.startswith("@") or version >= GROUPS.get(word, 231)
        }
        inverted = value.startswith("~")
        if self.allows is None:
            self.allows = not inverted
        self.calls = self.calls - known if inverted and self.allows else self.calls | known


@each_unit
def test_unit_has_no_directive_whose_age_is_unknown(unit: Path) -> None:
    names = {name for _, name, _ in directives(unit.read_text())}
    assert names <= {*SINCE, *KNOWN_TO_219.split(), "StartLimitIntervalSec"}


@each_unit
@each_version
def test_filter_lets_python_start_and_forbids_mounts(unit: Path, version: int) -> None:
    effect = Effect(unit, version, old_systemd.drop_in(version))
    assert effect.allows == (version >= 239)
    assert effect.calls & {"@system-service", "@mount", "mount"}


@each_unit
@each_version
def test_system_is_read_only_in_each_version(unit: Path, version: int) -> None:
    effect = Effect(unit, version, old_systemd.drop_in(version))
    assert effect.protect_system == ("strict" if version >= 232 else "full")


@pytest.mark.parametrize("unit", ["garp-agent.service", "garp-hint.service"])
@each_version
def test_restarts_have_no_limit_in_each_version(unit: str, version: int) -> None:
    effect = Effect(CONTRIB / "systemd" / unit, version, old_systemd.drop_in(version))
    assert effect.start_limit == "0"


def test_new_systemd_needs_no_drop_in() -> None:
    assert old_systemd.drop_in(239) == ""


@each_version
def test_drop_in_is_valid_for_the_systemd_of_this_machine(version: int, tmp_path: Path) -> None:
    unit = tmp_path / "garp-old.service"
    unit.write_text("[Service]\nExecStart=/bin/true\n")
    (tmp_path / "garp-old.service.d").mkdir()
    (tmp_path / "garp-old.service.d" / "x.conf").write_text(old_systemd.drop_in(version))
    said = run(need("systemd-analyze", "systemd"), "verify", "--man=no", unit)
    # Calls that this machine's kernel does not have are named.
    assert [
        line for line in said.splitlines() if "garp" in line and "system call" not in line
    ] == []


TREES = {
    ("usr/lib/systemd/systemd",): 219,
    ("usr/lib/systemd/systemd", "usr/lib/systemd/libsystemd-shared-239.so"): 239,
    ("lib/systemd/systemd", "lib/systemd/libsystemd-shared-237.so"): 237,
    ("usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-255.4-1ubuntu8.so",): 255,
    ("usr/lib64/systemd/libsystemd-shared-257.9.so",): 257,
    ("etc/passwd",): None,
}


@pytest.mark.parametrize(("files", "version"), TREES.items())
def test_version_is_known_from_the_files_of_a_tree(
    files: tuple[str, ...], version: int | None, tmp_path: Path
) -> None:
    for each in files:
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).touch()
    assert old_systemd.version_in(str(tmp_path)) == version


@pytest.mark.parametrize("kit", [install.AGENT, install.WATCHER], ids=lambda kit: kit.name)
def test_install_writes_and_removes_the_drop_ins(kit: install.Kit, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "program").touch()
    library = tmp_path / "usr/lib/systemd/libsystemd-shared-237.so"
    library.parent.mkdir(parents=True)
    library.touch()
    units = {str(tmp_path / each) for each in kit.files if each.endswith(".service")}

    def adapted() -> set[str]:
        found = tmp_path.rglob(old_systemd.NAME)
        assert {path.read_text() for path in tmp_path.rglob(old_systemd.NAME)} <= {
            old_systemd.drop_in(237)
        }
        return {re.sub(r"\.d$", "", str(path.parent)) for path in found}

    install.install(str(tmp_path), "/program", kit)
    assert adapted() == units
    library.rename(library.with_name("libsystemd-shared-252.so"))  # an upgrade of the system
    install.install(str(tmp_path), "/program", kit)
    assert adapted() == set()
    library.with_name("libsystemd-shared-252.so").rename(library)
    install.install(str(tmp_path), "/program", kit)
    install.uninstall(str(tmp_path), kit)
    assert list(tmp_path.rglob("*.service*")) == []
