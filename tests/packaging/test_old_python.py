"""What a module becomes for Python 3.6.  test_pyz.py runs the whole of it there."""

from __future__ import annotations

import pytest

import old_python

CASES = {
    "annotations": (
        "def f(a: int, *b: list[str], c: str | None = None) -> None: ...\nx: dict[str, int] = {}\n",
        'def f(a: "int", *b: "list[str]", c: "str | None" = None) -> "None": ...\n'
        'x: "dict[str, int]" = {}\n',
    ),
    "lines": (
        "x: dict[\n    str, int\n] = {}\ny = 1\n",
        'x: "dict[ str, int ]"\\\n\\\n = {}\ny = 1\n',
    ),
    "quotes": (
        """def f(a: Literal['b', "c"]): ...\n""",
        """def f(a: "Literal['b', \\"c\\"]"): ...\n""",
    ),
    "letters": ("é: 'ü' = a['ö']; b: int\n", "é: \"'\\u00fc'\" = a['ö']; b: \"int\"\n"),
    "alias": ("A = tuple[list[int], ...]\n", 'A = "tuple[list[int], ...]"\n'),
    "argument": ("a = cast(dict[str, int], b)[c]\n", 'a = cast("dict[str, int]", b)[c]\n'),
    "base": ("class A(OrderedDict[str, T], B[T]): ...\n", "class A(OrderedDict, B[T]): ...\n"),
    "future": (
        "from __future__ import annotations\n\nimport a\n",
        "\n\nimport a\n",
    ),
    "value": ('type[0] = 1\na = list(b)[0]\nf"{a:>{b}}"\n',) * 2,
}


@pytest.mark.parametrize(("source", "wanted"), CASES.values(), ids=CASES)
def test_module_is_rewritten_in_place(source: str, wanted: str) -> None:
    assert old_python.rewritten(source) == wanted
    assert wanted.count("\n") == source.count("\n")
    compile(wanted, "wanted", "exec")
