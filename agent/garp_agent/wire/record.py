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
        base = namedtuple(name, fields)  # type: ignore[misc]
        base.__new__.__defaults__ = tuple(defaults)  # namedtuple(defaults=) is of Python 3.7
        return type(name, (base,), {**body, "__slots__": ()})


NamedTuple = type.__new__(_RecordType, "NamedTuple", (), {})


class _Generic:
    """What ``Generic[T]`` stands for; Python 3.6 does not know ``__class_getitem__``."""

    def __getitem__(self, parameters: object) -> type:
        return object


Generic = _Generic()
