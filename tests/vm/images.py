"""Kernels and root file systems for the guests, made from Debian packages.

Everything lies under ``.cache/vm`` (git-ignored): the packages as downloaded, by a
private apt which leaves the machine's own sources and lists alone, and what is
built from them, named by a hash of its recipe.  After the first build no network is
needed, and a changed recipe needs none either while its packages are there.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import lzma
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.vm import initramfs

ROOT = Path(__file__).resolve().parents[2]
GUEST_INIT = Path(__file__).with_name("guest_init.sh")
GUEST_PROGRAMS = sorted(Path(__file__).parent.glob("guest_*.py"))
CACHE = Path(os.environ.get("GARP_VM_CACHE", ROOT / ".cache" / "vm"))
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
USERLAND_SUITE = "bookworm"
PYTHON = "python3.11"

TOOLS = ("qemu-system-x86_64", "dpkg", "apt-get", "setpriv")


class ImageError(Exception):
    """An image cannot be built here, and why."""


def mirror() -> str:
    """GARP_VM_MIRROR, or the Debian archive that this machine's own apt uses."""
    if named := os.environ.get("GARP_VM_MIRROR"):
        return named
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for uri in sorted(done.stdout.split()):
        if uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/")
    raise ImageError("apt knows no Debian archive here; name one in GARP_VM_MIRROR")


class KernelSource(NamedTuple):
    """Where a kernel comes from."""

    suite: str
    metapackage: str


KERNELS = {
    "bookworm-cloud": KernelSource("bookworm", "linux-image-cloud-amd64"),
    "bookworm": KernelSource("bookworm", "linux-image-amd64"),
    "trixie-cloud": KernelSource("trixie", "linux-image-cloud-amd64"),
}
DEFAULT_KERNEL = "bookworm-cloud"

# Modules that any test may ask for; what they depend on comes along.
MODULES = [
    "virtio_pci",
    "virtio_net",
    "virtio_console",
    "e1000",
    "e1000e",
    "8021q",
    "bonding",
    "bridge",
    "br_netfilter",
    "veth",
    "dummy",
    "macvlan",
    "ipvlan",
    "vxlan",
    "vrf",
    "tun",
    "team",
    "team_mode_activebackup",
    "team_mode_broadcast",
]
BOOT_MODULES = ("virtio_pci", "virtio_net", "virtio_console")

USERLAND = {
    "busybox-static": ("bin/busybox",),
    "dash": ("bin/dash",),
    "python3.11-minimal": (f"usr/bin/{PYTHON}",),
    "libpython3.11-stdlib": (),
    "python3-click": (),
    "python3-yaml": (),
    "iproute2": ("bin/ip", "sbin/bridge"),
    "iputils-arping": ("usr/bin/arping",),
}
EXTRAS = {
    "keepalived": ("usr/sbin/keepalived",),
    "qemu-guest-agent": ("usr/sbin/qemu-ga",),
    "libteam-utils": ("usr/bin/teamd", "usr/bin/teamdctl", "usr/bin/teamnl"),
}
LIBVIRT = (
    "libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 "
    "iproute2 python3.11 python3-click python3-yaml dash coreutils mount"
)
APPLETS = [
    "cat",
    "chmod",
    "cp",
    "grep",
    "insmod",
    "kill",
    "ls",
    "mkdir",
    "mount",
    "ps",
    "rm",
    "sed",
    "sleep",
    "sync",
    "umount",
    "uname",
]
LEFT_OUT_OF_PYTHON = (
    "test ensurepip idlelib lib2to3 tkinter turtledemo pydoc_data distutils "
    "unittest sqlite3 dbm curses wsgiref xmlrpc venv turtle.py pydoc.py _pydecimal.py "
    f"config-{PYTHON[6:]}-x86_64-linux-gnu"
).split()
# Extension modules whose libraries are large, or which nothing here imports.
LEFT_OUT_OF_EXTENSIONS = [
    "_codecs_",
    "_crypt",
    "_ctypes_test",
    "_curses",
    "_dbm",
    "_hashlib",
    "_sqlite3",
    "_ssl",
    "_test",
    "_xxtestfuzz",
    "nis",
    "readline",
    "xxlimited",
]


