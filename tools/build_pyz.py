#!/usr/bin/env python3
"""Build dist/garp-agent.pyz: garp-agent and garp-hint in one file, for a bare Python >= 3.6.

The file is a shell script and, behind it, a zip archive:

    source/         the package, click and yaml (pure Python), for Python 3.9 and newer
    source-3.6/     the same for Python 3.6 to 3.8: rewritten by old_python.py, older click and yaml
    cpython-3XX/    one of the two, compiled for an interpreter of the building machine

The script finds an interpreter and starts it with -E and -s, because a daemon of root must not read
PYTHONPATH.  (-I is the same, but Python 2.7 does not know it, and has to say that it is too old.)
It starts the daemons (`run`, garp-hint's `watch`) with -S too: they import nothing outside of the
archive, and looking through site-packages takes longer than all the rest.  `python3 garp-agent.pyz`
works as well, more slowly.

The same tree and the same interpreters to compile for give the same bytes, whichever builds.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import old_python

ROOT = Path(__file__).resolve().parents[1]
VERSION = re.findall('__version__ = "(.*)"', (ROOT / "agent/garp_agent/__init__.py").read_text())[0]
# The folders for Python 3.9 and newer, and for Python 3.6 and newer.
SOURCE = "source"
OLD_SOURCE = "source-3.6"
VENDORED = {
    SOURCE: ROOT / "tools" / "pyz-vendored.txt",
    OLD_SOURCE: ROOT / "tools" / "pyz-vendored-3.6.txt",
}
LICENCES = ("LICENSE", "LICENSE.rst", "LICENSE.txt")
STARTER = "garp_agent_starter"
# The last one is that of RHEL 8, for its own programs: /usr/bin/python3 may be missing there.
NAMES = " ".join(
    [*(f"python3.{minor}" for minor in range(19, 5, -1)), "/usr/libexec/platform-python"]
)
# What `garp-agent run` imports.
STORED = re.compile(
    r"[^/]+/garp_agent/((guest|config|runtime|wire)/.*|[a-z_]+)\.pyc|" f"{STARTER}.py"
)

START = rf"""#!/bin/sh
# garp-agent {VERSION}: one file for Python 3.6 or newer, made by tools/build_pyz.py.
# This shell script finds an interpreter.  A zip archive follows.
# Under a name that begins with garp-hint it is the hypervisor's program.
# Only the two daemons run without site-packages: `doctor` uses netifaces if it is there.
case ${{0##*/}}:${{1:-}} in
*:run | garp-hint*:watch) flags=-EsS ;;
*) flags=-Es ;;
esac
for python in ${{GARP_PYTHON:-python3 {NAMES}}}; do
    command -v "$python" >/dev/null 2>&1 &&
        exec "$python" $flags -c 'import sys
sys.path[0] = sys.argv[1]
import {STARTER} as starter
starter.main()' "$0" "$@"
done
echo "garp-agent: needs Python 3.6 or newer, and ${{GARP_PYTHON:-python3}} is not there" >&2
exit 127
"""
# For any Python from 2.7 on: it says why this one does not do.
STARTER_SOURCE = """\
import sys


def main():
    archive = sys.argv[1]
    is_agent = not archive.rpartition("/")[2].startswith("garp-hint")
    program = "garp-agent" if is_agent else "garp-hint"
    here = "Python " + sys.version.split()[0] + " (" + sys.executable + ")"
    if sys.version_info < (3, 6):
        start_a_newer_one(archive)
        fail(program + ": needs Python 3.6 or newer, and this is " + here)
    sources = ["source", "source-3.6"][sys.version_info < (3, 9):]
    sys.path[:1] = [archive + "/" + name for name in [sys.implementation.cache_tag] + sources]
    sys.argv[:2] = [archive]
    try:
        if is_agent:
            from garp_agent.__main__ import main
        else:
            from garp_agent.hypervisor.__main__ import main
        main()
    except ImportError as error:
        if (error.name or "garp_agent").startswith("garp_agent"):
            raise
        fail(program + ": " + here + ": " + str(error) + "; install all of Python's own modules "
             "(on Debian the package python3, not only python3-minimal)")


def fail(text):
    sys.stderr.write(text + chr(10))
    sys.exit(127)


