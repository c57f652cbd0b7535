#!/usr/bin/env python3
"""Builds garp-agent_VERSION_all.deb and garp-hint_VERSION_all.deb into dist/.

Copies what belongs to the project to a scratch folder, puts contrib/debian where
dpkg-buildpackage looks for it, and writes the changelog from CHANGELOG.md.  Needs the Debian
packages debhelper, dh-python, python3-click and python3-yaml.
"""

from __future__ import annotations

import argparse
import email.utils
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WANTED = ("agent", "contrib", "docs", "tools", "README.md", "LICENSE", "CHANGELOG.md")
MAINTAINER = "garp-agent maintainers <maintainers@users.noreply.github.com>"


class BuildError(Exception):
    """It cannot be built here, and why."""


def version() -> str:
    """This tree's version."""
    text = (ROOT / "agent" / "garp_agent" / "__init__.py").read_text()
    return str(re.findall(r'__version__ = "(.*)"', text)[0])


def changes() -> list[str]:
    """The operator's view of the newest version, one item a line."""
    path = ROOT / "CHANGELOG.md"
    text = path.read_text() if path.exists() else ""
    newest = re.split(r"^## ", text, flags=re.MULTILINE)[1:2]
    return re.findall(r"^- (.*)$", newest[0], re.MULTILINE)[:20] if newest else []


def changelog(number: str) -> str:
    """debian/changelog."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    date = email.utils.formatdate(float(epoch) if epoch else None, localtime=False)
    date = date.replace("-0000", "+0000")
    items = [_wrapped(item) for item in changes()] or ["  * New version."]
    lines = [f"garp-agent ({number}) unstable; urgency=medium", "", *items, ""]
    return "\n".join([*lines, f" -- {MAINTAINER}  {date}", ""])


def _wrapped(item: str) -> str:
    words = item.replace("`", "").replace("**", "").split()
    lines, line = [], "  *"
    for word in words:
        if len(line) + len(word) > 78:
            lines.append(line)
            line = "   "
        line += f" {word}"
    return "\n".join([*lines, line])


def build(to: Path, number: str) -> list[Path]:
    """Build the packages; where they are."""
    if shutil.which("dpkg-buildpackage") is None or shutil.which("dh") is None:
        raise BuildError("dpkg-buildpackage and dh are needed: Debian packages dpkg-dev, debhelper")
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / f"garp-agent-{number}"
        _copy(tree)
        shutil.copytree(ROOT / "contrib" / "debian", tree / "debian")
        (tree / "debian" / "changelog").write_text(changelog(number))
        # An interpreter of one's own in PATH must not be the one that the package is built with.
        environment = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(name, None)
        done = subprocess.run(
            ["dpkg-buildpackage", "-b", "-us", "-uc"],
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise BuildError(done.stdout)
        to.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copy(made, to)) for made in sorted(Path(scratch).glob("*.deb"))]


def _copy(tree: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in WANTED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=ignore)
        elif source.exists():
            shutil.copy(source, tree / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--version", default=version(), help="of the packages, to try upgrades")
    arguments = parser.parse_args()
    try:
        made = build(arguments.output, arguments.version)
    except BuildError as error:
        sys.exit(f"build_deb: {error}")
    for path in made:
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
