#!/usr/bin/env python3
"""Build garp-agent_VERSION_all.deb and garp-hint_VERSION_all.deb into dist/.

The build runs in a copy of this tree, with contrib/debian as debian/.  It needs the Debian
packages debhelper, dh-python, pandoc, python3-click and python3-yaml.  Two builds of one commit
give the same bytes: every date in the packages is that of SOURCE_DATE_EPOCH, by default that of the
commit (https://reproducible-builds.org/specs/source-date-epoch/).
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
import textwrap
from pathlib import Path

from build_pyz import ROOT, VERSION
from source_date import source_date


def changelog(version: str, date: int) -> str:
    """Return debian/changelog: the newest section of CHANGELOG.md, wrapped as lintian wants."""
    newest = (ROOT / "CHANGELOG.md").read_text().split("\n## ")[1]
    items = re.findall(r"^- (.*(?:\n  .*)*)", newest, re.MULTILINE)
    wrapper = textwrap.TextWrapper(78, initial_indent="  * ", subsequent_indent="    ")
    changes = "\n".join(wrapper.fill(" ".join(each.split())) for each in items)
    maintainer = "garp-agent maintainers <maintainers@users.noreply.github.com>"
    head = f"garp-agent ({version}) unstable; urgency=medium"
    return f"{head}\n\n{changes}\n\n -- {maintainer}  {email.utils.formatdate(date)}\n"


def build(to: Path, version: str) -> list[Path]:
    """Build the packages; return their paths.  Exits with the output of a failed build."""
    if shutil.which("dpkg-buildpackage") is None or shutil.which("dh") is None:
        sys.exit("build_deb: needs the Debian packages dpkg-dev and debhelper")
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / f"garp-agent-{version}"
        ignore = shutil.ignore_patterns("__pycache__")
        for name in ("agent", "contrib", "docs", "tools"):
            shutil.copytree(ROOT / name, tree / name, ignore=ignore)
        for name in ("README.md", "LICENSE"):
            shutil.copy(ROOT / name, tree)
        shutil.copytree(ROOT / "contrib" / "debian", tree / "debian")
        date = source_date()
        (tree / "debian" / "changelog").write_text(changelog(version, date))
        # The interpreter of the system builds the package, not one that a user put into PATH.
        environment = {
            **os.environ,
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "SOURCE_DATE_EPOCH": str(date),
        }
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
            environment.pop(name, None)
        command = ["dpkg-buildpackage", "-b", "-us", "-uc"]
        done = subprocess.run(
            command, cwd=tree, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"build_deb: {done.stdout}{done.stderr}")
        to.mkdir(parents=True, exist_ok=True)
        return [Path(shutil.copy(made, to)) for made in sorted(Path(scratch).glob("*.deb"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist")
    for path in build(parser.parse_args().output, VERSION):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
