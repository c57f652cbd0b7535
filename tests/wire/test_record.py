"""record.NamedTuple behaves like typing.NamedTuple.  (test_architecture: it loads no typing.)"""

from __future__ import annotations

import copy
import inspect
import typing
from typing import Any

import pytest

from garp_agent.wire import record


class Point(record.NamedTuple):
    """A point."""

    x: int
    y: int = 2
    z: tuple[int, ...] = ()

    def moved(self, by: int) -> Point:
        return self._replace(x=self.x + by)


class TypingPoint(typing.NamedTuple):
    x: int
    y: int = 2
    z: tuple[int, ...] = ()


def test_record_is_what_typing_makes_of_it_with_methods_and_immutable() -> None:
    mine: Any = Point(1, z=(3,))
    theirs: Any = TypingPoint(1, z=(3,))
    assert mine == theirs == (1, 2, (3,))
    assert repr(mine) == repr(theirs).replace("TypingPoint", "Point")
    assert mine._asdict() == theirs._asdict()
    assert str(inspect.signature(Point)) == "(x, y=2, z=())"
    assert (Point.__doc__, Point.__qualname__, Point.__module__) == ("A point.", "Point", __name__)
    assert (type(mine.moved(2)), mine.moved(2)) == (Point, (3, 2, (3,)))
    assert not hasattr(mine, "__dict__")
    for name in ("x", "another"):
        with pytest.raises(AttributeError):
            setattr(mine, name, 1)


def test_records_with_equally_many_fields_keep_their_own_names_and_defaults() -> None:
    class First(record.NamedTuple):
        a: int
        b: int = 1

    class Second(record.NamedTuple):
        c: int
        d: int

    class Empty(record.NamedTuple):
        """No fields."""

    assert (First(a=3), First(3, b=4), Second(d=2, c=1)) == ((3, 1), (3, 4), (1, 2))
    assert (Second(1, 2).c, Second(1, 2).d, Empty()) == (1, 2, ())
    for wrong in (lambda: Second(1), lambda: First(c=1), lambda: First(1, 2, 3)):  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="'c'"):
        First(1)._replace(c=1)  # type: ignore[call-arg]
    assert copy.deepcopy(First(5)) == First(5)


class Color(record.Enum):
    """A color."""

    RED = "red"
    BLUE = "blue"


def test_enum_has_its_members_in_order_and_finds_them_by_value() -> None:
    assert [(each.name, each.value) for each in Color] == [("RED", "red"), ("BLUE", "blue")]
    assert (len(Color), Color.__doc__, repr(Color.RED)) == (2, "A color.", "Color.RED")
    assert Color("blue") is Color.BLUE
    assert len(set(Color)) == 2
    with pytest.raises(ValueError, match=r"^'green' is not a valid Color$"):
        Color("green")


def test_enum_member_that_is_copied_is_itself() -> None:
    assert copy.deepcopy({Color.RED: [Color.BLUE]}) == {Color.RED: [Color.BLUE]}
    assert copy.copy(Color.RED) is Color.RED
