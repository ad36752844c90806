"""What is asked of a search, and whether a text answers it.

Every word must be there, in any order. Words in double quotes must follow each other. Nothing else in a query means anything:
operators of search engines are words, or signs between words.

What a search finds: a message, and where in it the words are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain import search_words
from convokit.domain.message import Message
from convokit.errors import InvalidInput

MOST_WORDS = 32
MOST_CHARS = 1_000
SNIPPET_CHARS = 120
_BEFORE = 40
"""So much of the snippet stands before the first word."""
_MANY = 2.0
_LONG_CHARS = 1_000
"""Occurrences, and a length, that are neither few nor many."""


class Hit(BaseModel):
    """A message that holds what was looked for.

    `snippet` is a piece of its text, with `…` where it was cut; `marks` are the places of the words in the snippet, each from a
    character up to another. `rank` is between 0 and 1, the best first.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversation_id: UUID
    key: str | None = None
    message: Message
    snippet: str
    marks: list[tuple[int, int]]
    rank: float

    def highlighted(self, before: str = "**", after: str = "**") -> str:
        """Return the snippet with signs around each of the words."""
        made, last = [], 0
        for start, end in self.marks:
            made += [self.snippet[last:start], before, self.snippet[start:end], after]
            last = end
        return "".join([*made, self.snippet[last:]])


@dataclass(frozen=True, slots=True)
class TextQuery:
    """A query: the keys a row must have, and patterns its folded text must match.

    A row with all `keys` has the `characters` as well: they help an index whose keys are not exact.
    """

    text: str
    keys: tuple[str, ...]
    characters: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    whole: re.Pattern[str]
    """All its words, one after the other."""

    @classmethod
    def parse(cls, given: object) -> TextQuery:
        """Return a query. Raises: InvalidInput when it is no text, has no word, or too many."""
        if not isinstance(given, str):
            raise InvalidInput("query", f"must be text, not {type(given).__name__}")
        if len(given) > MOST_CHARS:
            raise InvalidInput("query", f"{len(given):,} characters are over the limit of {MOST_CHARS:,}")
        folded = search_words.fold(given)
        every = list(search_words.split_words(folded))
        if not every:
            raise InvalidInput("query", "holds no word: letters, digits or emoji")
        if len(every) > MOST_WORDS:
            raise InvalidInput("query", f"{len(every)} words are over the limit of {MOST_WORDS}")
        keys = dict.fromkeys(key for word in every for key in word.keys)
        characters = dict.fromkeys(character for word in every if word.is_unspaced for character in word.text)
        together = dict.fromkeys(search_words.build_pattern(group) for group in _groups(folded))
        return cls(
            folded,
            tuple(keys),
            tuple(characters),
            tuple(map(re.compile, together)),
            re.compile(search_words.build_pattern(every)),
        )

    def rank(self, text: str) -> float | None:
        """Return how well a text answers, 0 to 1, or None where it does not.

        The more often it holds each word the better, and the shorter it is; best where the words stand together as asked.
        """
        text = search_words.fold(text[: search_words.MOST_CHARS])[: search_words.MOST_CHARS]
        length = _MANY * (0.5 + len(text) / _LONG_CHARS)
        total = 0.0
        for pattern in self.patterns:
            count = sum(1 for _ in pattern.finditer(text))
            if not count:
                return None
            total += count / (count + length)
        together = len(self.patterns) == 1 or self.whole.search(text) is not None
        return round((total / len(self.patterns) + together) / 2, 6)

    def excerpt(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the piece of a text around its first match, on one line, and where in it the words are."""
        text = text[: search_words.MOST_CHARS]
        folded, places = search_words.fold_with_positions(text)
        found = self.whole.search(folded)
        first = min((each.start() for each in self._found(folded)), default=0) if found is None else found.start()
        start = max(places[first] - _BEFORE, 0)
        end = min(start + SNIPPET_CHARS, len(text))
        start = max(end - SNIPPET_CHARS, 0)
        piece = text[start:end]
        folded, places = search_words.fold_with_positions(piece)
        marks = sorted((places[each.start()], places[each.end()]) for each in self._found(folded))
        return _cut(piece, marks, start > 0, end < len(text))

    def _found(self, folded: str) -> Iterator[re.Match[str]]:
        for pattern in self.patterns:
            yield from pattern.finditer(folded)


def _groups(folded: str) -> Iterator[list[search_words.Word]]:
    """Yield what must stand together: the words of each quotation, and every other word alone."""
    for number, piece in enumerate(folded.split('"')):
        found = list(search_words.split_words(piece))
        if number % 2 and found:
            yield found
        else:
            yield from ([each] for each in found)


def _cut(piece: str, marks: list[tuple[int, int]], before: bool, after: bool) -> tuple[str, list[tuple[int, int]]]:
    merged: list[tuple[int, int]] = []
    for start, end in marks:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    line = re.sub(r"\s", " ", piece)
    lead = "…" if before else ""
    return lead + line + ("…" if after else ""), [(start + len(lead), end + len(lead)) for start, end in merged]