class Kernel(NamedTuple):
    """A kernel to boot, and its modules by name."""

    name: str
    image: Path
    modules: Path
    dependencies: dict[str, list[str]]  # each module's own needs

    def in_order(self, wanted: Iterable[str]) -> list[str]:
        """The modules to insert, needs before what needs them; built-in ones left out."""
        ordered: list[str] = []

        def visit(module: str) -> None:
            for needed in self.dependencies.get(module, ()):
                visit(needed)
            if module in self.dependencies and module not in ordered:
                ordered.append(module)

        for module in wanted:
            visit(module)
        return ordered


def missing_tool() -> str:
    """Why no guest can be built or run on this machine; empty if one can."""
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not KEYRING.exists():
        return f"{KEYRING} is missing (package debian-archive-keyring)"
    return ""


@functools.cache
def kernel(name: str = DEFAULT_KERNEL) -> Kernel:
    """The kernel of this name, unpacked."""
    source = KERNELS[name]
    place = _built(f"kernel-{name}", [*source, *MODULES], lambda to: _build_kernel(source, to))
    return Kernel(
        name,
        place / "vmlinux",
        place / "modules",
        json.loads((place / "dependencies.json").read_text()),
    )


@functools.cache
def boot_archives(name: str = DEFAULT_KERNEL) -> tuple[Path, ...]:
    """What every guest unpacks: userland, modules of its kernel, and the agent as it is now."""
    userland = _built(
        "userland",
        [GUEST_INIT.read_text()],
        lambda to: _build_userland(USERLAND, to, python=True),
    )
    chosen = kernel(name)
    modules = _built(
        f"modules-{name}",
        [str(chosen.modules), *BOOT_MODULES],
        lambda to: _build_module_archive(chosen, to),
    )
    sources = sorted((ROOT / "agent" / "garp_agent").rglob("*.py"))
    agent = _built(
        "agent",
        [f"{path}\0{path.read_text()}" for path in [*sources, *GUEST_PROGRAMS]],
        lambda to: _build_agent_archive(userland / "unpacked", to),
        keep=4,  # another run may be about to boot with the one before
    )
    return userland / "cpio", modules / "cpio", agent / "cpio"


@functools.cache
def extras_archive() -> Path:
    """keepalived, teamd and qemu-ga, for the tests that want them."""
    place = _built("extras", [], lambda to: _build_userland(EXTRAS, to, python=False))
    return place / "cpio"


def copy_libvirt_root(to: Path) -> None:
    """A root directory with libvirtd, QEMU and the agent in it."""
    place = _built("libvirt", [], _build_libvirt_root)
    agent = boot_archives()[-1].parent / "code"
    shutil.copytree(place / "root", to, symlinks=True, copy_function=os.link)
    shutil.copytree(agent, to / "opt/garp")


# -- cache --------------------------------------------------------------------------------


