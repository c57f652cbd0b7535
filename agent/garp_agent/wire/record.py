"""``NamedTuple`` and ``Generic`` without the module ``typing``.

Importing ``typing`` costs the daemon about 1.5 MB and 5 ms, because it loads ``re``.  A class made
here is an ordinary ``collections.namedtuple`` subclass without an instance dict.  Type checkers
read ``record.pyi`` instead, where all names are those of ``typing``.
"""

from __future__ import annotations

from collections import namedtuple

T = None  # the parameter of generic classes; a TypeVar for type checkers


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
    """The base that a record class names; the metaclass takes its place (PEP 560)."""

    def __mro_entries__(self, bases: tuple[object, ...]) -> tuple[type, ...]:
        return (_base,)


_base = type.__new__(_RecordType, "NamedTuple", (), {})
NamedTuple = _Marker()


class Generic:
    """The base that a generic class names, like ``typing.Generic``; takes any parameters."""

    __slots__ = ()

    def __class_getitem__(cls, parameters: object) -> type:
        return cls
