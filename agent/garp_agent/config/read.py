"""From YAML files to settings, and back.

Responsible for the text as YAML (encoding, syntax, limits, what is refused wherever it stands:
aliases, anchors, tags, a second document) and as a whole: keys, sections, duplicates, and rules
that join two keys.  Reports all problems at once, in the order of the files.  Does not choose the
files (``config.in_force``).  Loads yaml, so the daemon runs it in a child that ends afterwards.

PyYAML's composer (``yaml.compose()``) keeps lines and duplicate keys, and builds no object that a
tag names.  One of its methods is overridden.  It would follow aliases, with which a small file can
describe 10^9 values.  It would also recurse until Python raises RecursionError.

Source: YAML 1.1 (https://yaml.org/spec/1.1/), as PyYAML reads it.
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any

import yaml

from garp_agent.config import errors
from garp_agent.config.errors import (
    ConfigError,
    InvalidError,
    Problem,
    require,
    series,
    shown,
    unread,
)
from garp_agent.config.forms import FORMS, Form, quoted, tag_of, write_text
from garp_agent.config.settings import Settings

MOST_BYTES = 1 << 20
MOST_NODES = 10_000  # keys and values; a file that describes one guest has some dozens
MOST_DEPTH = 16  # three are of use; the others leave room for an error that names the key

_HINTS = (
    ("alias", "; write a glob that begins with * in quotes"),
    (r"character '\t'", "; write spaces instead of tabs"),
    ("flow", "; write a value that contains [ ] { } ? or : in quotes"),
    ("cannot start any token", "; write such a value in quotes"),
)


def bytes_of(path: str) -> bytes:
    """Return what a regular file contains, a byte more than is allowed at most.

    Raises ConfigError.
    """
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # opening a fifo would wait for a writer
            with open(path, "rb") as file:
                return file.read(MOST_BYTES + 1)
        problem = Problem(path, "not a regular file")
    except OSError as error:
        problem = unread(path, error)
    except ValueError:  # a NUL in the path
        problem = Problem(path, "cannot be read: not a file name")
    raise ConfigError([problem])


def compose(raw: bytes, source: str) -> Any:
    """Read a document: a yaml.Node, or None where there is none.  Raises ConfigError.

    Each node has more attributes: ``wrong``, an InvalidError or None; ``place``, a Problem that
    has its line and column, and how it is written in one printable line.
    """
    if len(raw) > MOST_BYTES:
        raise ConfigError([Problem(source, "too large", f"at most {MOST_BYTES} bytes")])
    allowed = ""
    try:
        text = raw.decode()
        composer = _Composer(text)
        composer.name = source
        return composer.get_single_node()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        wrong = f"the byte 0x{raw[error.start]:02x} is not UTF-8"
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        wrong = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
    except yaml.composer.ComposerError as error:  # its others are about anchors: it sees none
        mark: Any = error.problem_mark
        line, wrong, allowed = mark.line + 1, "a second document begins", "one document"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        words = ", ".join(shown(part) for part in (error.context, error.problem) if part)
        words = words.replace(r"'\x00'", "the end")
        hint = next((hint for part, hint in _HINTS if part in words), "")
        line, wrong = mark.line + 1, f"not YAML: {words}{hint}"
    except (ValueError, OverflowError):
        # PyYAML does not check what it converts: "\UFFFFFFFF", %YAML with a long number.
        line = composer.get_mark().line + 1
        wrong = "not YAML: a number or an escape is out of range"
    raise ConfigError([Problem(source, wrong, allowed, line=line)])


class _Composer(yaml.SafeLoader):
    _nodes = _depth = 0

    def compose_node(self: Any, parent: Any, index: Any) -> Any:  # PyYAML's methods have no types
        event = self.peek_event()
        start = event.start_mark
        place = Problem(self.name, line=start.line + 1)
        self._nodes += 1
        self._depth += 1
        for number, most, wrong, what in (
            (self._depth, MOST_DEPTH, "nested too deeply", "levels"),
            (self._nodes, MOST_NODES, "too many values", "keys and values"),
        ):
            if number > most:
                raise ConfigError([place._replace(wrong=wrong, allowed=f"at most {most} {what}")])
        refused = [what for what in ("anchor", "tag") if getattr(event, what, None) is not None]
        if isinstance(event, yaml.AliasEvent):
            node: Any = yaml.ScalarNode("", "", start, self.get_event().end_mark)
            glob, meant = f'"{shown(f"*{event.anchor}")}"', " if a glob is meant"
            node.wrong = InvalidError("YAML aliases are not supported", glob, meant=meant)
        else:
            event.anchor = event.tag = None  # else PyYAML judges them, in its own words
            node = super().compose_node(parent, index)
            node.wrong = InvalidError(f"YAML {refused[0]}s are not supported") if refused else None
        node.place = place._replace(given=_given(node), column=start.column + 1)
        self._depth -= 1
        return node


def _given(node: Any) -> str:
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    start, end = node.start_mark, node.end_mark
    return shown(start.buffer[start.pointer : end.pointer]) or "nothing"


def read_files(paths: Iterable[str], content: Callable[[str], bytes] = bytes_of) -> Settings:
    """Return the settings that files give; a key of a later file replaces that of an earlier one.

    ``content`` returns what a file contains.  Raises ConfigError with every problem of all files;
    ``usable`` of the error are the settings of what is good.
    """
    reading, settings = _Reading(), Settings()
    for path in paths:
        try:
            root = compose(content(path), path)
            settings = reading.read(root, root.place, None, settings) if root else settings
        except ConfigError as error:
            reading.problems += error.problems
    return reading.result(settings)


def override(settings: Settings, options: dict[str, str]) -> Settings:
    """Return the settings with keys of the top level as the command line gives them.

    An ``interval`` raises ``interval_with_lease`` to at least itself, since no option sets that.
    Raises ConfigError.
    """
    reading = _Reading()
    for name, text in options.items():
        node: Any = yaml.ScalarNode(":str", text)
        node.wrong, option = None, "--" + name.replace("_", "-")
        place = Problem(errors.COMMAND_LINE, key=option, given=quoted(text))
        value = reading.read(node, place, FORMS[name], getattr(settings, name))
        settings = settings._replace(**{name: value})
    with_lease = max(settings.interval, settings.interval_with_lease)
    return reading.result(settings._replace(interval_with_lease=with_lease))


class _Reading:
    """Reads nodes and collects their problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._found: dict[str, Problem] = {}  # places of keys and sections, the last found last
        self._refused: set[str] = set()  # names of keys, sections and items

    def result(self, settings: Settings) -> Settings:
        """Return the settings.  Raises ConfigError if there are problems, also between keys."""
        self._check_rules(settings)
        if self.problems:
            raise ConfigError(self.problems, settings)
        return settings

    def _report(self, place: Problem, wrong: object, allowed: str) -> None:
        self.problems.append(place._replace(wrong=str(wrong), allowed=allowed))

    def read(self, node: Any, place: Problem, form: Form | None, default: Any) -> Any:
        """Return the value of a key or a list's item; the default if it is refused.

        Without a form, read a section, whose values so far are the default.
        """
        try:
            if node.wrong:
                raise node.wrong
            if not form:
                return self._read_section(node, place.key and f"{place.key}.", default)
            if not form.item:
                require(node.id == "scalar", "not a single value")
                return form.parse(node)
            require(node.id == "sequence", "not a list", *_as_lists(node, form.item))
            values = tuple(
                self.read(item, item.place._replace(key=f"{place.key}[{index}]"), form.item, None)
                for index, item in enumerate(node.value)
            )
            return default if None in values else form.parse(values)
        except InvalidError as invalid:
            self._refused.add(place.key)
            if form:
                self._report(place, _advised(invalid, form), form.allowed)
            else:
                self._report(place, invalid, f"a mapping with {series(default._fields, 'and')}")
            return default

    def _read_section(self, node: Any, prefix: str, values: Any) -> Any:
        if node.place.given == "nothing":  # as when all lines below a section are comments
            return values
        require(node.id == "mapping", "not a mapping")
        for key, value in node.value:
            place = key.place._replace(key=f"{prefix}{key.value}", given=value.place.given)
            first = self._found.get(place.key)
            if key.wrong or key.id != "scalar":
                place = key.place._replace(key=prefix[:-1])
                self._report(place, key.wrong or "not a key", series(values._fields, "or"))
            elif key.value not in values._fields:
                place = place._replace(key=prefix + key.place.given, given="")
                self._report(place, *_unknown(key, prefix, values._fields))
            elif first and first.source == place.source:
                self._report(place, f"duplicate key, first on line {first.line}", "once")
            else:
                self._found.pop(place.key, None)
                self._found[place.key] = place
                read = self.read(value, place, FORMS.get(place.key), getattr(values, key.value))
                values = values._replace(**{key.value: read})
        return values

    def _check_rules(self, settings: Settings) -> None:
        pair = ("interval", "longer"), ("interval_with_lease", "shorter")
        (other, less), (name, more) = pair if "interval_with_lease" in self._found else pair[::-1]
        if settings.interval > settings.interval_with_lease and not self._refused & {name, other}:
            limit = FORMS[other].write(getattr(settings, other))
            wrong = f"{more} than {other}, which is {limit}"
            self._report(self._found[name], wrong, f"{other} or {less}")
        names = ("addresses.ipv4", "addresses.ipv6", "mac_only")
        if not any(attrgetter(*names)(settings)) and "mac_only" not in self._refused:
            last = max(names[:2], key=list(self._found).index)
            allowed = f"at least one of {series(names, 'and')} true"
            self._report(self._found[last], "nothing is left to announce", allowed)