@contextmanager
def locked() -> Iterator[None]:
    """Alone with the cache, among all processes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _built(
    name: str, recipe: Sequence[str], build: Callable[[Path], None], *, keep: int = 0
) -> Path:
    """The folder that ``build`` fills, built once for each recipe; ``keep`` older ones stay."""
    code = [path.read_text() for path in (Path(__file__), Path(initramfs.__file__))]
    digest = hashlib.sha256("\0".join([*recipe, *code]).encode()).hexdigest()[:16]
    place = CACHE / f"{name}-{digest}"
    if place.exists():
        return place
    with locked():
        if not place.exists():
            earlier = sorted(CACHE.glob(f"{name}-" + "?" * 16), key=os.path.getmtime)
            for old in earlier[: len(earlier) - keep]:
                shutil.rmtree(old)
            unfinished = CACHE / f"unfinished-{name}"
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            build(unfinished)
            unfinished.rename(place)
    return place


# -- packages -----------------------------------------------------------------------------


def _run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
    )
    if done.returncode:
        raise ImageError(f"{' '.join(map(str, command))}: {done.stderr or done.stdout}")
    return done.stdout


class Archive:
    """One suite of the Debian archive, through an apt of its own."""

    def __init__(self, suite: str) -> None:
        self._suite = suite
        self._home = CACHE / f"apt-{suite}"
        self._configuration = self._home / "apt.conf"
        self._configure()

    def newest(self, metapackage: str) -> str:
        """The package that a metapackage stands for."""
        self._update_once()
        listing = self._apt("apt-cache", "depends", metapackage)
        for line in listing.splitlines():
            if "Depends: linux-image-" in line:
                return line.split()[-1]
        raise ImageError(f"{metapackage} of {self._suite} names no image:\n{listing}")

    def unpack(self, packages: Iterable[str], to: Path, *, with_needs: bool) -> None:
        """The files of these packages, with those they depend on if so wished."""
        kept = self._home / "kept" / hashlib.sha256(repr(sorted(packages)).encode()).hexdigest()
        if not kept.exists():
            self._download(packages, kept, with_needs=with_needs)
        for package in sorted(kept.glob("*.deb")):
            _run("dpkg", "-x", package, to)

    def _download(self, packages: Iterable[str], to: Path, *, with_needs: bool) -> None:
        self._update_once()
        archives = self._home / "cache" / "archives"
        shutil.rmtree(archives, ignore_errors=True)
        (archives / "partial").mkdir(parents=True)
        if with_needs:
            fetch = ["install", "--download-only", "--no-install-recommends", "-y"]
            self._apt("apt-get", *fetch, *packages)
        else:
            self._apt("apt-get", "download", *packages, folder=archives)
        (archives / "partial").rmdir()
        (archives / "lock").unlink(missing_ok=True)
        to.parent.mkdir(exist_ok=True)
        archives.rename(to)

    def _update_once(self) -> None:
        if not any(self._home.glob("lists/*Packages*")):
            self._apt("apt-get", "update")

    def _apt(self, *command: str, folder: Path | None = None) -> str:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C", "APT_CONFIG": str(self._configuration)},
        )
        if done.returncode:
            raise ImageError(f"{' '.join(command)} ({self._suite}): {done.stderr}")
        return done.stdout

    def _configure(self) -> None:
        for folder in ("lists/partial", "cache/archives/partial"):
            (self._home / folder).mkdir(parents=True, exist_ok=True)
        (self._home / "status").touch()
        (self._home / "sources.list").write_text(
            f"deb [arch=amd64 signed-by={KEYRING}] {mirror()} {self._suite} main\n"
        )
        self._configuration.write_text(
            f'Dir::Etc::SourceList "{self._home}/sources.list";\n'
            'Dir::Etc::SourceParts "-";\n'
            'Dir::Etc::Parts "/dev/null";\n'
            f'Dir::State::Lists "{self._home}/lists";\n'
            f'Dir::State::Status "{self._home}/status";\n'
            f'Dir::Cache "{self._home}/cache";\n'
            'APT::Architecture "amd64";\n'
            'APT::Architectures "amd64";\n'
            'APT::Sandbox::User "root";\n'
            'Acquire::Languages "none";\n'
        )


# -- kernels ------------------------------------------------------------------------------


def _build_kernel(source: KernelSource, to: Path) -> None:
    archive = Archive(source.suite)
    package = archive.newest(source.metapackage)
    unpacked = to / "unpacked"
    archive.unpack([package], unpacked, with_needs=False)
    (bz_image,) = (unpacked / "boot").glob("vmlinuz-*")
    (to / "vmlinux").write_bytes(_without_decompressor(bz_image.read_bytes()))
    _collect_modules(unpacked, to)
    shutil.rmtree(unpacked)


def _without_decompressor(image: bytes) -> bytes:
    """The ELF file in a bzImage, which starts faster, or the bzImage where no tool can tell.

    Documentation/arch/x86/boot.rst: setup_sects, payload_offset, payload_length; the
    payload's last four bytes are its length when unpacked.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = image[start : start + length - 4]
    if payload.startswith(b"\xfd7zXZ"):
        return lzma.LZMADecompressor().decompress(payload)
    tools = {b"\x02!L\x18": "lz4", b"\x28\xb5\x2f\xfd": "zstd"}
    tool = tools.get(payload[:4], "")
    if not tool or shutil.which(tool) is None:
        return image
    done = subprocess.run([tool, "-dcq"], input=payload, capture_output=True, check=False)
    return done.stdout if done.stdout.startswith(b"\x7fELF") else image


