#!/usr/bin/env python3
"""Builds dist/garp-agent.pyz: garp-agent and garp-hint in one file, for a bare Python >= 3.9.

The file is a shell script followed by a zip archive:

    source/         the package, click and yaml (pure Python), for interpreters not listed below
    cpython-3XX/    the same, compiled by and for that interpreter

The script part finds an interpreter and starts it with -I (a root daemon must not read
PYTHONPATH), for the daemons (`run`, garp-hint's `watch`) also with -S: nothing outside the
archive is imported then, and looking through site-packages would cost more than all else.
What `run` imports is stored uncompressed.  `python3 garp-agent.pyz` works as well, more slowly.

The same tree and the same interpreters give the same bytes.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENDORED = Path(__file__).with_name("pyz-vendored.txt")
LEAST = (3, 9)
MOST = (3, 20)
STORED = re.compile(r"[^/]+/garp_agent/((guest|config|runtime|wire)/|[a-z_]+\.pyc$)")
NOT_BY_RUN = ("read", "client", "once", "requests", "status")
DATA = ("systemd", "udev", "garp-agent.yaml")  # what `garp-agent install` installs, from contrib

START = r"""#!/bin/sh
# garp-agent @VERSION@: one file for Python 3.9 or newer; nothing else is needed.
# A shell script that finds an interpreter, and a zip archive behind it.  tools/build_pyz.py
# Called by a name that begins with garp-hint it is the hypervisor's end.
# Only the two daemons do without site-packages: `garp-agent watch` and `doctor` need scapy.
case ${0##*/}:${1:-} in
*:run | garp-hint*:watch) flags=-IS ;;
*) flags=-I ;;
esac
for python in ${GARP_PYTHON:-python3 @NAMES@}; do
    command -v "$python" >/dev/null 2>&1 &&
        exec "$python" $flags -c 'import sys
sys.path[:0] = sys.argv[1:2]
import @STARTER@ as starter
starter.main()' "$0" "$@"
done
echo "garp-agent: needs Python 3.9 or newer, and there is no python3" >&2
exit 127
"""

STARTER = "garp_agent_starter"
# For any Python 3: it is what says that this one is too old.
STARTER_SOURCE = """\
import sys


def main():
    archive = sys.argv[1]
    if sys.version_info < (3, 9):
        look_for_a_newer_one(archive)
        sys.exit("garp-agent: needs Python 3.9 or newer; python3 is " + sys.version.split()[0])
    sys.path[:1] = [archive + "/" + sys.implementation.cache_tag, archive + "/source"]
    sys.argv[:2] = [archive]
    if archive.rpartition("/")[2].startswith("garp-hint"):
        from garp_agent.hypervisor.__main__ import main
    else:
        from garp_agent.__main__ import main
    main()


def look_for_a_newer_one(archive):
    import os
    import subprocess

    for minor in range(20, 8, -1):
        name = "python3.%d" % minor
        try:
            works = subprocess.call([name, "-c", ""], stderr=subprocess.DEVNULL) == 0
        except OSError:
            works = False
        if works:
            os.execvp(name, [name, "-I", archive] + sys.argv[2:])
"""
# `python3 garp-agent.pyz`
MAIN = f"""\
import sys

import {STARTER}

