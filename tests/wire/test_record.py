"""record.NamedTuple behaves like typing.NamedTuple, without loading typing."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from typing import Any

import pytest

from garp_agent.wire import record


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


def test_a_record_is_what_typing_makes_of_it() -> None:
    mine: Any = Point(1, z=(3,))
    theirs: Any = TypingPoint(1, z=(3,))
    assert mine == theirs == (1, 2, (3,))
    assert hash(mine) == hash(theirs)
    assert repr(mine) == repr(theirs).replace("TypingPoint", "Point")
    assert mine._asdict() == theirs._asdict()
    assert Point._field_defaults == TypingPoint._field_defaults
    assert str(inspect.signature(Point)) == "(x, y=2, z=())"
    with pytest.raises(TypeError):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Point(1, w=3)  # type: ignore[call-arg]


def test_a_record_has_its_methods_and_names() -> None:
    assert Point(1).total == 3
    assert Point(1).moved(2) == (3, 2, ())
    assert type(Point(1).moved(2)) is Point
    assert Point.__doc__ == "A point."
    assert (Point.__name__, Point.__qualname__, Point.__module__) == ("Point", "Point", __name__)


@pytest.mark.parametrize("name", ["x", "another"])
def test_a_record_is_immutable_and_has_no_dict(name: str) -> None:
    assert not hasattr(Point(1), "__dict__")
    with pytest.raises(AttributeError):
        setattr(Point(1), name, 1)


def test_record_loads_neither_typing_nor_re() -> None:
    source = str(inspect.getsourcefile(record)).rpartition("/garp_agent/")[0]
    code = f"import sys; sys.path.insert(0, {source!r}); import garp_agent.wire.record\n"
    code += "assert not {'typing', 're'} & set(sys.modules)"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