def _as_lists(node: Any, item: Form) -> Iterable[str]:
    """Return how a single value may be written as a list."""
    if node.id == "scalar" and node.value:
        texts = [write_text(node.value)]
        try:
            item.parse(node)
        except InvalidError as invalid:
            texts += invalid.texts
        return [f"[{shown(text)}]" for text in texts if text]
    return ()


def _advised(invalid: InvalidError, form: Form) -> str:
    """Return what is wrong, with the first advice that would not be refused too."""
    # A list can need more than what is wrong with its text.
    texts = (written for text in invalid.texts if text for written in (text, f"[{text}]"))
    return invalid.advising(next((text for text in texts if _is_accepted(text, form)), ""))


def _is_accepted(text: str, form: Form) -> bool:
    reading = _Reading()
    try:
        node = compose(text.encode(), "")
    except ConfigError:
        return False
    reading.read(node, node.place, form, None)
    return not reading.problems


def _unknown(key: Any, prefix: str, known: tuple[str, ...]) -> tuple[str, str]:
    """Return what is wrong with a key that is not known, and what is allowed."""
    if tag_of(key) == "merge":
        return "YAML merge keys are not supported", series(known, "or")
    near = [prefix + name for name in difflib.get_close_matches(key.value[:60], known, 1)]
    near = near or [name for name in FORMS if name.rpartition(".")[2] == key.value]
    hint = f", did you mean {' or '.join(near)}?" if near else ""
    return f"no such key{hint}", "" if near else series(known, "or")


def as_yaml(values: Any, section: str = "") -> str:
    """Write every key, so that :func:`read_files` gives the same settings again."""
    text = ""
    for key, value in values._asdict().items():
        form = FORMS.get(section + key)
        rest = f" {form.write(value)}\n" if form else "\n" + as_yaml(value, f"{key}.")
        text += f"{section and '  '}{key}:{rest}"
    return text
