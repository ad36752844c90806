"""What a function's docstring says to a model: the text before its sections, and a line for each parameter.

Google, NumPy and Sphinx styles are read. Only names that the function has begin an entry, so that prose with a colon in it
stays what it is: a part of the entry before.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable

_GOOGLE = re.compile(
    r"(Args|Arguments|Parameters|Params|Keyword Arg(ument)?s|Other Parameters|Attributes|Returns?|Yields?|Raises|Warns|"
    r"Warnings?|Examples?|Notes?|See Also|References|Todo):"
)
_GOOGLE_ARGUMENTS = re.compile(r"(Args|Arguments|Parameters|Params|Keyword Arg(ument)?s|Other Parameters):")
_GOOGLE_ENTRY = re.compile(r"\s+\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:\s*(.*)")
_NUMPY_ARGUMENTS = ("Parameters", "Other Parameters", "Keyword Arguments")
_NUMPY_ENTRY = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_UNDERLINE = re.compile(r"-{3,}")
_SPHINX = re.compile(
    r":(param|parameter|arg|argument|key|keyword|type|returns?|rtype|raises?|except|exception|yields?|ytype|var|ivar|cvar|"
    r"vartype|meta)\b[^:]*:"
)
_SPHINX_ENTRY = re.compile(r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)")


def parse_docstring(docstring: str | None, names: Collection[str]) -> tuple[str, dict[str, str]]:
    """Return the text before the first section, and what is said of each of the parameters `names`."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    first = next((number for number in range(len(lines)) if _begins_section(lines, number)), len(lines))
    notes: dict[str, list[str]] = {}
    number = first
    while number < len(lines):
        if _GOOGLE_ARGUMENTS.fullmatch(lines[number].rstrip()):
            _google(_section(lines, number + 1), names, notes)
        elif lines[number].strip() in _NUMPY_ARGUMENTS and _underlined(lines, number):
            _numpy(_section(lines, number + 2), names, notes)
        elif _SPHINX.match(lines[number]):
            _sphinx(_section(lines, number + 1), lines[number], names, notes)
        number += 1
    said = {name: " ".join(" ".join(parts).split()) for name, parts in notes.items()}
    return "\n".join(lines[:first]).strip(), {name: text for name, text in said.items() if text}


def _begins_section(lines: list[str], number: int) -> bool:
    line = lines[number].rstrip()
    return bool(_GOOGLE.fullmatch(line) or _SPHINX.match(line) or _underlined(lines, number))


def _underlined(lines: list[str], number: int) -> bool:
    return (
        bool(lines[number].strip())
        and number + 1 < len(lines)
        and bool(_UNDERLINE.fullmatch(lines[number + 1].strip()))
    )


def _section(lines: list[str], start: int) -> list[str]:
    """Return the lines up to the next section."""
    end = next((number for number in range(start, len(lines)) if _begins_section(lines, number)), len(lines))
    return lines[start:end]


def _google(body: Iterable[str], names: Collection[str], notes: dict[str, list[str]]) -> None:
    """Take the entries, which stand indented under their heading."""
    here: list[str] = []
    for line in body:
        if line.strip() and not line[0].isspace():
            return
        found = _GOOGLE_ENTRY.fullmatch(line)
        if found and found[1] in names and found[1] not in notes:
            here = notes[found[1]] = [found[2]]
        else:
            here.append(line)


def _numpy(body: Iterable[str], names: Collection[str], notes: dict[str, list[str]]) -> None:
    """Take the entries (`a, b : type`), which are not indented, while what is said of them is."""
    here: list[list[str]] = []
    for line in body:
        if line.strip() and not line[0].isspace():
            found = _NUMPY_ENTRY.fullmatch(line.strip())
            named = [name.strip(" *") for name in found[1].split(",")] if found else []
            here = [notes.setdefault(name, []) for name in named if name in names]
        else:
            for parts in here:
                parts.append(line)


def _sphinx(body: Iterable[str], line: str, names: Collection[str], notes: dict[str, list[str]]) -> None:
    """Take one entry, which goes on until an empty line or the next field."""
    found = _SPHINX_ENTRY.match(line)
    if not found or found[1] not in names:
        return
    here = notes[found[1]] = [found[2]]
    for more in body:
        if not more.strip():
            return
        here.append(more)