def _collect_modules(unpacked: Path, to: Path) -> None:
    """Uncompressed copies of the wanted modules and their needs, as a flat folder."""
    found = {
        _module_name(path): path
        for path in unpacked.rglob("*.ko*")
        if path.name.endswith((".ko", ".ko.xz"))
    }
    dependencies: dict[str, list[str]] = {}
    (to / "modules").mkdir()
    waiting = [module for module in MODULES if module in found]
    while waiting:
        module = waiting.pop()
        if module in dependencies:
            continue
        content = found[module].read_bytes()
        if found[module].suffix == ".xz":
            content = lzma.decompress(content)
        (to / "modules" / f"{module}.ko").write_bytes(content)
        dependencies[module] = [need for need in _needs(content) if need in found]
        waiting += dependencies[module]
    (to / "dependencies.json").write_text(json.dumps(dependencies))


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _needs(module: bytes) -> list[str]:
    """What a module's .modinfo section says it needs: the archive ships no modules.dep."""
    start = module.index(b"\0depends=") + len(b"\0depends=")
    names = module[start : module.index(b"\0", start)].decode()
    return [name.replace("-", "_") for name in names.split(",") if name]


def _build_libvirt_root(to: Path) -> None:
    root = to / "root"
    Archive(USERLAND_SUITE).unpack(LIBVIRT.split(), root, with_needs=True)
    (root / "bin/sh").unlink(missing_ok=True)
    (root / "bin/sh").symlink_to("dash")
    (root / "usr/bin/python3").unlink(missing_ok=True)
    (root / "usr/bin/python3").symlink_to(PYTHON)


# -- archives -----------------------------------------------------------------------------


def _build_module_archive(chosen: Kernel, to: Path) -> None:
    entries = [
        initramfs.file(f"modules/{path.name}", path.read_bytes())
        for path in sorted(chosen.modules.iterdir())
    ]
    order = "\n".join(chosen.in_order(BOOT_MODULES)) + "\n"
    entries.append(initramfs.file("modules/boot-order", order.encode()))
    (to / "cpio").write_bytes(initramfs.archive(entries))


def _build_userland(packages: dict[str, tuple[str, ...]], to: Path, *, python: bool) -> None:
    unpacked = to / "unpacked"
    Archive(USERLAND_SUITE).unpack(packages, unpacked, with_needs=True)
    programs = [program for paths in packages.values() for program in paths]
    entries = list(_python_library(unpacked)) if python else []
    if python:
        programs += [
            str(path.relative_to(unpacked))
            for path in (unpacked / "usr/lib" / PYTHON / "lib-dynload").glob("*.so")
            if not path.name.startswith(tuple(LEFT_OUT_OF_EXTENSIONS))
        ]
        entries += _skeleton()
    for name in [*programs, *_libraries(unpacked, programs)]:
        entries.append(initramfs.file(name, (unpacked / name).read_bytes(), executable=True))
    (to / "cpio").write_bytes(initramfs.archive(entries))
    if not python:  # kept otherwise: its Python makes the agent's byte code
        shutil.rmtree(unpacked)


def _skeleton() -> list[initramfs.Entry]:
    folders = ["proc", "sys", "dev", "run", "tmp", "root", "var/run", "etc"]
    return [
        *(initramfs.folder(name) for name in folders),
        initramfs.device("dev/console", 5, 1),
        initramfs.link("bin/sh", "dash"),  # busybox's own prefers its applets, such as `ip`
        initramfs.link("usr/bin/python3", PYTHON),
        *(initramfs.link(f"bin/{applet}", "busybox") for applet in APPLETS),
        initramfs.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"),
        initramfs.file("etc/group", b"root:x:0:\n"),
        initramfs.file("init", GUEST_INIT.read_bytes(), executable=True),
    ]


