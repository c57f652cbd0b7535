"""From a file to settings, and back.

Responsible for the document as a whole: known and unknown keys, sections, duplicates, and rules
that join two keys.  Reports all problems at once, in the order of the file.  Does not choose the
file (``config.in_force``).  Loads yaml, so the daemon runs it in a child that ends afterwards.
"""

from __future__ import annotations

import difflib
import os
import stat
from typing import Any

import yaml

from garp_agent.config.document import MOST_BYTES, compose, given, place
from garp_agent.config.errors import ConfigError, InvalidError, Problem, require, series, shown
from garp_agent.config.forms import Form, quoted, tag_of, write_duration, write_text
from garp_agent.config.keys import BY_NAME, KEYS, TREE, Key
from garp_agent.config.settings import Settings


def read_file(path: str | os.PathLike[str]) -> Settings:
    """Return the settings that the file at ``path`` gives.  Raises ConfigError."""
    try:
        if stat.S_ISREG(os.stat(path).st_mode):  # opening a fifo would wait for a writer
            with open(path, "rb") as file:
                return read_text(file.read(MOST_BYTES + 1), os.fspath(path))
        wrong = "not a regular file"
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    except ValueError:  # a NUL in the path
        wrong = "cannot be read: not a file name"
    raise ConfigError([Problem(os.fspath(path), wrong)])


def read_text(raw: bytes, source: str) -> Settings:
    """Return the settings that a text gives; ``source`` is its name in errors.

    Raises ConfigError with every problem of the text.
    """
    reading = _Reading(source)
    root = compose(raw, source)
    if root is not None:
        reading.read_mapping(root, root, "", TREE)
    reading.check_intervals()
    reading.check_families()
    if reading.problems:
        raise ConfigError(reading.problems)
    settings = Settings()
    for name, value in reading.values.items():
        settings = BY_NAME[name].put(settings, value)
    return settings


