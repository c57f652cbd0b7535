"""``NamedTuple`` and ``Generic`` without ``typing``.

Importing ``typing`` costs the daemon about 1.5 MB and 5 ms, because it loads ``re``.  A class made
here is an ordinary ``collections.namedtuple`` subclass without an instance dict.  Type checkers
read ``record.pyi`` instead, where both names are those of ``typing``.
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
