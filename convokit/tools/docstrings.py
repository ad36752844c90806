"""Parse docstrings in Google, NumPy and Sphinx style.

Only a parameter of the function starts an entry. So a colon in the text does not: that line continues the entry before.
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
    """Return the text before the first section, and the descriptions of the parameters `names`."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    first = next((number for number in range(len(lines)) if _is_section_start(lines, number)), len(lines))
    notes: dict[str, list[str]] = {}
    number = first
    while number < len(lines):
        if _GOOGLE_ARGUMENTS.fullmatch(lines[number].rstrip()):
            _parse_google(_read_section(lines, number + 1), names, notes)
        elif lines[number].strip() in _NUMPY_ARGUMENTS and _is_underlined(lines, number):
            _parse_numpy(_read_section(lines, number + 2), names, notes)
        elif _SPHINX.match(lines[number]):
            _parse_sphinx(_read_section(lines, number + 1), lines[number], names, notes)
        number += 1
    joined = {name: " ".join(" ".join(parts).split()) for name, parts in notes.items()}
    return "\n".join(lines[:first]).strip(), {name: text for name, text in joined.items() if text}


def _is_section_start(lines: list[str], number: int) -> bool:
    line = lines[number].rstrip()
    return bool(_GOOGLE.fullmatch(line) or _SPHINX.match(line) or _is_underlined(lines, number))


def _is_underlined(lines: list[str], number: int) -> bool:
    return (
        bool(lines[number].strip())
        and number + 1 < len(lines)
        and bool(_UNDERLINE.fullmatch(lines[number + 1].strip()))
    )


def _read_section(lines: list[str], start: int) -> list[str]:
    end = next((number for number in range(start, len(lines)) if _is_section_start(lines, number)), len(lines))
    return lines[start:end]


def _parse_google(body: Iterable[str], names: Collection[str], notes: dict[str, list[str]]) -> None:
    """Read entries, which are indented below their heading."""
    entry: list[str] = []
    for line in body:
        if line.strip() and not line[0].isspace():
            return
        match = _GOOGLE_ENTRY.fullmatch(line)
        if match and match[1] in names and match[1] not in notes:
            entry = notes[match[1]] = [match[2]]
        else:
            entry.append(line)


def _parse_numpy(body: Iterable[str], names: Collection[str], notes: dict[str, list[str]]) -> None:
    """Read entries (`a, b : type`), which are not indented. Their descriptions are."""
    entries: list[list[str]] = []
    for line in body:
        if line.strip() and not line[0].isspace():
            match = _NUMPY_ENTRY.fullmatch(line.strip())
            entry_names = [name.strip(" *") for name in match[1].split(",")] if match else []
            entries = [notes.setdefault(name, []) for name in entry_names if name in names]
        else:
            for entry in entries:
                entry.append(line)


def _parse_sphinx(body: Iterable[str], line: str, names: Collection[str], notes: dict[str, list[str]]) -> None:
    """Read one entry. It ends at an empty line or at the next field."""
    match = _SPHINX_ENTRY.match(line)
    if not match or match[1] not in names:
        return
    entry = notes[match[1]] = [match[2]]
    for next_line in body:
        if not next_line.strip():
            return
        entry.append(next_line)