class _Reading:
    """Collects the values of one document and its problems."""

    def __init__(self, source: str) -> None:
        self.problems: list[Problem] = []
        self.values: dict[str, Any] = {}  # by key; None for a value that is refused
        self._nodes: dict[str, tuple[Any, Any]] = {}  # key and value, by key or section
        self._source = source

    def _report(self, at: Any, key: str, node: Any, wrong: str, allowed: str) -> None:
        written = "" if node is None else given(node)
        where = place(at.start_mark)
        self.problems.append(Problem(self._source, wrong, allowed, key, written, *where))

    def _report_value(self, name: str, wrong: str, allowed: str) -> None:
        key, node = self._nodes[name]
        self._report(key, name, node, wrong, allowed)

    def read_mapping(self, at: Any, node: Any, section: str, tree: dict[str, Any]) -> None:
        if given(node) == "nothing":  # as when all lines below a section are comments
            return
        if node.wrong or not isinstance(node, yaml.MappingNode):
            allowed = f"a mapping with {series(tree, 'and')}"
            self._report(at, section, node, node.wrong or "not a mapping", allowed)
            return
        prefix = section and f"{section}."
        for key, value in node.value:
            if key.wrong or not isinstance(key, yaml.ScalarNode):
                self._report(key, section, key, key.wrong or "not a key", series(tree, "or"))
            elif key.value in tree:
                self._read_entry(key, value, prefix + key.value, tree[key.value])
            else:
                wrong, allowed = _unknown(key, prefix, tree)
                self._report(key, prefix + given(key), None, wrong, allowed)

    def _read_entry(self, key: Any, node: Any, name: str, entry: Key | dict[str, Any]) -> None:
        first, _ = self._nodes.setdefault(name, (key, node))
        if first is not key:
            line, _ = place(first.start_mark)
            self._report(key, name, node, f"duplicate key, first on line {line}", "once")
        elif isinstance(entry, Key):
            self.values[name] = self._parsed(key, node, name, entry.form)
        else:
            self.read_mapping(key, node, name, entry)

    def _parsed(self, at: Any, node: Any, name: str, form: Form) -> Any:
        """Return a value or a list's item; None for one that is refused, which is reported."""
        problems = len(self.problems)
        try:
            require(not node.wrong, node.wrong)
            if not form.item:
                require(isinstance(node, yaml.ScalarNode), "not a single value")
                return form.parse(node)
            is_text = isinstance(node, yaml.ScalarNode) and node.value
            hint = f", write [{shown(write_text(node.value))}]" if is_text else ""
            require(isinstance(node, yaml.SequenceNode), "not a list" + hint)
            items = ((item, f"{name}[{index}]") for index, item in enumerate(node.value))
            values = tuple(self._parsed(item, item, each, form.item) for item, each in items)
            return form.parse(values) if len(self.problems) == problems else None
        except InvalidError as invalid:
            return self._report(at, name, node, str(invalid), form.allowed)

    def _in_force(self, name: str) -> Any:
        """Return the value that is given, None if that is refused, or else the default."""
        return self.values.get(name, BY_NAME[name].get(Settings()))

    def check_intervals(self) -> None:
        short, long = self._in_force("interval"), self._in_force("interval_with_lease")
        if short is None or long is None or long >= short:
            return
        if "interval_with_lease" in self._nodes:
            wrong = f"shorter than interval, which is {write_duration(short)}"
            self._report_value("interval_with_lease", wrong, "interval or longer")
        else:
            wrong = f"longer than interval_with_lease, which is {write_duration(long)}"
            self._report_value("interval", wrong, "interval_with_lease or shorter")

    def check_families(self) -> None:
        names = ("addresses.ipv4", "addresses.ipv6", "mac_only")
        if any(self._in_force(name) is not False for name in names):
            return
        last = max(names[:2], key=lambda name: place(self._nodes[name][0].start_mark))
        allowed = f"at least one of {series(names, 'and')} true"
        self._report_value(last, "nothing is left to announce", allowed)


def _unknown(key: Any, prefix: str, tree: dict[str, Any]) -> tuple[str, str]:
    """Return what is wrong with a key that is not in the tree, and what is allowed."""
    if tag_of(key) == "merge":
        return "YAML merge keys are not supported", series(tree, "or")
    near = [prefix + name for name in difflib.get_close_matches(key.value[:60], tree, 1)]
    near = near or [each.name for each in KEYS if each.name.rpartition(".")[2] == key.value]
    if near:
        return f"no such key, did you mean {' or '.join(near)}?", ""
    return "no such key", series(tree, "or")


# -- the other direction, and the command line ---------------------------------------------


def as_yaml(settings: Settings) -> str:
    """Write every key, so that :func:`read_text` gives the same settings again."""
    lines: list[str] = []
    for key in KEYS:
        section, _, name = key.name.rpartition(".")
        if section and f"{section}:\n" not in lines:
            lines.append(f"{section}:\n")
        indent = "  " if section else ""
        lines.append(f"{indent}{name}: {key.form.write(key.get(settings))}\n")
    return "".join(lines)


def override(settings: Settings, options: dict[str, str]) -> Settings:
    """Return the settings with keys of the top level as the command line gives them.

    An ``interval`` raises ``interval_with_lease`` to at least itself, since no option sets that.
    Raises ConfigError.
    """
    problems = []
    for name, text in options.items():
        key, option = BY_NAME[name], "--" + name.replace("_", "-")
        try:
            settings = key.put(settings, key.form.parse(yaml.ScalarNode(":str", text)))
        except InvalidError as invalid:
            wrong = str(invalid)
            problems.append(Problem("command line", wrong, key.form.allowed, option, quoted(text)))
    if problems:
        raise ConfigError(problems)
    with_lease = max(settings.interval, settings.interval_with_lease)
    return settings._replace(interval_with_lease=with_lease)
