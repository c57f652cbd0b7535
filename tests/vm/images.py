"""Root file systems for the test machines, made from Debian packages and this repository.

An initramfs consists of archives one after the other: the userland, the kernel's modules,
the agent as it is now, and, where a test asks for them, some larger programs (extras).
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.vm import kernels
from tests.vm.cache import ROOT, built
from tests.vm.debian import KEYRING, Archive, ImageError, run
from tests.vm.kernels import DEFAULT_KERNEL

HERE = Path(__file__).parent
GUEST_INIT = HERE / "guest_init.sh"
GUEST_PROGRAMS = [HERE / "guest_control.py", HERE / "guest_relay.py"]
AGENT = ROOT / "agent" / "garp_agent"
SUITE = "bookworm"
PYTHON = "python3.11"
TOOLS = ("qemu-system-x86_64", "dpkg", "apt-get", "setpriv")

USERLAND = {  # package: the programs to take from it
    "busybox-static": ("bin/busybox",),
    "dash": ("bin/dash",),
    "python3.11-minimal": (f"usr/bin/{PYTHON}",),
    "libpython3.11-stdlib": (),
    "python3-click": (),
    "python3-yaml": (),
    "iproute2": ("bin/ip", "sbin/bridge"),
    "util-linux": ("usr/bin/flock",),
    "iputils-arping": ("usr/bin/arping",),
}
EXTRAS = {
    "qemu-guest-agent": ("usr/sbin/qemu-ga",),
    "libteam-utils": ("usr/bin/teamd",),
    "openvswitch-common": ("usr/bin/ovsdb-tool", "usr/sbin/ovsdb-server", "usr/bin/ovs-appctl"),
    "openvswitch-switch": ("usr/bin/ovs-vsctl", "usr/lib/openvswitch-switch/ovs-vswitchd"),
}
OVS_SCHEMA = "usr/share/openvswitch/vswitch.ovsschema"
LIBVIRT = (
    "libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 "
    "iproute2 python3.11 python3-click python3-yaml python3-libvirt dash coreutils mount"
)
APPLETS = "cat dd grep insmod kill mount setsid sleep tail uname"
FOLDERS = "proc sys dev run tmp root var/run etc"
# Python's extension modules with large libraries, which no test needs.
OMITTED = ("_ssl", "_hashlib", "_sqlite3", "_dbm", "_curses", "nis", "readline")
LIBRARY_FOLDERS = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
LOADER = "lib64/ld-linux-x86-64.so.2"


def missing_tool() -> str:
    """Return why this machine cannot build or run a guest; an empty text if it can."""
    if platform.machine() != "x86_64":
        return "the images are for x86_64"
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not KEYRING.exists():
        return f"{KEYRING} is missing (package debian-archive-keyring)"
    return ""


def write_initramfs(to: Path, kernel: str = DEFAULT_KERNEL, *, extras: bool = False) -> None:
    """Write the initramfs for a kernel of ``kernels.KERNELS``; build its parts if needed."""
    parts = [userland(), modules(kernel), agent_code(), *([_extras()] if extras else [])]
    with to.open("wb") as whole:
        for part in parts:
            whole.write((part / "cpio").read_bytes())


def copy_libvirt_root(to: Path) -> None:
    """Make a root directory with libvirtd, QEMU and the agent in it."""
    shutil.copytree(_libvirt() / "root", to, symlinks=True, copy_function=os.link)
    shutil.copytree(agent_code() / "tree/opt/garp", to / "opt/garp")


@functools.cache
def userland() -> Path:
    """Return the folder with the userland: Python, the shell, iproute2."""
    return built("userland", [GUEST_INIT.read_text()], _build_userland)


@functools.cache
def modules(kernel: str) -> Path:
    """Return the folder with the modules of a kernel of ``kernels.KERNELS``."""
    folder = kernels.kernel(kernel) / "modules"

    def build(to: Path) -> None:
        shutil.copytree(folder, to / "tree/modules")
        pack(to)

    return built(f"modules-{kernel}", [str(folder)], build)


@functools.cache
def agent_code() -> Path:
    """Return the folder with the agent as it is now, and the programs of the tests."""
    sources = [*sorted(AGENT.rglob("*.py")), *GUEST_PROGRAMS]
    recipe = [f"{path}\0{path.read_text()}" for path in sources]

    def build(to: Path) -> None:
        code = to / "tree/opt/garp"
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(AGENT, code / "garp_agent", ignore=ignored)
        for program in GUEST_PROGRAMS:
            shutil.copy(program, code)
        _compile(userland() / "unpacked", code, "opt/garp")
        pack(to)

    return built("agent", recipe, build, keep=4)  # another run may be about to boot an older one


@functools.cache
def _extras() -> Path:
    def build(to: Path) -> None:
        Archive(SUITE).unpack(EXTRAS, to / "unpacked", with_dependencies=True)
        copy_programs(to / "unpacked", sum(EXTRAS.values(), ()), to / "tree")
        schema = to / "tree" / OVS_SCHEMA
        schema.parent.mkdir(parents=True)
        shutil.copy(to / "unpacked" / OVS_SCHEMA, schema)
        pack(to)

    return built("extras", [], build)


@functools.cache
def _libvirt() -> Path:
    def build(to: Path) -> None:
        root = to / "root"
        Archive(SUITE).unpack(LIBVIRT.split(), root, with_dependencies=True)
        link(root, {"bin/sh": "dash", "usr/bin/python3": PYTHON})

    return built("libvirt", [], build)


def _build_userland(to: Path) -> None:
    tree, unpacked = to / "tree", to / "unpacked"
    Archive(SUITE).unpack(USERLAND, unpacked, with_dependencies=True)
    for folder in FOLDERS.split():
        (tree / folder).mkdir(parents=True)
    shutil.copy(GUEST_INIT, tree / "init")
    (tree / "init").chmod(0o755)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\n")
    copy_programs(unpacked, sum(USERLAND.values(), ()), tree)
    extensions = [
        str(path.relative_to(unpacked))
        for path in (unpacked / "usr/lib" / PYTHON / "lib-dynload").glob("*.so")
        if not path.name.startswith(OMITTED)
    ]
    copy_programs(unpacked, extensions, tree)
    for place in (f"usr/lib/{PYTHON}", "usr/lib/python3/dist-packages"):
        _compile(unpacked, unpacked / place, place, "-b")  # byte code beside the source
        ignored = shutil.ignore_patterns("__pycache__", "*.py", "*.so")
        shutil.copytree(unpacked / place, tree / place, ignore=ignored, dirs_exist_ok=True)
    links = {f"bin/{applet}": "busybox" for applet in APPLETS.split()}
    # dash, because busybox's shell prefers its applets, such as `ip`.
    link(tree, {**links, "bin/sh": "dash", "usr/bin/python3": PYTHON})
    pack(to, tools=to)


def pack(to: Path, tools: Path | None = None) -> None:
    """Write ``to/tree`` as an archive of the newc format, ``to/cpio``, by busybox."""
    tree, busybox = to / "tree", (tools or userland()) / "unpacked/bin/busybox"
    names = [path.relative_to(tree) for path in sorted(tree.rglob("*"))]
    with (to / "cpio").open("wb") as archive:
        subprocess.run(
            [busybox, "cpio", "-o", "-H", "newc"],
            input="".join(f"{name}\n" for name in names).encode(),
            stdout=archive,
            stderr=subprocess.DEVNULL,
            cwd=tree,
            check=True,
        )


def link(tree: Path, links: dict[str, str]) -> None:
    """Make symbolic links, given their targets by their names."""
    for name, target in links.items():
        (tree / name).unlink(missing_ok=True)
        (tree / name).symlink_to(target)


def copy_programs(unpacked: Path, names: Iterable[str], tree: Path) -> None:
    """Copy programs, the shared libraries that they load, and the loader."""
    names = list(names)
    libraries = {library for name in names for library in _libraries(unpacked, name)}
    for name in [*names, *libraries, LOADER]:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(unpacked / name, tree / name)


def _libraries(unpacked: Path, program: str) -> Iterator[str]:
    """The libraries of a program, as the image's own loader finds them (ld.so(8), --list)."""
    if program == "bin/busybox":
        return  # static
    listing = run(*_loader(unpacked), "--list", unpacked / program)
    for line in listing.splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow:
            found = Path(path.partition(" (")[0])
            if unpacked not in found.parents:
                raise ImageError(f"no package contains {name}, which {program} needs")
            yield str(found.relative_to(unpacked))


def _loader(unpacked: Path) -> list[str | Path]:
    """The start of a command that runs one of the image's programs on this machine."""
    folders = ":".join(str(unpacked / folder) for folder in LIBRARY_FOLDERS)
    return [unpacked / LOADER, "--library-path", folders]


def _compile(unpacked: Path, place: Path, inside: str, *options: str) -> None:
    """Compile a folder of Python, which is ``inside`` in the image, by the image's Python."""
    run(
        *(*_loader(unpacked), unpacked / "usr/bin" / PYTHON, "-S", "-m", "compileall", "-q"),
        *("--invalidation-mode", "unchecked-hash", *options),
        *("-s", place, "-p", f"/{inside}", place),
        PYTHONHOME=str(unpacked / "usr"),
        PYTHONPATH="",
    )
