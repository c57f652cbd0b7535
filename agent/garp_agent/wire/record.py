"""What classes of values are made of, without ``typing``, ``enum`` and ``collections``.

Importing ``typing`` costs a daemon about 1.5 MB and 5 ms, because it loads ``re``; ``enum`` costs
0.8 MB, because it loads ``functools``, ``collections`` and ``types``.  A ``NamedTuple`` made here
behaves like one of ``collections.namedtuple`` and has no instance dict.  All of them share their
methods and the getters of their fields; ``namedtuple`` makes new ones for each class, which takes
longer at the start and more memory.  Type checkers read ``record.pyi`` instead, where all names are
those of the standard library.
"""

from __future__ import annotations

from _collections import deque as deque

try:
    from _collections import _tuplegetter  # type: ignore[attr-defined]
except ImportError:  # Python 3.6 and 3.7
    from operator import itemgetter

    def _tuplegetter(index: int, doc: None) -> property:
        return property(itemgetter(index))


inf = float("inf")  # as in the module math
FunctionType = type(lambda: None)  # as in the module types
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = None  # the parameter of generic classes; a TypeVar for type checkers


class _Record(tuple):
    """The methods of all records, as ``collections.namedtuple`` defines them."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()

    @classmethod
    def _make(cls, values: Iterable[object]) -> _Record:
        record = tuple.__new__(cls, values)
        if len(record) != len(cls._fields):
            raise TypeError(f"Expected {len(cls._fields)} arguments, got {len(record)}")
        return record

    def _replace(self, **changes: object) -> _Record:
        record = self._make(map(changes.pop, self._fields, self))
        if changes:
            raise ValueError(f"Got unexpected field names: {list(changes)!r}")
        return record

    def _asdict(self) -> dict[str, object]:
        return dict(zip(self._fields, self))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, self))
        return f"{type(self).__name__}({values})"

    def __getnewargs__(self) -> tuple[object, ...]:
        return tuple(self)


_GETTERS: list[object] = []  # of the first field, of the second one, and so on


_CONSTRUCTORS: dict[int, FunctionType] = {}  # by number of fields


def _constructor(fields: tuple[str, ...], defaults: tuple[object, ...]) -> FunctionType:
    """Return a ``__new__`` with the fields as its parameters.

    Compiling one takes longer than all the rest of a class.  So those with equally many fields
    differ only in the names, where the interpreter can replace these (from Python 3.8 on).
    """
    names = ("_cls", *fields)
    made = _CONSTRUCTORS.get(len(fields))
    if made is None or not hasattr(made.__code__, "replace"):
        values = "".join(f"{field}, " for field in fields)
        source = f"lambda {', '.join(names)}: _tuple_new(_cls, ({values}))"
        made = eval(source, {"_tuple_new": tuple.__new__, "__builtins__": {}})
        _CONSTRUCTORS[len(fields)] = made
        code = made.__code__
    else:
        code = made.__code__.replace(co_varnames=names)
    return FunctionType(code, made.__globals__, "__new__", defaults)


class _RecordType(type):
    """Turns annotated class bodies into subclasses of ``_Record``."""

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, object]) -> type:
        annotations = body.get("__annotations__", {})
        assert isinstance(annotations, dict)
        fields = tuple(annotations)
        defaults = [body.pop(field) for field in fields if field in body]
        while len(_GETTERS) < len(fields):
            _GETTERS.append(_tuplegetter(len(_GETTERS), None))
        members = {**body, **dict(zip(fields, _GETTERS)), "_fields": fields, "__slots__": ()}
        make = _constructor(fields, tuple(defaults))
        return type(name, (_Record,), {"__new__": make, **members})


NamedTuple = type.__new__(_RecordType, "NamedTuple", (), {})


class _Generic:
    """What ``Generic[T]`` stands for; Python 3.6 does not know ``__class_getitem__``."""

    def __getitem__(self, parameters: object) -> type:
        return object


Generic = _Generic()


class _EnumType(type):
    """Makes each value in a class body a member of the class."""

    _members: tuple[Enum, ...] = ()

    def __new__(mcs, name: str, bases: tuple[type, ...], body: dict[str, object]) -> _EnumType:
        values = {member: body.pop(member) for member in list(body) if member[0] != "_"}
        made = type.__new__(mcs, name, bases, {"__slots__": (), **body})
        made._members = tuple(made._member(*each) for each in values.items())
        return made

    def _member(cls, name: str, value: object) -> Enum:
        member: Enum = object.__new__(cls)
        member.name, member.value = name, value
        setattr(cls, name, member)
        return member

    def __call__(cls, value: object) -> Enum:
        for member in cls._members:
            if member.value == value:
                return member
        raise ValueError(f"{value!r} is not a valid {cls.__name__}")

    def __iter__(cls) -> Iterator[Enum]:
        return iter(cls._members)

    def __len__(cls) -> int:
        return len(cls._members)


class Enum(metaclass=_EnumType):
    """A fixed set of named values, of which each is equal to itself only."""

    __slots__ = ("name", "value")
    name: str
    value: object

    def __repr__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, (type(self), self.name)  # a copy is the member itself
