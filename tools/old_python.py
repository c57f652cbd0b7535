"""Rewrites a module for Python 3.6: quotes what Python evaluates there and not from 3.9 on.

Three things change, all in place, so that line numbers stay:

    annotations        quoted; `from __future__ import annotations` (3.7) goes
    tuple[int, ...]    quoted outside of annotations too: a type alias, an argument of cast()
    class A(dict[T])   becomes class A(dict)

Nothing else is rewritten.  The package avoids what else Python 3.6 does not know, such as `:=`.

Sources: PEP 563 (postponed annotations), PEP 585 (generics of the standard collections).
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import NamedTuple

FUTURE = "from __future__ import annotations"
GENERIC_FROM_39 = {"dict", "frozenset", "list", "set", "tuple", "type", "OrderedDict"}


class Edit(NamedTuple):
    """Bytes of a module from `start` to `end`, and what takes their place."""

    start: int
    end: int
    text: bytes


def rewritten(source: str) -> str:
    """Return a module that Python 3.6 can load, of as many lines.

    Raises SyntaxError if `source` is no module.
    """
    data = source.encode()
    ends = [0]
    for line in data.splitlines(keepends=True):
        ends.append(ends[-1] + len(line))
    edits = sorted(_edits(ast.parse(source), data, ends), reverse=True)
    for edit in edits:
        data = data[: edit.start] + edit.text + data[edit.end :]
    return data.decode().replace(FUTURE, "", 1)


def _edits(tree: ast.AST, data: bytes, ends: list[int]) -> Iterator[Edit]:
    """Return what changes below a node; of nested expressions only the outermost."""
    bases = tree.bases if isinstance(tree, ast.ClassDef) else []
    annotations = [getattr(tree, "annotation", None), getattr(tree, "returns", None)]
    for node in ast.iter_child_nodes(tree):
        generic = _generic(node)
        if node in annotations or (generic and node not in bases):
            start, end = _place(node, ends)
            yield Edit(start, end, _quoted(data[start:end]))
        elif generic:
            yield Edit(_place(generic, ends)[1], _place(node, ends)[1], b"")
        elif not isinstance(node, ast.JoinedStr):  # before Python 3.12 its parts have no true place
            yield from _edits(node, data, ends)


def _generic(node: ast.AST) -> ast.Name | None:
    """Return ``tuple`` of ``tuple[int, ...]``; None for anything else."""
    if not isinstance(node, ast.Subscript) or not isinstance(node.ctx, ast.Load):
        return None
    name = node.value
    return name if isinstance(name, ast.Name) and name.id in GENERIC_FROM_39 else None


def _place(node: ast.AST, ends: list[int]) -> tuple[int, int]:
    """Return where a node begins and ends in the module's bytes."""
    assert isinstance(node, ast.expr)
    assert node.end_lineno
    assert node.end_col_offset
    return ends[node.lineno - 1] + node.col_offset, ends[node.end_lineno - 1] + node.end_col_offset


def _quoted(expression: bytes) -> bytes:
    """Return an expression as a string of as many lines: joined lines still count."""
    text = " ".join(expression.decode().split())
    return json.dumps(text).encode() + b"\\\n" * expression.count(b"\n")
