"""A YAML text as a tree of PyYAML's nodes, each with its place and what is wrong with it.

Responsible for YAML itself: encoding, syntax, the limits on size, depth and number, and what is
refused wherever it stands (aliases, anchors, tags, a second document).  Knows no key.

PyYAML's composer (``yaml.compose()``) keeps lines and duplicate keys, and builds no object that a
tag names.  One of its methods is overridden.  It would follow aliases, with which a small file can
describe 10^9 values.  It would also recurse until Python raises RecursionError.

Source: YAML 1.1 (https://yaml.org/spec/1.1/), as PyYAML reads it.
"""

from __future__ import annotations

from typing import Any

import yaml

from garp_agent.config.errors import ConfigError, Problem, shown

MOST_BYTES = 1 << 20
MOST_NODES = 10_000  # keys and values; a file that describes one guest has some dozens
MOST_DEPTH = 16  # three are of use; the others leave room for an error that names the key

_HINTS = (
    ("alias", "; write a glob that begins with * in quotes"),
    (r"character '\t'", "; write spaces instead of tabs"),
    ("flow", "; write a value that contains [ ] { } ? or : in quotes"),
    ("cannot start any token", "; write such a value in quotes"),
)


def compose(raw: bytes, source: str) -> Any:
    """Read a document: a yaml.Node, or None where there is none.  Raises ConfigError.

    Each node has more attributes: ``wrong``, which is "" for a good one; ``place``, its line and
    column from 1; ``given``, how it is written, in one printable line.
    """
    if len(raw) > MOST_BYTES:
        raise ConfigError([Problem(source, "too large", f"at most {MOST_BYTES} bytes")])
    allowed = ""
    try:
        text = raw.decode()
        composer = _Composer(text)
        return composer.get_single_node()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        wrong = f"the byte 0x{raw[error.start]:02x} is not UTF-8"
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        wrong = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark
        line, wrong, allowed = mark.line + 1, *_explained(error)
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
        self._nodes += 1
        self._depth += 1
        if self._depth > MOST_DEPTH or self._nodes > MOST_NODES:
            wrong, allowed = "too many values", f"at most {MOST_NODES} keys and values"
            if self._depth > MOST_DEPTH:
                wrong, allowed = "nested too deeply", f"at most {MOST_DEPTH} levels"
            raise yaml.composer.ComposerError(None, None, wrong, start, allowed)
        if isinstance(event, yaml.AliasEvent):
            self.get_event()
            glob = shown(f"*{event.anchor}")
            wrong = f'YAML aliases are not supported, write "{glob}" if a glob is meant'
            node: Any = yaml.ScalarNode("", "", start, event.end_mark)  # type: ignore[arg-type]
        else:
            refused = [what for what in ("anchor", "tag") if getattr(event, what) is not None]
            wrong = f"YAML {refused[0]}s are not supported" if refused else ""
            event.anchor = event.tag = None  # else PyYAML judges them, in its own words
            node = super().compose_node(parent, index)
        node.place = start.line + 1, start.column + 1
        node.wrong, node.given = wrong, _given(node)
        self._depth -= 1
        return node


def _explained(error: yaml.MarkedYAMLError) -> tuple[str, str]:
    """Return what is wrong, and what is allowed if that is known."""
    if isinstance(error, yaml.composer.ComposerError):  # from compose_node, or PyYAML's only other
        note = error.note
        return (str(error.problem), note) if note else ("a second document begins", "one document")
    words = ", ".join(shown(part) for part in (error.context, error.problem) if part)
    words = words.replace(r"'\x00'", "the end")
    return f"not YAML: {words}" + next((hint for part, hint in _HINTS if part in words), ""), ""


def _given(node: Any) -> str:
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
    start, end = node.start_mark, node.end_mark
    return shown(start.buffer[start.pointer : end.pointer]) or "nothing"
