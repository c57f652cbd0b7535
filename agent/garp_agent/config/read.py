"""From a file to settings, and back.

Responsible for the document as a whole: known and unknown keys, sections, duplicates, and rules
that join two keys.  Reports all problems at once, in the order of the file.  Does not choose the
file (``config.in_force``).  Loads yaml, so the daemon runs it in a child that ends afterwards.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Iterable
from operator import attrgetter
from typing import Any

import yaml

from garp_agent.config.document import MOST_BYTES, compose
from garp_agent.config.errors import (
    COMMAND_LINE,
    ConfigError,
    InvalidError,
    Problem,
    require,
    series,
    shown,
)
from garp_agent.config.forms import quoted, tag_of, write_duration, write_text
from garp_agent.config.keys import FORMS, TREE
from garp_agent.config.settings import Settings

ADVICE = ", write "  # before a text that is accepted


def read_file(path: str | os.PathLike[str]) -> Settings:
    """Return the settings that the file at ``path`` gives.  Raises ConfigError."""
    return read_files((os.fspath(path),))


def read_files(paths: Iterable[str]) -> Settings:
    """Return the settings that files give; a key of a later file replaces that of an earlier one.

    Raises ConfigError with every problem of all files; ``usable`` of the error are the settings of
    what is good.
    """
    reading = _Reading()
    settings = Settings()
    for path in paths:
        try:
            settings = reading.read_document(_bytes_of(path), path, settings)
        except ConfigError as error:
            reading.problems += error.problems
    return reading.result(settings)


def read_text(raw: bytes, source: str) -> Settings:
    """Return the settings that a text gives; ``source`` is its name in errors.

    Raises ConfigError with every problem of the text.
    """
    reading = _Reading()
    return reading.result(reading.read_document(raw, source, Settings()))


def _bytes_of(path: str) -> bytes:
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # opening a fifo would wait for a writer
            with open(path, "rb") as file:
                return file.read(MOST_BYTES + 1)
        wrong = "not a regular file"
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    except ValueError:  # a NUL in the path
        wrong = "cannot be read: not a file name"
    raise ConfigError([Problem(path, wrong)])


class _Reading:
    """Reads nodes and collects their problems."""

    def __init__(self, source: str = "") -> None:
        self.problems: list[Problem] = []
        self._sources = [source]  # the files so far
        # File, place and text of each key and section.
        self._found: dict[str, tuple[int, Any, str]] = {}
        self._refused: set[str] = set()  # names of keys, sections and items

    def read_document(self, raw: bytes, source: str, settings: Settings) -> Settings:
        """Return the settings with what a text gives.  Raises ConfigError if it is no YAML."""
        self._sources.append(source)
        root = compose(raw, source)
        read: Settings = self.read(root, root, "", TREE, settings) if root else settings
        return read

    def result(self, settings: Settings) -> Settings:
        self._check_rules(settings)
        if self.problems:
            raise ConfigError(self.problems, settings)
        return settings

    def _report(
        self, place: Any, written: str, key: str, wrong: str, allowed: str, file: int = -1
    ) -> None:
        self.problems.append(Problem(self._sources[file], wrong, allowed, key, written, *place))

    def read(self, at: Any, node: Any, name: str, form: Any, default: Any) -> Any:
        """Return the value of a key, a list's item or a section; the default if it is refused."""
        is_section = isinstance(form, dict)
        try:
            require(not node.wrong, node.wrong)
            if is_section:
                return self._read_section(node, name and f"{name}.", form, default)
            if not form.item:
                require(node.id == "scalar", "not a single value")
                return form.parse(node)
            is_text = node.id == "scalar" and node.value
            require(node.id == "sequence", "not a list" + (_as_list(node, form) if is_text else ""))
            items = ((item, f"{name}[{index}]") for index, item in enumerate(node.value))
            values = tuple(self.read(item, item, each, form.item, None) for item, each in items)
            return default if None in values else form.parse(values)
        except InvalidError as invalid:
            allowed = f"a mapping with {series(form, 'and')}" if is_section else form.allowed
            wrong = str(invalid) if is_section else _without_bad_advice(str(invalid), form)
            self._report(at.place, node.given, name, wrong, allowed)
            self._refused.add(name)
            return default

    def _read_section(self, node: Any, prefix: str, tree: dict[str, Any], values: Any) -> Any:
        if node.given == "nothing":  # as when all lines below a section are comments
            return values
        require(node.id == "mapping", "not a mapping")
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if key.wrong or key.id != "scalar":
                wrong, allowed = key.wrong or "not a key", series(tree, "or")
                self._report(key.place, key.given, prefix[:-1], wrong, allowed)
            elif key.value not in tree:
                self._report(key.place, "", prefix + key.given, *_unknown(key, prefix, tree))
            elif name in self._found and self._found[name][0] == len(self._sources) - 1:
                wrong = f"duplicate key, first on line {self._found[name][1][0]}"
                self._report(key.place, value.given, name, wrong, "once")
            else:
                self._found[name] = len(self._sources) - 1, key.place, value.given
                read = self.read(key, value, name, tree[key.value], getattr(values, key.value))
                values = values._replace(**{key.value: read})
        return values

    def _check_rules(self, settings: Settings) -> None:
        pair = ("interval", "longer"), ("interval_with_lease", "shorter")
        (other, less), (name, more) = pair if "interval_with_lease" in self._found else pair[::-1]
        if settings.interval > settings.interval_with_lease and not self._refused & {name, other}:
            wrong = f"{more} than {other}, which is {write_duration(getattr(settings, other))}"
            file, place, given = self._found[name]
            self._report(place, given, name, wrong, f"{other} or {less}", file=file)
        names = ("addresses.ipv4", "addresses.ipv6", "mac_only")
        if not any(attrgetter(*names)(settings)) and "mac_only" not in self._refused:
            last = max(names[:2], key=lambda name: self._found[name])
            allowed = f"at least one of {series(names, 'and')} true"
            file, place, given = self._found[last]
            self._report(place, given, last, "nothing is left to announce", allowed, file=file)


