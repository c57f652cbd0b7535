#!/usr/bin/env python3
"""Build everything that a release consists of into one folder, with checksums and an SBOM.

    garp_agent-VERSION.tar.gz, .whl   for PyPI
    garp-agent.pyz                    one file for a bare Python
    garp-agent_*.deb, garp-hint_*.deb Debian and Ubuntu
    garp-agent-*.src.rpm              Fedora and RHEL: `rpmbuild --rebuild` there, because the
                                      packages contain the paths of the distribution's Python
    garp-agent.cdx.json               software bill of materials (CycloneDX): what each may contain
    SHA256SUMS                        of all others

The interpreter needs the packages of the extra `release` (`make release` installs them).  Every
program that it runs must succeed: nothing is left out silently.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from build_pyz import ROOT, VERSION
from source_date import source_date

SPEC = ROOT / "contrib" / "rpm" / "garp-agent.spec"


def run(*command: str | Path) -> None:
    """Run a program with the date of the release; exits with its output if it fails."""
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(source_date())}
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"release: {' '.join(words)} failed:\n{done.stdout}{done.stderr}")


def build_python(to: Path) -> None:
    """Build the sdist and the wheel, and check both as an index would."""
    run(sys.executable, "-m", "build", "-q", "-o", to)
    made = sorted(to.glob("garp_agent-*"))
    run(sys.executable, "-m", "twine", "check", "--strict", *made)
    run(sys.executable, "-m", "check_wheel_contents", *to.glob("*.whl"))


def build_source_rpm(to: Path) -> None:
    """Build the source package from the tree as it is committed."""
    # rpm puts the path into the package, so it is always the same one.
    scratch = "/tmp/garp-agent-source-rpm"
    os.mkdir(scratch, 0o700)  # fails where somebody else has put one
    try:
        name = f"garp-agent-{VERSION}"
        archive = Path(scratch) / f"{name}.tar.gz"
        run("git", "archive", f"--prefix={name}/", "-o", archive, "HEAD")
        shutil.copy(SPEC, scratch)
        for path in Path(scratch).iterdir():
            os.utime(path, (source_date(), source_date()))
        macros = (
            *(f"_sourcedir {scratch}", f"_topdir {scratch}", f"_srcrpmdir {to}"),
            *("use_source_date_epoch_as_buildtime 1", "_buildhost localhost"),
        )
        defined = [word for macro in macros for word in ("--define", macro)]
        run("rpmbuild", "-bs", "--nodeps", *defined, f"{scratch}/{SPEC.name}")
    finally:
        shutil.rmtree(scratch)


def write_bill_of_materials(to: Path) -> None:
    """List the project and what it depends on, from an environment that has only these."""
    with tempfile.TemporaryDirectory() as scratch:
        python = Path(scratch) / "bin" / "python"
        run(sys.executable, "-m", "venv", scratch)
        run(python, "-m", "pip", "install", "-q", *to.glob("*.whl"))
        run(python, "-m", "pip", "uninstall", "-q", "-y", "setuptools", "pip")
        command = (sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible")
        output = to / "garp-agent.cdx.json"
        run(*command, "--pyproject", ROOT / "pyproject.toml", "-o", output, python)


def write_checksums(to: Path) -> None:
    """Write SHA256SUMS in the form that `sha256sum -c` reads."""
    files = sorted(path for path in to.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (to / "SHA256SUMS").write_text("".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist" / "release")
    to = parser.parse_args().output.resolve()
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    build_python(to)
    run(sys.executable, ROOT / "tools" / "build_pyz.py", "-o", to / "garp-agent.pyz")
    run(sys.executable, ROOT / "tools" / "build_deb.py", "-o", to)
    build_source_rpm(to)
    write_bill_of_materials(to)
    write_checksums(to)
    print((to / "SHA256SUMS").read_text(), end="")


if __name__ == "__main__":
    main()
