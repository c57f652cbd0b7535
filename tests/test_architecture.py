"""Which folder may import which: every import of the source, read as a tree, never run.

Imports under ``if TYPE_CHECKING:`` cost nothing and bind nothing at run time; they do not
count.  Imports inside functions do.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

SOURCE = Path(__file__).parents[1] / "agent"
PACKAGE = "garp_agent"


class Import(NamedTuple):
    """One module imported by another at run time."""

    by: str  # without "garp_agent.": "guest.core.engine"
    what: str  # ours without "garp_agent.", others as they are
    ours: bool
    lazy: bool  # inside a function
    line: int

    def __str__(self) -> str:
        return f"{self.by}, line {self.line}: {self.what}"


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted((SOURCE / PACKAGE).rglob("*.py")):
        dotted = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        name = dotted.removesuffix(".__init__").removeprefix(PACKAGE).lstrip(".")
        found[name or "__init__"] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


MODULES = modules()


def is_type_checking(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def run_time_nodes(node: ast.AST, lazy: bool = False) -> list[tuple[ast.AST, bool]]:
    """Every node that can run, and whether only in a function."""
    if is_type_checking(node):
        assert isinstance(node, ast.If)
        children: list[ast.AST] = list(node.orelse)
    else:
        children = list(ast.iter_child_nodes(node))
    inside = lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    return [(node, lazy)] + [each for child in children for each in run_time_nodes(child, inside)]


def names_of(node: ast.AST, by: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"{by}, line {node.lineno}: relative import"
        base = node.module or ""
        inner = base.removeprefix(PACKAGE).lstrip(".")
        return [
            f"{base}.{alias.name}"
            if base.split(".")[0] == PACKAGE and f"{inner}.{alias.name}".lstrip(".") in MODULES
            else base
            for alias in node.names
        ]
    return []


def imports_of(name: str) -> list[Import]:
    found = []
    for node, lazy in run_time_nodes(MODULES[name]):
        for what in dict.fromkeys(names_of(node, name)):
            assert isinstance(node, (ast.Import, ast.ImportFrom))
            ours = what.split(".")[0] == PACKAGE
            short = (what.removeprefix(PACKAGE).lstrip(".") or "__init__") if ours else what
            found.append(Import(name, short, ours, lazy, node.lineno))
    return found


IMPORTS = [each for name in MODULES for each in imports_of(name)]


def folder_of(name: str) -> str:
    return name.split(".")[0]


def is_core(name: str) -> bool:
    """Whether a module must be pure."""
    return folder_of(name) == "wire" or name.split(".")[1:2] == ["core"]


def violations(found: list[Import]) -> str:
    return "\n".join(map(str, found))


# -- the reader of imports itself -------------------------------------------------------


def test_modules_of_every_folder_are_found() -> None:
    assert {"guest.core.engine", "guest.loop", "hypervisor.core.bonds", "wire.rtnetlink"} <= set(
        MODULES
    )
    assert any(each.by == "guest.loop" and each.what == "time" for each in IMPORTS)
    assert any(each.by == "guest.daemon" and each.what == "guest.core.engine" for each in IMPORTS)


def test_imports_for_type_checkers_do_not_count_and_those_in_functions_do() -> None:
    source = """
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from garp_agent.wire.record import NamedTuple
def f():
    import re
