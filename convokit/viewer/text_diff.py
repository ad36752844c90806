"""Compare two texts by words, and Chinese, Japanese and Korean by characters."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

_CJK = "\u2e80-\u9fff\uac00-\ud7ff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|\s+|.", re.DOTALL)
_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_MAX_TOKENS = 3_000
"""Of one text. The comparison of two texts without anything in common takes the square of it."""
_MAX_LINES = 3_000


@dataclass(frozen=True, slots=True)
class TextChange:
    """A part of two texts."""

    kind: Literal["same", "removed", "added"]
    text: str


def compare_texts(a: str, b: str) -> list[TextChange]:
    """Return the parts that lead from `a` to `b`. Long texts are compared by lines, very long ones not at all."""
    for pattern, limit in ((_TOKEN, _MAX_TOKENS), (_LINE, _MAX_LINES)):
        one, other = pattern.findall(a), pattern.findall(b)
        if max(len(one), len(other)) <= limit:
            return _compare(one, other)
    return [TextChange("removed", a), TextChange("added", b)]


def _compare(a: list[str], b: list[str]) -> list[TextChange]:
    changes = []
    for kind, first, last, start, end in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if kind == "equal":
            changes.append(TextChange("same", "".join(a[first:last])))
            continue
        if last > first:
            changes.append(TextChange("removed", "".join(a[first:last])))
        if end > start:
            changes.append(TextChange("added", "".join(b[start:end])))
    return changes
