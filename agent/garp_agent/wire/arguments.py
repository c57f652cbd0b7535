"""The arguments of a request of the hint protocol: each by its name and type, within its range.

Does not know which arguments a command has, nor what they mean (wire.protocol).
"""

from __future__ import annotations

from garp_agent.wire import strict_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from garp_agent.wire.bounds import Bound


class Arguments:
    """Reads the arguments that are given; collects everything that is wrong with them.

    Numbers beyond their bounds are clamped, and noted in ``adjusted``.  An argument that is absent
    or wrong reads as None.
    """

    __slots__ = ("adjusted", "allowed", "given", "problems")

    def __init__(self, given: dict[str, object], allowed: tuple[str, ...]) -> None:
        self.given = given
        self.allowed = allowed
        self.adjusted: list[tuple[str, int | float | str]] = []
        self.problems: list[str] = []
        for name in given:
            if name not in allowed:
                known = ", ".join(allowed) if allowed else "none"
                self.problems.append(f"argument {brief(name)} is unknown; allowed: {known}")

    def number(self, name: str, bound: Bound) -> float | None:
        value = self.given.get(name)
        if type(value) is int or type(value) is float:
            return self._clamp(name, float(value), bound)
        self._wrong(name, value, "a number")
        return None

    def integer(self, name: str, bound: Bound) -> int | None:
        value = self.given.get(name)
        if type(value) is int:
            return int(self._clamp(name, value, bound))
        self._wrong(name, value, "an integer")
        return None

    def text(self, name: str) -> str | None:
        value = self.given.get(name)
        if isinstance(value, str):
            return value
        self._wrong(name, value, "a string")
        return None

    def _clamp(self, name: str, value: float, bound: Bound) -> float:
        clamped = min(max(value, bound.least), bound.most)
        if clamped != value:
            self.adjusted.append((name, clamped))
        return clamped

    def _wrong(self, name: str, value: object, expected: str) -> None:
        if name in self.given:
            self.problems.append(f"argument {name} must be {expected}, not {brief(value)}")


def brief(value: object) -> str:
    """Return a value for an error text: short and ASCII, without the content of containers."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    cut = value[:32] + "..." if isinstance(value, str) and len(value) > 32 else value
    return strict_json.dumps(cut).decode()
