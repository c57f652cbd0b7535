"""The rules of the layout, checked on the source as syntax trees (the code is not run).

Imports under `if TYPE_CHECKING:` do not count: they bind nothing at run time.  Imports inside
functions count, and are called lazy.
"""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "agent"
PACKAGE = "garp_agent"


class Import(NamedTuple):
    """One import statement that can run; names are dotted, ours without "garp_agent."."""

    by: str
    what: str
    ours: bool
    lazy: bool
    line: int


# By name: "guest.core.engine" for a file, "guest" for its folder, "" for the package itself.
MODULES = {
    ".".join(part for part in name.with_suffix("").parts if part != "__init__"): ast.parse(text)
    for path in sorted((SOURCE / PACKAGE).rglob("*.py"))
    for name, text in [(path.relative_to(SOURCE / PACKAGE), path.read_text(encoding="utf-8"))]
}


def imports_in(node: ast.AST, by: str, lazy: bool = False) -> Iterator[Import]:
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        assert not getattr(node, "level", 0), f"{by}, line {node.lineno}: relative import"
        prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for name in {f"{prefix}{alias.name}" for alias in node.names}:
            ours = name.split(".")[0] == PACKAGE
            what = name[len(PACKAGE) + 1 :] if ours else name
            if prefix and what not in MODULES:  # the name of a value in that module
                what = what.rpartition(".")[0]
            yield Import(by, what, ours, lazy, node.lineno)
    elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        for orelse in node.orelse:
            yield from imports_in(orelse, by, lazy)
    else:
        lazy = lazy or isinstance(node, (ast.FunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            yield from imports_in(child, by, lazy)


IMPORTS = [each for name, tree in MODULES.items() for each in imports_in(tree, name)]


def folder_of(name: str) -> str:
    """Return the first part of a name; the two entry points are a layer of their own."""
    return "__main__" if name.endswith("__main__") else name.split(".")[0]


def is_core(name: str) -> bool:
    """Return whether a module must be pure."""
    return folder_of(name) == "wire" or ".core." in name


# A module imports its own folder and the folders of the layers below.
LAYERS = ["wire render", "runtime", "config", "guest hypervisor", "diagnosis", "cli", "__main__"]
LAYER_OF = {folder: n for n, layer in enumerate(LAYERS) for folder in layer.split()} | {"": -1}


def test_imports_point_down() -> None:
    assert {folder_of(name) for name in MODULES} == set(LAYER_OF)
    wrong = [
        each
        for each in IMPORTS
        if each.ours
        and folder_of(each.what) != folder_of(each.by)
        and LAYER_OF[folder_of(each.what)] >= LAYER_OF[folder_of(each.by)]
    ]
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = defaultdict(set)
    for each in IMPORTS:
        if each.ours:
            graph[each.by].add(each.what)
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


PURE = {
    "__future__",
    "_collections",
    "_heapq",
    "itertools",
    "math",
    "operator",
    "struct",
}
# The protocol is written by json's C part.  fnmatch loads re; only selections by name need it.
PURE_EXCEPTIONS = {("wire.strict_json", "_json", False), ("guest.core.policy", "fnmatch", True)}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}
CALL_EXCEPTIONS = {("wire.record", "eval")}  # of field names, as collections.namedtuple does


def is_pure(each: Import) -> bool:
    """Return whether a core may import this; settings are values without behaviour."""
    if each.ours:
        own = each.by.rpartition(".")[0]
        return each.what.startswith((f"{own}.", "wire.")) or each.what == "config.settings"
    return each.what in PURE or (each.by, each.what, each.lazy) in PURE_EXCEPTIONS


def test_cores_import_pure_modules_only() -> None:
    assert [each for each in IMPORTS if is_core(each.by) and not is_pure(each)] == []


def test_cores_call_nothing_that_does_input_or_output() -> None:
    calls = [
        (name, node.lineno, ast.unparse(node.func))
        for name, tree in MODULES.items()
        if is_core(name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    ]
    impure = [call for call in calls if call[2] in IMPURE_CALLS]
    assert [call for call in impure if (call[0], call[2]) not in CALL_EXCEPTIONS] == []


MAY_LOAD = {
    "asyncio": "",
    "click": "cli",
    "dataclasses": "config diagnosis",
    "libvirt": "cli.attach hypervisor.io.libvirt_monitors",
    "libvirt_qemu": "hypervisor.io.libvirt_monitors",
    "logging": "",
    "netifaces": "diagnosis",
    "scapy": "",
    "select": "runtime guest hypervisor diagnosis",
    "socket": "cli runtime guest.io hypervisor.io diagnosis",
    "subprocess": "diagnosis",
    "time": "guest.loop guest.daemon hypervisor.converse hypervisor.daemon "
    "hypervisor.guest_path_lookup hypervisor.learning_lookup hypervisor.probe_driver "
    "hypervisor.drill_run "
    "runtime render diagnosis cli.garp_hint",
    "xml": "hypervisor.channel_definition",
    "yaml": "config",
}


@pytest.mark.parametrize("library", MAY_LOAD)
def test_a_library_is_loaded_by_its_modules_only(library: str) -> None:
    allowed = tuple(f"{name}." for name in MAY_LOAD[library].split())
    used = [each for each in IMPORTS if not each.ours and each.what.split(".")[0] == library]
    assert [each for each in used if not f"{each.by}.".startswith(allowed)] == []
    assert library not in ("libvirt", "scapy", "netifaces") or all(each.lazy for each in used)


HEAVY = {"typing", "logging", "dataclasses", "click", "yaml", "scapy", "netifaces", "subprocess"}
HEAVY |= {"libvirt", "xml"}
AT_WORK = """
import garp_agent.guest.daemon
import garp_agent.guest.requests
from garp_agent.guest.core.engine import Engine
from garp_agent.guest.core.frames import encode
from garp_agent.guest.core.model import *
from garp_agent.wire.model import *
from garp_agent.config.settings import Settings
engine = Engine(Settings(), lambda: 0.5)
link = Link(2, "eth0", b"\\2\\0\\0\\0\\0\\1", ARPHRD_ETHER, IFF_UP | IFF_LOWER_UP)
items = [InterfaceAddress(2, b"\\x0a\\0\\0\\1", 24), InterfaceAddress(2, bytes(15) + b"\\1", 64)]
for event in (DumpStarted(), LinkSeen(link), *map(AddressSeen, items), DumpComplete()):
    engine.handle(event, 0.0)
assert len([encode(frame) for frame in iter(lambda: engine.next_frame(0.0), None)]) == 3
"""


OF_AGENT = {"array", "collections", "enum", "functools", "json", "re", "selectors", "signal"}
CASES = [
    (AT_WORK, HEAVY | OF_AGENT | {"socket"}),
    ("import garp_agent.hypervisor.daemon", HEAVY),
]


@pytest.mark.parametrize(("code", "heavy"), CASES, ids=["agent", "watcher"])
def test_a_daemon_loads_nothing_heavy(code: str, heavy: set[str]) -> None:
    script = f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{code}\n"
    script += f"print(*sorted({heavy!r} & set(sys.modules)))"
    command = [sys.executable, "-I", "-S", "-W", "error", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")


# Functions that callers name with their module, as in `frames.decode` and `kernel.decode`.
SHARED = {"cli", "decode", "main", "run"}


def defined(node: ast.AST) -> list[str]:
    """Return the names of classes, functions and type aliases that a statement defines."""
    if isinstance(node, ast.If):  # TYPE_CHECKING
        return [name for child in node.body for name in defined(child)]
    if isinstance(node, ast.Assign):
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return [name for name in names if re.match("_?[A-Z]+[a-z]", name)]
    return [node.name] if isinstance(node, (ast.ClassDef, ast.FunctionDef)) else []


def test_a_name_is_defined_in_one_module() -> None:
    places = defaultdict(list)
    for module, tree in MODULES.items():
        for name in {name for node in tree.body for name in defined(node)}:
            places[name].append(module)
    twice = {name: found for name, found in places.items() if len(found) > 1}
    assert {name: twice[name] for name in twice.keys() - SHARED} == {}


BANNED = "doors?|rooms|mind|deaf|farewell|tap|lives with|for ever|nobody|somebody|whoever"


# Of attributes and arguments; every-python.sh finds what this list lacks.
NEWER_THAN_36 = {
    *("isascii", "removeprefix", "removesuffix", "is_relative_to", "missing_ok", "dirs_exist_ok"),
    *("CLOCK_BOOTTIME", "time_ns", "monotonic_ns", "nullcontext", "cached_property"),
    *("capture_output", "warn_on_full_buffer"),
}


def test_the_source_has_nothing_that_python_3_6_does_not_know() -> None:
    """The single file runs there.  Annotations do not count: tools/old_python.py quotes them."""
    for module, tree in MODULES.items():
        ast.parse(ast.unparse(tree), module, feature_version=(3, 6))
        for node in ast.walk(tree):
            name = getattr(node, "attr", None) or getattr(node, "arg", None)
            assert name not in NEWER_THAN_36, f"{module}, line {getattr(node, 'lineno', 0)}: {name}"


def test_the_source_uses_no_banned_word() -> None:
    wrong = [
        f"{path.relative_to(SOURCE)}:{number}: {line.strip()}"
        for path in sorted(SOURCE.rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(rf"\b({BANNED})\b", line, re.IGNORECASE)
    ]
    assert wrong == []
