"""Things that several of these tests build or need once."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import LEFT_OUT
from tests.packaging.support import ROOT

HERE = Path(__file__).parent
HEAVY = {f"test_{name}.py" for name in ("booted", "cloud_init", "deb", "docs", "openrc", "rpm")}
WHY_NOT = "take a packager's tools and a quarter of an hour: make test-packages"
WANTED = os.environ.get("GARP_AGENT_PACKAGES", "") not in ("", "0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the heavy ones out, unless GARP_AGENT_PACKAGES=1 asks for them."""
    heavy = [item for item in items if item.path.parent == HERE and item.path.name in HEAVY]
    if heavy and not WANTED:
        items[:] = [item for item in items if item not in heavy]
        config.hook.pytest_deselected(items=heavy)
        config.stash[LEFT_OUT] = f"{len(heavy)} tests of packages, which {WHY_NOT}"


def tool(name: str) -> ModuleType:
    """A program of tools/ as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def build_pyz() -> ModuleType:
    """tools/build_pyz.py"""
    return tool("build_pyz")


@pytest.fixture(scope="session")
def pyz(build_pyz: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """garp-agent.pyz, built from this tree for every interpreter that there is."""
    target = tmp_path_factory.mktemp("pyz") / "garp-agent.pyz"
    build_pyz.build(target, build_pyz.interpreters())
    return target