def _libraries(unpacked: Path, programs: Iterable[str]) -> list[str]:
    """The shared libraries that programs need, by following DT_NEEDED; ld.so by its one name."""
    places = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
    found: dict[str, str] = {}
    waiting = list(programs)
    while waiting:
        for needed in _needed_libraries((unpacked / waiting.pop()).read_bytes()):
            if needed in found:
                continue
            for place in places:
                if (unpacked / place / needed).exists():
                    found[needed] = f"{place}/{needed}"
                    waiting.append(found[needed])
                    break
            else:
                raise ImageError(f"no package brings {needed}")
    return [*found.values(), "lib64/ld-linux-x86-64.so.2"] if found else []


def _needed_libraries(elf: bytes) -> list[str]:
    """DT_NEEDED of a little-endian 64-bit ELF file (elf(5)); nothing for other files."""
    if elf[:6] != b"\x7fELF\x02\x01":
        return []
    headers_at, _, _, _, header_size, header_count = struct.unpack_from("<QQIHHH", elf, 0x20)
    loads, dynamic = [], (0, 0)
    for number in range(header_count):
        kind, _, offset, address, _, size = struct.unpack_from(
            "<IIQQQQ", elf, headers_at + number * header_size
        )
        if kind == 1:  # PT_LOAD
            loads.append((address, offset, size))
        elif kind == 2:  # PT_DYNAMIC
            dynamic = (offset, size)
    entries = list(struct.iter_unpack("<QQ", elf[dynamic[0] : sum(dynamic)]))
    strings = next((value for tag, value in entries if tag == 5), 0)  # DT_STRTAB
    base = next((o + strings - a for a, o, size in loads if a <= strings < a + size), 0)
    names = [base + value for tag, value in entries if tag == 1]  # DT_NEEDED
    return [elf[name : elf.index(b"\0", name)].decode() for name in names]


def _python_library(unpacked: Path) -> Iterator[initramfs.Entry]:
    """The standard library and the agent's two dependencies, as byte code only."""
    library = unpacked / "usr/lib" / PYTHON
    for name in LEFT_OUT_OF_PYTHON:
        shutil.rmtree(library / name, ignore_errors=True)
        (library / name).with_suffix(".py").unlink(missing_ok=True)
    packages = unpacked / "usr/lib/python3/dist-packages"
    for place in (library, packages):
        _compile(unpacked, place, str(place.relative_to(unpacked)), beside_source=True)
        for path in sorted(place.rglob("*.pyc")):
            if path.parent.name != "__pycache__":
                yield initramfs.file(str(path.relative_to(unpacked)), path.read_bytes())


def _compile(python: Path, place: Path, below: str = "", *, beside_source: bool) -> None:
    """Byte code by the guest's own Python, run by its own loader."""
    loader = python / "lib64/ld-linux-x86-64.so.2"
    libraries = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
    _run(
        *(loader, "--library-path", ":".join(str(python / where) for where in libraries)),
        *(python / "usr/bin" / PYTHON, "-S", "-m", "compileall", "-q"),
        *("--invalidation-mode", "unchecked-hash"),
        *(["-b"] if beside_source else []),
        *("-s", place, "-p", f"/{below}", place),
        environment={"PYTHONHOME": str(python / "usr"), "PYTHONPATH": ""},
    )


def _build_agent_archive(python: Path, to: Path) -> None:
    """The agent's source with byte code, and the programs that serve the tests."""
    code = to / "code"
    shutil.copytree(
        ROOT / "agent" / "garp_agent",
        code / "garp_agent",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    for program in GUEST_PROGRAMS:
        shutil.copy(program, code)
    _compile(python, code, "opt/garp", beside_source=False)
    (to / "cpio").write_bytes(initramfs.archive(initramfs.tree(code, "opt/garp")))
