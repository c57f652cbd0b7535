"""Measures how many small faults in the pure modules the pure tests find.

    make mutation [ARGS=MUTANTS]

A mutant is one module with one fault.  mutmut's operators change a value, an operator, an argument
or an assignment; ours negate a condition, return nothing, or leave out a call.  SEED draws MUTANTS
(default: 1000), from each module in proportion.  Each mutant runs in a process of its own against
the tests that import its module.  A failed test, an error, or a limit of memory or processor time
kills the mutant.  Limits count processor time, so a busy machine changes no result.

Prints a table and writes the survivors to build/mutation.txt.  Takes one core half an hour.
"""

from __future__ import annotations

import ast
import gc
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from difflib import unified_diff
from importlib.machinery import SourceFileLoader
from pathlib import Path
from random import Random
from time import process_time
from typing import Any

import libcst as cst
import pytest
import scapy.layers.inet6  # noqa: F401 -- as hypothesis: loaded once, not in each process
from hypothesis import Phase, settings, stateful  # noqa: F401
from libcst import matchers as m
from mutmut.mutation.file_mutation import deep_replace
from mutmut.mutation.mutators import mutation_operators

FOLDERS = ["guest/core", "hypervisor/core", "wire"]
CODE = [f"{folder}/*.py" for folder in FOLDERS]
TESTS = [f"{folder}/test_*.py" for folder in FOLDERS]
SEED = 0

SOURCE = Path("agent/garp_agent")
SURVIVORS = Path("build/mutation.txt")
# Types are for checkers, and slots save memory: tests do not look for faults there.
TARGET = m.AssignTarget(m.Name("TYPE_CHECKING") | m.Name("__slots__"))
UNTESTED = m.OneOf(m.Annotation(), m.If(m.Name("TYPE_CHECKING")), m.Assign([TARGET]))


def ours(node: Any) -> Iterator[cst.CSTNode]:
    if isinstance(node, (cst.If, cst.CompIf)):
        test = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
        yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))
    elif isinstance(node, cst.Return) and node.value and not m.matches(node.value, m.Name("None")):
        yield node.with_changes(value=None)
    elif m.matches(node, m.Expr(m.Call())):
        yield cst.Pass()


def mutants_of(node: cst.CSTNode) -> Iterator[tuple[cst.CSTNode, cst.CSTNode]]:
    """Yield each node from this one down, with its replacement."""
    if not m.matches(node, UNTESTED):
        for kind, operator in (*mutation_operators, (cst.CSTNode, ours)):
            others = list(operator(node)) if isinstance(node, kind) else []
            # The further mutants of a string differ only in case.
            yield from ((node, each) for each in others[: 1 if kind is cst.BaseString else None])
        for child in node.children:
            yield from mutants_of(child)


def imports(path: Path) -> set[str]:
    """Return a.b and a.b.c of each `from a.b import c`; one of them is a module."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if type(node) is ast.ImportFrom]
    names = {f"{node.module}.{alias.name}" for node in found for alias in node.names}
    return names | {name.rpartition(".")[0] for name in names}


def importers(path: Path, imported: dict[Path, set[str]]) -> set[Path]:
    found, more = {path}, {path}
    while more:
        names = {".".join(each.with_suffix("").parts).removeprefix("agent.") for each in found}
        more = {each for each in imported.keys() - found if imported[each] & names}
        found |= more
    return found


class Tests:
    """A pytest plugin: runs one file and fast tests first, and limits each test."""

    def __init__(self, files: set[Path], first: str = "", seconds: Any = ()) -> None:
        self.files = sorted(str(each) for each in files if each.stem.startswith("test_"))
        self.first, self.seconds = first, dict(seconds)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda it: (it.path.stem != self.first, self.seconds.get(it.nodeid, 0)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        started = process_time()
        signal.setitimer(signal.ITIMER_PROF, 5 + 10 * self.seconds.get(item.nodeid, 10))
        result = yield
        self.seconds[item.nodeid] = process_time() - started
        return result

    def run(self) -> tuple[int, dict[str, float]]:
        options = ["-qx", "--tb=no", "--assert=plain", "--noconftest", "-pno:cacheprovider"]
        if not self.files:  # without a file, pytest runs all tests
            return pytest.ExitCode.NO_TESTS_COLLECTED, {}
        return pytest.main([*options, *self.files], [self]), self.seconds


def attempt(path: Path, source: str, tests: Tests) -> None:
    """Run the tests with this source of a module, without output; exit as pytest does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    signal.setitimer(signal.ITIMER_PROF, 60)  # to load it
    original = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, name: str) -> Any:
        mutated = Path(self.path) == path.resolve()
        return compile(source, path, "exec") if mutated else original(self, name)

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]
    sys.exit(tests.run()[0])


def row(module: str, drawn: int, survived: int) -> None:
    killed = drawn - survived
    print(f"{module:24}{drawn:9}{killed:9}{survived:9}{killed / drawn:9.1%}", flush=True)


def main() -> None:
    no_shrinking = (Phase.explicit, Phase.generate)
    settings.register_profile("mutation", settings.get_profile("ci"), phases=no_shrinking)
    settings.load_profile("mutation")
    sys.dont_write_bytecode = False
    trees = {p: cst.parse_module(p.read_text()) for g in CODE for p in sorted(SOURCE.glob(g))}
    mutants = {path: list(mutants_of(tree)) for path, tree in trees.items()}
    test_files = {path for each in TESTS for path in Path("tests").glob(each)}
    helpers = {path for path in Path("tests").rglob("*.py") if not path.stem.startswith("test_")}
    imported = {path: imports(path) for path in {*trees, *test_files, *helpers}}
    every = sum(map(len, mutants.values()))
    share = min(1, int((sys.argv[1:] or ["1000"])[0]) / every)
    fork = multiprocessing.get_context("fork")
    gc.freeze()  # halves the cost of a process
    with ProcessPoolExecutor(1, fork) as pool:
        failed, seconds = pool.submit(Tests(test_files).run).result()
    if failed:
        sys.exit("mutation: the tests fail without a fault")

    print(f"\n{'module':24}{'mutants':>9}{'killed':>9}{'survived':>9}{'score':>9}")
    SURVIVORS.parent.mkdir(exist_ok=True)
    counts = []
    with SURVIVORS.open("w") as survivors:
        for path, tree in trees.items():
            module, survived = str(path.relative_to(SOURCE)), 0
            tests = Tests(importers(path, imported), f"test_{path.stem}", seconds)
            drawn = Random(SEED).sample(mutants[path], round(share * len(mutants[path])))
            for node, other in drawn:
                source = deep_replace(tree, node, other).code  # type: ignore[union-attr]
                process = fork.Process(target=attempt, args=(path, source, tests))
                process.start()
                process.join()
                if process.exitcode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                    survived += 1
                    before, after = (text.splitlines(True) for text in (tree.code, source))
                    survivors.writelines(unified_diff(before, after, module, module, n=1))
            if drawn:
                counts.append((len(drawn), survived))
                row(module, *counts[-1])
    row("all", *map(sum, zip(*counts)))
    print(f"of {every} mutants, seed {SEED}; survivors: {SURVIVORS}")


if __name__ == "__main__":
    main()