from garp_agent import __version__
from garp_agent.wire import protocol
"""
    MODULES["example"] = ast.parse(source)
    try:
        found = [(each.what, each.lazy) for each in imports_of("example")]
    finally:
        del MODULES["example"]
    assert found == [
        ("wire.record", False),
        ("re", True),
        ("__init__", False),
        ("wire.protocol", False),
    ]


# -- imports point down -----------------------------------------------------------------

# What each folder may import, besides itself.
BELOW = {
    "wire": set(),
    "render": set(),
    "runtime": {"wire"},
    "config": {"runtime", "wire"},
    "guest": {"config", "runtime", "wire", "render"},
    "hypervisor": {"config", "runtime", "wire", "render"},
    "diagnosis": {"guest", "hypervisor", "config", "runtime", "wire", "render"},
    "cli": {"diagnosis", "guest", "hypervisor", "config", "runtime", "wire", "render"},
    "__main__": {"cli", "guest", "hypervisor", "config", "runtime", "wire"},
    "__init__": set(),
}


def test_every_module_is_in_a_folder() -> None:
    assert {folder_of(name) for name in MODULES} == set(BELOW)


def test_imports_point_down_and_guest_and_hypervisor_do_not_import_each_other() -> None:
    wrong = [
        each
        for each in IMPORTS
        if each.ours
        and each.what != "__init__"
        and folder_of(each.what) not in BELOW[folder_of(each.by)] | {folder_of(each.by)}
    ]
    assert not wrong, violations(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    below = {
        name: {each.what for each in IMPORTS if each.by == name and each.ours} for name in MODULES
    }
    settled: set[str] = {"__init__"}
    while True:
        more = {name for name in MODULES if name not in settled and below[name] <= settled}
        if not more:
            break
        settled |= more
    assert set(MODULES) - settled == set(), "in a circle, or above one"


# -- cores are pure ---------------------------------------------------------------------

PURE = {"__future__", "collections", "enum", "heapq", "itertools", "math", "struct"}
# json: what the protocol is made of.  fnmatch loads re: only where names are selected.
PURE_EXCEPTIONS = {("wire.protocol", "json", False), ("guest.core.policy", "fnmatch", True)}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}


def test_cores_import_nothing_that_does_input_or_output() -> None:
    wrong = [
        each
        for each in IMPORTS
        if is_core(each.by)
        and not each.ours
        and each.what not in PURE
        and (each.by, each.what, each.lazy) not in PURE_EXCEPTIONS
    ]
    assert not wrong, violations(wrong)


def test_cores_import_their_own_core_wire_and_settings_only() -> None:
    wrong = [
        each
        for each in IMPORTS
        if is_core(each.by)
        and each.ours
        and each.what != "config.settings"  # pure values
        and folder_of(each.what) != "wire"
        and each.what.split(".")[:2] != each.by.split(".")[:2]
    ]
    assert not wrong, violations(wrong)


def test_cores_call_nothing_that_does_input_or_output() -> None:
    wrong = [
        f"{name}, line {node.lineno}: {node.func.id}"
        for name, tree in MODULES.items()
        if is_core(name)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in IMPURE_CALLS
    ]
    assert not wrong, "\n".join(wrong)


# -- what each may load -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("click", {"cli."}),
        ("yaml", {"config."}),
        ("scapy", {"diagnosis."}),
        ("netifaces", {"diagnosis."}),
        ("logging", {"diagnosis."}),  # to silence scapy's
        ("asyncio", set()),
        ("dataclasses", {"config.", "diagnosis."}),
        ("socket", {"cli.", "runtime.", "guest.io.", "hypervisor.io.", "diagnosis."}),
        ("select", {"runtime.", "guest.", "hypervisor.", "diagnosis."}),
        (
            "time",
            {
                "guest.loop",
                "guest.daemon",
                "runtime.",
                "hypervisor.daemon",
                "render.",
                "diagnosis.",
            },
        ),
        ("subprocess", {"diagnosis."}),
    ],
)
def test_which_modules_may_load_a_library(library: str, allowed: set[str]) -> None:
    wrong = [
        each
        for each in IMPORTS
        if each.what.split(".")[0] == library
        and not each.ours
        and not any(
            each.by == one or (one[-1] == "." and each.by.startswith(one)) for one in allowed
        )
    ]
    assert not wrong, violations(wrong)


def test_scapy_and_netifaces_are_loaded_in_functions_only() -> None:
    wrong = [
        each
        for each in IMPORTS
        if each.what.split(".")[0] in ("scapy", "netifaces") and not each.lazy
    ]
    assert not wrong, violations(wrong)


# -- what the daemon really loads -----------------------------------------------------------------

HEAVY = ("re", "typing", "json", "logging", "dataclasses", "click", "yaml", "scapy", "netifaces")

IMPORTED = "import garp_agent.guest.daemon"
AT_WORK = """
import garp_agent.guest.daemon
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
sent = [encode(frame) for now in range(60) for frame in engine.advance(float(now))]
assert len(sent) > 20, sent
"""


@pytest.mark.parametrize("code", [IMPORTED, AT_WORK], ids=["imported", "at work"])
def test_the_daemon_loads_nothing_heavy(code: str) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n{code}\n"
        f"print(*sorted({set(HEAVY)!r} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", script],
        check=False,
        capture_output=True,
        text=True,
    )
    assert (result.stdout, result.stderr) == ("\n", "")
