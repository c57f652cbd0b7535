"""What several of these tests build, and which of them only `make test-packages` runs."""

from __future__ import annotations

from pathlib import Path

import pytest

import build_deb
import build_pyz
from tests.conftest import WITH_PACKAGES
from tests.packaging.shell_guest import guest as guest
from tests.packaging.shell_guest import habets as habets
from tests.packaging.shell_guest import shell as shell
from tests.packaging.support import need

HEAVY = [
    "test_ansible.py",
    "test_booted.py",
    "test_docs.py",
    "test_metrics_units.py",
    "test_old_systemd_runs.py",
    "test_packages.py",
    "test_xen_drop_in.py",
]
collect_ignore = [] if WITH_PACKAGES else HEAVY


@pytest.fixture(scope="session")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """garp-agent.pyz of this tree, compiled for every interpreter of this machine."""
    target = tmp_path_factory.mktemp("pyz") / "garp-agent.pyz"
    build_pyz.build(target, build_pyz.interpreters())
    return target


@pytest.fixture(scope="session")
def debs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The Debian packages of this tree by name; "earlier" is garp-agent of a lower version."""
    need("dh", "debhelper")
    need("dh_python3", "dh-python")
    need("pandoc", "pandoc")
    folder = tmp_path_factory.mktemp("debs")
    made = build_deb.build(folder, build_pyz.VERSION)
    earlier = build_deb.build(folder / "earlier", f"{build_pyz.VERSION}~earlier")
    return {
        **{path.name.partition("_")[0]: path for path in made},
        "earlier": next(path for path in earlier if path.name.startswith("garp-agent_")),
    }