def start_a_newer_one(archive):
    import os

    for name in "@NAMES@".split():
        if os.system(name + " -c '' 2>/dev/null") == 0:
            os.execvp(name, [name, "-I", archive] + sys.argv[2:])
""".replace("@NAMES@", NAMES)
# For `python3 garp-agent.pyz`.
MAIN = f"""\
import sys

import {STARTER}

sys.argv.insert(0, "")
{STARTER}.main()
"""
# Python 3.6 writes the time of the file, and knows no other way.
COMPILE = """
import os, pathlib, py_compile, sys
top = pathlib.Path(sys.argv[1])
how = {}
if sys.version_info >= (3, 7):
    how["invalidation_mode"] = py_compile.PycInvalidationMode.UNCHECKED_HASH
for path in sorted(top.rglob("*.py")):
    os.utime(str(path), (0, 0))
    py_compile.compile(str(path), str(path.with_suffix(".pyc")), str(path.relative_to(top)), True,
                       **how)
    path.unlink()
"""


def run(*command: str | Path) -> str:
    """Return what a command prints.  Exits with its message if it fails.

    Sets have one order: Python before 3.11 writes a constant set in the order that it has.
    """
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"build_pyz: {' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout


def interpreters() -> list[tuple[str, str]]:
    """Return (cache tag, path) of each CPython of this machine, one for each version from 3.6."""
    found = map(str.split, run(ROOT / "tools" / "setup.sh", "pythons", "6").splitlines())
    return [(f"cpython-{version.replace('.', '')}", path) for version, path in found]


def unpack_vendored(requirements: Path, to: Path) -> None:
    """Unpack click and yaml, without its compiled part; keep the wheels in .cache."""
    text = requirements.read_text()
    wheels = ROOT / ".cache" / f"pyz-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    wheels.parent.mkdir(exist_ok=True)
    with open(wheels.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another build may download at the same time
        if len(list(wheels.glob("*.whl"))) != text.count("=="):
            shutil.rmtree(wheels, ignore_errors=True)
            pip = (sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check")
            platform = ("--python-version", "3.11", "--platform", "manylinux2014_x86_64")
            only = ("--only-binary", ":all:", "--no-deps", "--require-hashes")
            run(*pip, *platform, *only, "-r", requirements, "-d", wheels)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                package = name.split("/")[0]
                if package in ("click", "yaml") and name.endswith(".py"):
                    archive.extract(name, to)
                elif "licenses/" in name or name.endswith(LICENCES):
                    # Both licences ask for their text.
                    licence = to / "licenses" / f"{package.partition('-')[0].lower()}.txt"
                    licence.parent.mkdir(exist_ok=True)
                    licence.write_bytes(archive.read(name))


def build(
    target: Path,
    chosen: Sequence[tuple[str, str]],
    sources: Sequence[str] = (SOURCE, OLD_SOURCE),
) -> None:
    """Write the file, with code compiled by the chosen interpreters.

    ``sources``: OLD_SOURCE alone does for every Python, and makes the file smaller.
    """
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch)
        for source in sources:
            fill(top / source, VENDORED[source])
        make_older(top / OLD_SOURCE)
        for tag, python in chosen:
            source = SOURCE if int(tag.partition("-3")[2]) >= 9 else OLD_SOURCE
            shutil.copytree(top / source, top / tag, ignore=shutil.ignore_patterns("licenses"))
            run(python, "-sSc", COMPILE, top / tag)
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


def fill(folder: Path, requirements: Path) -> None:
    """Put the package, what `garp-agent install` installs, click and yaml into a folder."""
    package = folder / "garp_agent"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "agent" / "garp_agent", package, ignore=ignore)
    for name in ("systemd", "udev"):
        shutil.copytree(ROOT / "contrib" / name, package / "contrib" / name)
    shutil.copy(ROOT / "contrib" / "garp-agent.yaml", package / "contrib")
    unpack_vendored(requirements, folder)


def make_older(folder: Path) -> None:
    """Change what Python 3.6 cannot run."""
    for path in (folder / "garp_agent").rglob("*.py"):
        path.write_text(old_python.rewritten(path.read_text()))
    # click ends the program if the locale is C, because ASCII might not be what is meant.
    (folder / "click" / "_unicodefun.py").write_text("_verify_python_env = int\n")


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