def _as_list(node: Any, form: Any) -> str:
    """Return the advice to write a single value as a list; "" if that would be refused too."""
    items = [write_text(node.value)]
    try:
        form.item.parse(node)
    except InvalidError as invalid:
        items.append(str(invalid).partition(ADVICE)[2])
    for item in filter(None, items):
        if _is_accepted(f"[{shown(item)}]", form):
            return f"{ADVICE}[{shown(item)}]"
    return ""


def _without_bad_advice(wrong: str, form: Any) -> str:
    """Return what is wrong; without the advice to write what would be refused too."""
    said, _, advice = wrong.partition(ADVICE)
    text = re.sub(" if a[a-z ]* is meant$", "", advice)
    if not advice or _is_accepted(text, form):
        return wrong
    item = f"[{text}]"  # a list can need more than what is wrong with its text
    is_item = form.item and _is_accepted(item, form)
    return f"{said}{ADVICE}{item}{advice[len(text) :]}" if is_item else said


def _is_accepted(text: str, form: Any) -> bool:
    reading = _Reading()
    try:
        node = compose(text.encode(), "")
    except ConfigError:
        return False
    reading.read(node, node, "", form, None)
    return not reading.problems


def _unknown(key: Any, prefix: str, tree: dict[str, Any]) -> tuple[str, str]:
    """Return what is wrong with a key that is not in the tree, and what is allowed."""
    if tag_of(key) == "merge":
        return "YAML merge keys are not supported", series(tree, "or")
    near = [prefix + name for name in difflib.get_close_matches(key.value[:60], tree, 1)]
    near = near or [name for name in FORMS if name.rpartition(".")[2] == key.value]
    hint = f", did you mean {' or '.join(near)}?" if near else ""
    return f"no such key{hint}", "" if near else series(tree, "or")


def as_yaml(settings: Any, tree: dict[str, Any] = TREE, indent: str = "") -> str:
    """Write every key, so that :func:`read_text` gives the same settings again."""
    text = ""
    for name, form in tree.items():
        value, is_section = getattr(settings, name), isinstance(form, dict)
        rest = "\n" + as_yaml(value, form, "  ") if is_section else f" {form.write(value)}\n"
        text += f"{indent}{name}:{rest}"
    return text


def override(settings: Settings, options: dict[str, str]) -> Settings:
    """Return the settings with keys of the top level as the command line gives them.

    An ``interval`` raises ``interval_with_lease`` to at least itself, since no option sets that.
    Raises ConfigError.
    """
    reading = _Reading(COMMAND_LINE)
    for name, text in options.items():
        node: Any = yaml.ScalarNode(":str", text)
        node.wrong, node.given, node.place = "", quoted(text), (0, 0)
        option = "--" + name.replace("_", "-")
        value = reading.read(node, node, option, FORMS[name], getattr(settings, name))
        settings = settings._replace(**{name: value})
    with_lease = max(settings.interval, settings.interval_with_lease)
    return reading.result(settings._replace(interval_with_lease=with_lease))