sys.argv.insert(0, "")
{STARTER}.main()
"""


class BuildError(Exception):
    """It cannot be built here, and why."""


def run(*command: str | Path, folder: Path | None = None) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout


def interpreters() -> list[tuple[str, str]]:
    """(cache tag, path) of each CPython from 3.9 on that is found, one of each minor version."""
    places = [Path(place) for place in os.environ.get("PATH", "").split(":")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    places += sorted(pyenv.glob("versions/*/bin"))
    found: dict[str, str] = {sys.implementation.cache_tag or "": sys.executable}
    for minor in range(LEAST[1], MOST[1]):
        for place in places:
            program = place / f"python{LEAST[0]}.{minor}"
            tag = f"cpython-{LEAST[0]}{minor}"
            if tag not in found and os.access(program, os.X_OK) and _is(program, tag):
                found[tag] = str(program)
    return sorted(found.items())


def _is(program: Path, tag: str) -> bool:
    """Whether it runs and is what its name says: pyenv puts stand-ins into PATH."""
    script = "import sys; print(sys.implementation.cache_tag)"
    done = subprocess.run([program, "-ISc", script], capture_output=True, text=True, check=False)
    return done.stdout.strip() == tag


def download(wheels: Path) -> None:
    """What is vendored into a folder, unless it is there."""
    wanted = len(re.findall("^[a-z]", VENDORED.read_text(), re.MULTILINE))
    if len(list(wheels.glob("*.whl"))) != wanted:
        shutil.rmtree(wheels, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        platform = ["--python-version", "3.11", "--platform", "manylinux2014_x86_64"]
        only = ["--only-binary", ":all:", "--no-deps", "--require-hashes"]
        run(*pip, *platform, *only, "-r", VENDORED, "-d", wheels)


def vendored(to: Path) -> None:
    """Unpack click and yaml without its compiled part; kept in .cache for the next time."""
    wheels = ROOT / ".cache" / "pyz"
    wheels.parent.mkdir(exist_ok=True)
    with open(wheels.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # somebody else may be about it
        download(wheels)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                package = name.split("/")[0]
                # Both are under licences that ask for their text.
                if package in ("click", "yaml") and name.endswith(".py"):
                    archive.extract(name, to)
                elif "licenses/" in name or name.endswith(("LICENSE", "LICENSE.txt")):
                    place = to / "licenses" / f"{package.partition('-')[0]}.txt"
                    place.parent.mkdir(exist_ok=True)
                    place.write_bytes(archive.read(name))


def source_tree(to: Path) -> None:
    """The package with what it installs, and what it needs."""
    package = to / "garp_agent"
    shutil.copytree(
        ROOT / "agent" / "garp_agent", package, ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in DATA:
        source, target = ROOT / "contrib" / name, package / "contrib" / name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(exist_ok=True)
            shutil.copy(source, target)
    vendored(to)


COMPILE = """
import pathlib, py_compile, sys
top = pathlib.Path(sys.argv[1])
for path in sorted(top.rglob("*.py")):
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(path, path.with_suffix(".pyc"), str(path.relative_to(top)), True,
                       invalidation_mode=mode)
    path.unlink()
"""


def build(target: Path, chosen: Sequence[tuple[str, str]]) -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(scratch) / "zip"
        source_tree(top / "source")
        for tag, python in chosen:
            shutil.copytree(top / "source", top / tag, ignore=shutil.ignore_patterns("licenses"))
            run(python, "-ISc", COMPILE, top / tag)
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(target.name + ".unfinished")
        with unfinished.open("wb") as file:
            file.write(_start().encode())
            _zip(file, top)
        unfinished.chmod(0o755)
        unfinished.replace(target)


def _start() -> str:
    names = " ".join(f"python3.{minor}" for minor in range(MOST[1] - 1, LEAST[1] - 1, -1))
    start = START.replace("@VERSION@", version()).replace("@NAMES@", names)
    return start.replace("@STARTER@", STARTER)


def _zip(file: object, top: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        archive.writestr(_entry("__main__.py"), MAIN)
        starter = _entry(f"{STARTER}.py")
        archive.writestr(starter, STARTER_SOURCE, zipfile.ZIP_STORED)
        for path in sorted(_files(top)):
            name = str(path.relative_to(top))
            archive.writestr(_entry(name), path.read_bytes(), _method(name))


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


def _method(name: str) -> int:
    """What `run` imports is not to be inflated at each start."""
    needed = STORED.match(name) and Path(name).stem not in NOT_BY_RUN
    is_code = name.endswith(".pyc")
    return zipfile.ZIP_STORED if needed and is_code else zipfile.ZIP_DEFLATED


def _files(top: Path) -> Iterable[Path]:
    return (path for path in top.rglob("*") if path.is_file())


def version() -> str:
    """This tree's version."""
    text = (ROOT / "agent" / "garp_agent" / "__init__.py").read_text()
    return str(re.findall(r'__version__ = "(.*)"', text)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "dist" / "garp-agent.pyz")
    output = parser.parse_args().output
    chosen = interpreters()
    try:
        build(output, chosen)
    except BuildError as error:
        sys.exit(f"build_pyz: {error}")
    size = output.stat().st_size
    print(f"{output}: {size:,} bytes; compiled for {', '.join(tag for tag, _ in chosen)}")


if __name__ == "__main__":
    main()
