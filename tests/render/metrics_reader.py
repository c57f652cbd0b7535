"""A strict reader of the Prometheus text format, to test what we write.  It knows no name."""

from __future__ import annotations

import re

SAMPLE = re.compile(
    r"(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>[0-9.e+-]+)"
)
LABEL = re.compile(r'(?P<name>[a-zA-Z_]\w*)="(?P<value>(?:[^"\\\n]|\\.)*)"(?:,|$)')
ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}

Sample = tuple[tuple[tuple[str, str], ...], float]


def read_metrics(text: str) -> dict[str, tuple[str, list[Sample]]]:
    """Return kind and samples of each family, by name; any line of another form is an error."""
    families: dict[str, tuple[str, list[Sample]]] = {}
    lines = iter(text.split("\n"))
    name = ""
    for line in lines:
        if line.startswith("# HELP "):
            name, help_text = line[7:].split(" ", 1)
            assert help_text.endswith((".", ")"))
            assert name not in families, "a family stands twice"
            kind_line = next(lines)
            assert kind_line.startswith(f"# TYPE {name} ")
            families[name] = (kind_line.rpartition(" ")[2], [])
        elif line:
            match = SAMPLE.fullmatch(line)
            assert match, line
            assert match["name"] == name, "a sample of another family"
            families[name][1].append((_labels(match["labels"] or ""), float(match["value"])))
    return families


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    found = []
    while text:
        match = LABEL.match(text)
        assert match, text
        value = re.sub(r"\\.", lambda escape: ESCAPES[escape[0]], match["value"])
        found.append((match["name"], value))
        text = text[match.end() :]
    return tuple(found)
