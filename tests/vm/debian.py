"""Packages of the Debian archive, by an apt with a configuration of its own.

Downloads and unpacks; installs nothing. The machine's own sources and lists stay as they are.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.vm.cache import CACHE

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
APT_CONFIGURATION = """
Dir::Etc::SourceList "{home}/sources.list";
Dir::Etc::SourceParts "-";
Dir::Etc::Parts "/dev/null";
Dir::State::Lists "{home}/lists";
Dir::State::Status "{home}/status";
Dir::Cache "{home}/cache";
APT::Architecture "amd64";
APT::Architectures "amd64";
APT::Sandbox::User "root";
Acquire::Languages "none";
"""


class ImageError(Exception):
    """An image cannot be built on this machine."""


def run(*command: str | Path, folder: Path | None = None, **environment: str) -> str:
    """Return what a command prints. Raises ImageError if it fails."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C", **environment},
    )
    if done.returncode:
        raise ImageError(f"{' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout


def mirror() -> str:
    """Return GARP_VM_MIRROR, or else the Debian archive that this machine's apt uses."""
    if named := os.environ.get("GARP_VM_MIRROR"):
        return named
    listing = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages")
    for uri in sorted(listing.split()):
        if uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/")
    raise ImageError("apt has no Debian archive on this machine: name one in GARP_VM_MIRROR")


class Archive:
    """One suite of the Debian archive."""

    def __init__(self, suite: str) -> None:
        self._suite = suite
        self._home = CACHE / f"apt-{suite}"
        for folder in ("lists/partial", "cache/archives/partial"):
            (self._home / folder).mkdir(parents=True, exist_ok=True)
        (self._home / "status").touch()
        source = f"deb [arch=amd64 signed-by={KEYRING}] {mirror()} {suite} main\n"
        (self._home / "sources.list").write_text(source)
        (self._home / "apt.conf").write_text(APT_CONFIGURATION.format(home=self._home))

    def newest_kernel(self, metapackage: str) -> str:
        """Return the package that a kernel's metapackage depends on."""
        self._update_once()
        listing = self._apt("apt-cache", "depends", metapackage)
        if found := re.search(r"Depends: (linux-image-\S+)", listing):
            return found[1]
        raise ImageError(f"{metapackage} of {self._suite} names no image:\n{listing}")

    def unpack(self, packages: Iterable[str], to: Path, *, with_dependencies: bool) -> None:
        """Unpack packages, which are downloaded at the first call and then kept."""
        kept = self._home / "kept" / hashlib.sha256(repr(sorted(packages)).encode()).hexdigest()
        if not kept.exists():
            self._download(packages, kept, with_dependencies=with_dependencies)
        for package in sorted(kept.glob("*.deb")):
            run("dpkg", "-x", package, to)

    def _download(self, packages: Iterable[str], to: Path, *, with_dependencies: bool) -> None:
        self._update_once()
        archives = self._home / "cache" / "archives"
        shutil.rmtree(archives, ignore_errors=True)
        (archives / "partial").mkdir(parents=True)
        if with_dependencies:
            fetch = ("install", "--download-only", "--no-install-recommends", "-y")
            self._apt("apt-get", *fetch, *packages)
        else:
            self._apt("apt-get", "download", *packages, folder=archives)
        to.parent.mkdir(exist_ok=True)
        archives.rename(to)

    def _update_once(self) -> None:
        if not any(self._home.glob("lists/*Packages*")):
            self._apt("apt-get", "update")

    def _apt(self, *command: str, folder: Path | None = None) -> str:
        return run(*command, folder=folder, APT_CONFIG=str(self._home / "apt.conf"))
