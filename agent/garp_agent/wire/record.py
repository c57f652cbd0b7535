"""``NamedTuple`` without ``typing``.

Decides nothing; stands in for :class:`typing.NamedTuple` at run time.  Importing
``typing`` costs the daemon about 1.5 MB and 5 ms (it loads ``re``); a class made
here is an ordinary ``collections.namedtuple`` subclass without an instance dict.
Type checkers never see this module: they read ``typing.NamedTuple`` instead, so
every module that defines values opens with::

    TYPE_CHECKING = False
    if TYPE_CHECKING:
        from typing import NamedTuple
    else:
        from garp_agent.wire.record import NamedTuple
"""

from __future__ import annotations

from collections import namedtuple


class _RecordType(type):
    """Turns annotated class bodies into ``namedtuple`` subclasses."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, object]) -> type:
        annotations = body.get("__annotations__", {})
        assert isinstance(annotations, dict)
        fields = tuple(annotations)
        defaults = [body.pop(field) for field in fields if field in body]
        base = namedtuple(name, fields, defaults=defaults)  # type: ignore[misc]
        return type(name, (base,), {**body, "__slots__": ()})


class _Marker:
    """What a record class names as its base; replaced by the metaclass."""

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (_base,)


_base = type.__new__(_RecordType, "NamedTuple", (), {})
NamedTuple = _Marker()


class Generic:
    """What a generic class names as its base, as ``typing.Generic``; takes any parameters."""

    __slots__ = ()

    def __class_getitem__(cls, parameters: object) -> type:
        return cls
