"""The rooms and who may enter them: every import of the source, read as a tree, never run.

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

    by: str  # without "garp_agent.": "core.engine"
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


def room_of(name: str) -> str:
    return name.split(".")[0]


def violations(found: list[Import]) -> str:
    return "\n".join(map(str, found))


# -- the reader of imports itself -------------------------------------------------------


def test_the_source_was_found() -> None:
    assert {"core.engine", "loop", "system.packet", "host.bond", "cli"} <= set(MODULES)
    assert any(each.by == "loop" and each.what == "time" for each in IMPORTS)
    assert any(each.by == "daemon" and each.what == "core.engine" for each in IMPORTS)


def test_imports_for_type_checkers_do_not_count_and_those_in_functions_do() -> None:
    source = """
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from garp_agent.core.record import NamedTuple
def f():
    import re
from garp_agent import __version__
from garp_agent.core import protocol
"""
    MODULES["example"] = ast.parse(source)
    try:
        found = [(each.what, each.lazy) for each in imports_of("example")]
    finally:
        del MODULES["example"]
    assert found == [
        ("core.record", False),
        ("re", True),
        ("__init__", False),
        ("core.protocol", False),
    ]


# -- the core is pure -------------------------------------------------------------------------

PURE = {"__future__", "collections", "enum", "heapq", "itertools", "math", "struct"}
# json: what the protocol is made of.  fnmatch loads re: only where names are selected.
PURE_EXCEPTIONS = {("core.protocol", "json", False), ("core.policy", "fnmatch", True)}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "breakpoint"}


def test_the_core_imports_nothing_that_touches_the_world() -> None:
    wrong = [
        each
        for each in IMPORTS
        if room_of(each.by) == "core"
        and not each.ours
        and each.what not in PURE
        and (each.by, each.what, each.lazy) not in PURE_EXCEPTIONS
    ]
    assert not wrong, violations(wrong)


def test_the_core_calls_nothing_that_touches_the_world() -> None:
    wrong = [
        f"{name}, line {node.lineno}: {node.func.id}"
        for name, tree in MODULES.items()
        if room_of(name) == "core"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in IMPURE_CALLS
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_imports_the_core_only() -> None:
    wrong = [
        each
        for each in IMPORTS
        if room_of(each.by) == "core" and each.ours and room_of(each.what) != "core"
    ]
    assert not wrong, violations(wrong)


# In the core everything stands on values; what a module needs beyond them is said here.
VALUES = {"core", "core.record", "core.model", "core.settings"}
STANDS_ON = {
    "core.record": set(),
    "core.model": {"core.record"},
    "core.settings": {"core.record"},
    "core.engine": {
        "core.conflict",
        "core.counters",
        "core.inventory",
        "core.policy",
        "core.schedule",
    },
}


def test_in_the_core_imports_point_down() -> None:
    wrong = [
        each
        for each in IMPORTS
        if room_of(each.by) == "core"
        and each.ours
        and each.what not in STANDS_ON.get(each.by, set())
        and (each.what not in VALUES or each.by in VALUES)
    ]
    assert not wrong, violations(wrong)


# -- the rooms ------------------------------------------------------------------------------------

CODECS_AND_VALUES = VALUES | {"core.frames", "core.filters", "core.protocol", "core.rtnetlink"}
DECISIONS = {
    "core.conflict",
    "core.counters",
    "core.engine",
    "core.inventory",
    "core.policy",
    "core.schedule",
}
ENTRANCES = {"__main__", "cli", "host.cli", "host.commands"}


def test_system_uses_codecs_and_values_only() -> None:
    wrong = [
        each
        for each in IMPORTS
        if room_of(each.by) == "system" and each.ours and each.what not in CODECS_AND_VALUES
    ]
    assert not wrong, violations(wrong)


def test_the_host_knows_nothing_of_what_a_guest_decides() -> None:
    guest = DECISIONS | {"cli", "config", "configuration", "daemon", "loop", "once", "answers"}
    wrong = [
        each
        for each in IMPORTS
        if room_of(each.by) == "host"
        and each.ours
        and (each.what in guest or room_of(each.what) == "diagnose")
    ]
    assert not wrong, violations(wrong)


def test_the_guest_knows_nothing_of_the_host() -> None:
    wrong = [
        each
        for each in IMPORTS
        if each.ours and room_of(each.what) == "host" and room_of(each.by) != "host"
    ]
    assert not wrong, violations(wrong)


@pytest.mark.parametrize(
    ("what", "by"),
    [
        ("cli", {"__main__"}),
        ("daemon", {"__main__", "cli"}),
        ("once", {"cli", "diagnose.gather", "diagnose.watch"}),
        ("loop", {"daemon", "once"}),
        ("config", {"cli", "configuration", "diagnose.gather"}),
        ("core.engine", {"daemon", "once"}),
        ("host.cli", set()),
        ("host.commands", {"host.cli"}),
    ],
)
def test_who_may_import_what_stands_above(what: str, by: set[str]) -> None:
    wrong = [each for each in IMPORTS if each.what == what and each.by not in by]
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


# -- what each may load ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("click", {"cli", "host.commands"}),
        ("yaml", {"config"}),
        ("scapy", {"diagnose."}),
        ("netifaces", {"diagnose."}),
        ("logging", {"diagnose."}),  # to silence scapy's
        ("asyncio", set()),
        ("dataclasses", {"config", "diagnose."}),
        ("socket", {"client", "log", "cli", "system.", "host.", "diagnose."}),
        ("select", {"log", "loop", "system.", "host.fanout", "host.loop", "diagnose."}),
        ("time", {"loop", "daemon", "host.loop", "host.show", "diagnose."}),
        ("subprocess", {"diagnose."}),
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

IMPORTED = "import garp_agent.daemon"
AT_WORK = """
import garp_agent.daemon
from garp_agent.core.engine import Engine
from garp_agent.core.frames import encode
from garp_agent.core.model import *
from garp_agent.core.settings import Settings
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
