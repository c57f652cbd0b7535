"""record: our NamedTuple does what typing's does, as far as the values of the core need it."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
import typing
from types import ModuleType
from typing import Any

import pytest

from garp_agent.config import settings
from garp_agent.guest import options
from garp_agent.guest.core import policy, schedule
from garp_agent.wire import model, protocol, record, rtnetlink

MODULES = (model, policy, protocol, rtnetlink, schedule, settings, options)


class Point(record.NamedTuple):
    """A point."""

    x: int
    y: int = 2
    z: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        return self.x + self.y

    def moved(self, by: int) -> Point:
        return self._replace(x=self.x + by)


class TypingPoint(typing.NamedTuple):
    """A point."""

    x: int
    y: int = 2
    z: tuple[int, ...] = ()


def record_classes(module: ModuleType) -> list[type]:
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, tuple)
        and value.__module__ == module.__name__
    ]


EVERY_RECORD = [
    pytest.param(module, kind, id=f"{module.__name__.rpartition('.')[2]}.{kind.__name__}")
    for module in MODULES
    for kind in record_classes(module)
]


def test_fields_and_defaults_are_those_that_typing_finds() -> None:
    assert Point._fields == TypingPoint._fields == ("x", "y", "z")
    assert Point._field_defaults == TypingPoint._field_defaults == {"y": 2, "z": ()}
    assert tuple(inspect.signature(Point).parameters) == ("x", "y", "z")


def test_values_behave_as_those_of_typing() -> None:
    mine: Any = Point(1, z=(3,))
    theirs: Any = TypingPoint(1, z=(3,))
    assert mine == theirs == (1, 2, (3,))
    assert hash(mine) == hash(theirs)
    assert repr(mine) == repr(theirs).replace("TypingPoint", "Point")
    assert mine._asdict() == theirs._asdict()
    x, y, z = mine
    assert (x, y, z) == (mine.x, mine.y, mine.z)


def test_a_missing_and_an_unknown_argument_are_refused() -> None:
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1, w=3)  # type: ignore[call-arg]


def test_methods_and_properties_are_kept() -> None:
    assert Point(1).total == 3
    assert Point(1).moved(2) == (3, 2, ())
    assert type(Point(1).moved(2)) is Point
    assert Point.__doc__ == "A point."
    assert (Point.__name__, Point.__qualname__, Point.__module__) == ("Point", "Point", __name__)


@pytest.mark.parametrize(("module", "kind"), EVERY_RECORD)
def test_every_value_is_immutable_and_has_no_dictionary(module: ModuleType, kind: type) -> None:
    fields: tuple[str, ...] = kind._fields  # type: ignore[attr-defined]
    value: object = tuple.__new__(kind, (None,) * len(fields))
    assert not hasattr(value, "__dict__")
    for name in (*fields, "another"):
        with pytest.raises(AttributeError):
            setattr(value, name, 1)


@pytest.mark.parametrize(("module", "kind"), EVERY_RECORD)
def test_every_value_has_the_fields_and_defaults_of_its_source(
    module: ModuleType, kind: type
) -> None:
    (definition,) = (
        node
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.ClassDef) and node.name == kind.__name__
    )
    written = [node for node in definition.body if isinstance(node, ast.AnnAssign)]
    names = [node.target.id for node in written if isinstance(node.target, ast.Name)]
    with_default = [node.value is not None for node in written]
    assert list(kind._fields) == names  # type: ignore[attr-defined]
    # typing refuses a field without default after one with; here it would get the wrong one.
    assert with_default == sorted(with_default)
    assert list(kind._field_defaults) == names[with_default.count(False) :]  # type: ignore[attr-defined]


def test_it_loads_neither_typing_nor_re() -> None:
    code = "import sys, garp_agent.wire.record as r; print(*{'typing', 're'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {AGENT!r}); {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "\n"


AGENT = str(inspect.getsourcefile(record)).rpartition("/garp_agent/")[0]
