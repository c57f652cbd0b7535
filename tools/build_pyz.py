#!/usr/bin/env python3
"""Build dist/garp-agent.pyz: garp-agent and garp-hint in one file, for a bare Python >= 3.9.

The file is a shell script and, behind it, a zip archive:

    source/         the package, click and yaml (pure Python), for interpreters not listed below
    cpython-3XX/    the same, compiled for that interpreter

The script finds an interpreter and starts it with -I, because a daemon of root must not read
PYTHONPATH.  It starts the daemons (`run`, garp-hint's `watch`) with -S too: they import nothing
outside of the archive, and looking through site-packages takes longer than all the rest.
`python3 garp-agent.pyz` works as well, more slowly.

The same tree and the same interpreters give the same bytes.
"""

from __future__ import annotations

import argparse
import fcntl
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VERSION = re.findall('__version__ = "(.*)"', (ROOT / "agent/garp_agent/__init__.py").read_text())[0]
VENDORED = ROOT / "tools" / "pyz-vendored.txt"
STARTER = "garp_agent_starter"
NEWEST_FIRST = " ".join(f"python3.{minor}" for minor in range(19, 8, -1))
# What `garp-agent run` imports.
STORED = re.compile(
    r"[^/]+/garp_agent/((guest|config|runtime|wire)/.*|[a-z_]+)\.pyc|" f"{STARTER}.py"
)

START = rf"""#!/bin/sh
# garp-agent {VERSION}: one file for Python 3.9 or newer, made by tools/build_pyz.py.
# This shell script finds an interpreter.  A zip archive follows.
# Under a name that begins with garp-hint it is the hypervisor's program.
# Only the two daemons run without site-packages: `watch` and `doctor` need scapy.
case ${{0##*/}}:${{1:-}} in
*:run | garp-hint*:watch) flags=-IS ;;
*) flags=-I ;;
esac
for python in ${{GARP_PYTHON:-python3 {NEWEST_FIRST}}}; do
    command -v "$python" >/dev/null 2>&1 &&
        exec "$python" $flags -c 'import sys
sys.path[:0] = sys.argv[1:2]
import {STARTER} as starter
starter.main()' "$0" "$@"
done
echo "garp-agent: needs Python 3.9 or newer, and there is no python3" >&2
exit 127
"""
# For any Python 3: it reports that this one is too old.
STARTER_SOURCE = """\
import sys


def main():
    archive = sys.argv[1]
    if sys.version_info < (3, 9):
        start_a_newer_one(archive)
        sys.exit("garp-agent: needs Python 3.9 or newer; python3 is " + sys.version.split()[0])
    sys.path[:1] = [archive + "/" + sys.implementation.cache_tag, archive + "/source"]
    sys.argv[:2] = [archive]
    if archive.rpartition("/")[2].startswith("garp-hint"):
        from garp_agent.hypervisor.__main__ import main
    else:
        from garp_agent.__main__ import main
    main()


def start_a_newer_one(archive):
    import os
    import subprocess

    for name in "@NAMES@".split():
        try:
            works = subprocess.call([name, "-c", ""], stderr=subprocess.DEVNULL) == 0
        except OSError:
            works = False
        if works:
            os.execvp(name, [name, "-I", archive] + sys.argv[2:])
""".replace("@NAMES@", NEWEST_FIRST)
# For `python3 garp-agent.pyz`.
MAIN = f"""\
import sys

import {STARTER}

sys.argv.insert(0, "")
{STARTER}.main()
"""
COMPILE = """
import pathlib, py_compile, sys
top = pathlib.Path(sys.argv[1])
for path in sorted(top.rglob("*.py")):
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(path, path.with_suffix(".pyc"), str(path.relative_to(top)), True,
                       invalidation_mode=mode)
    path.unlink()
"""


def run(*command: str | Path) -> str:
    """Return what a command prints.  Exits with its message if it fails."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"build_pyz: {' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout


def interpreters() -> list[tuple[str, str]]:
    """Return (cache tag, path) of each CPython of this machine, one for each version from 3.9."""
    found = map(str.split, run(ROOT / "tools" / "setup.sh", "pythons").splitlines())
    return [(f"cpython-{version.replace('.', '')}", path) for version, path in found]


def unpack_vendored(to: Path) -> None:
    """Unpack click and yaml, without its compiled part; keep the wheels in .cache."""
    wheels = ROOT / ".cache" / "pyz"
    wheels.parent.mkdir(exist_ok=True)
    with open(wheels.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another build may download at the same time
        if len(list(wheels.glob("*.whl"))) != VENDORED.read_text().count("=="):
            shutil.rmtree(wheels, ignore_errors=True)
            pip = (sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check")
            platform = ("--python-version", "3.11", "--platform", "manylinux2014_x86_64")
            only = ("--only-binary", ":all:", "--no-deps", "--require-hashes")
            run(*pip, *platform, *only, "-r", VENDORED, "-d", wheels)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                package = name.split("/")[0]
                if package in ("click", "yaml") and name.endswith(".py"):
                    archive.extract(name, to)
                elif "licenses/" in name or name.endswith(("LICENSE", "LICENSE.txt")):
                    # Both licences ask for their text.
                    licence = to / "licenses" / f"{package.partition('-')[0]}.txt"
                    licence.parent.mkdir(exist_ok=True)
                    licence.write_bytes(archive.read(name))


def build(target: Path, chosen: Sequence[tuple[str, str]]) -> None:
    """Write the file, with code compiled by the chosen interpreters."""
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        package = top / "source" / "garp_agent"
        ignore = shutil.ignore_patterns("__pycache__", "licenses")
        shutil.copytree(ROOT / "agent" / "garp_agent", package, ignore=ignore)
        for name in ("systemd", "udev"):  # what `garp-agent install` installs
            shutil.copytree(ROOT / "contrib" / name, package / "contrib" / name)
        shutil.copy(ROOT / "contrib" / "garp-agent.yaml", package / "contrib")
        unpack_vendored(top / "source")
        for tag, python in chosen:
            shutil.copytree(top / "source", top / tag, ignore=ignore)
            run(python, "-ISc", COMPILE, top / tag)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(target.name + ".unfinished")
        unfinished.write_bytes(START.encode())
        with zipfile.ZipFile(unfinished, "a") as archive:
            add(archive, "__main__.py", MAIN.encode())
            add(archive, f"{STARTER}.py", STARTER_SOURCE.encode())
            for path in sorted(path for path in top.rglob("*") if path.is_file()):
                add(archive, str(path.relative_to(top)), path.read_bytes())
        unfinished.chmod(0o755)
        unfinished.replace(target)


def add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a file with a fixed date.  Inflating what `run` imports would delay each start."""
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    stored = STORED.fullmatch(name)
    archive.writestr(entry, data, zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist" / "garp-agent.pyz")
    output = parser.parse_args().output
    chosen = interpreters()
    build(output, chosen)
    size = output.stat().st_size
    print(f"{output}: {size:,} bytes; compiled for {', '.join(tag for tag, _ in chosen)}")


if __name__ == "__main__":
    main()
