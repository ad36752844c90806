"""Parse search queries, and rank and excerpt matching texts.

A text matches if it contains every word of the query, in any order. Words in double quotes must follow each other. There is no
other syntax: operators of search engines are plain words, or signs between words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from convokit.domain.conversation import Conversation
from convokit.domain.message import SUMMARY, Message
from convokit.domain.paging import Page
from convokit.domain.search_words import (
    MAX_INDEXED_CHARS,
    Word,
    build_pattern,
    fold,
    fold_with_positions,
    limit_marks,
    split_words,
)
from convokit.errors import InvalidInput

MAX_WORDS = 32
MAX_CHARS = 1_000
SNIPPET_CHARS = 120
_LEAD_CHARS = 40
"""Characters of a snippet before the first match."""
_TYPICAL_COUNT = 2.0
_TYPICAL_CHARS = 1_000
"""A word that occurs `_TYPICAL_COUNT` times in a text of `_TYPICAL_CHARS` / 2 characters gets half of the highest score."""


class Hit(BaseModel):
    """A message that matches a search.

    `snippet` is a part of its text, with `…` where it was cut. `marks` are the start and end positions of the query's words in
    the snippet. `rank` is between 0 and 1; 1 is best. `is_summary` marks a rolling summary, which nobody said.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    conversation_id: UUID
    key: str | None = None
    message: Message
    snippet: str
    marks: list[tuple[int, int]]
    rank: float

    @property
    def is_summary(self) -> bool:
        """Whether the message is a rolling summary that the library had a model write."""
        return self.message.status == SUMMARY

    def highlighted(self, before: str = "**", after: str = "**") -> str:
        """Return the snippet with `before` and `after` around each word."""
        parts, last = [], 0
        for start, end in self.marks:
            parts += [self.snippet[last:start], before, self.snippet[start:end], after]
            last = end
        return "".join([*parts, self.snippet[last:]])


class SearchPage(Page[Hit]):
    """One page of a search."""

    conversations: list[Conversation] = Field(default_factory=list)
    """Conversations that the query names: by their id or a message's id, by the beginning of their key, or by words of their
    title. At most 20, on the first page only."""


@dataclass(frozen=True, slots=True)
class TextQuery:
    """The parsed text of a query.

    A text matches if it matches each of `patterns` after folding. `phrase` matches all words in sequence.
    """

    given: str
    text: str
    """The folded query."""
    keys: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    phrase: re.Pattern[str]

    @classmethod
    def parse(cls, given: object) -> TextQuery:
        """Parse a query. Raises: InvalidInput if it is not text, contains no word, or is too long."""
        if not isinstance(given, str):
            raise InvalidInput("query", f"must be text, not {type(given).__name__}")
        if len(given) > MAX_CHARS:
            raise InvalidInput("query", f"has {len(given):,} characters; the limit is {MAX_CHARS:,}")
        folded = fold(given)
        words = list(split_words(folded))
        if not words:
            raise InvalidInput("query", "contains no word; use letters, digits or emoji")
        if len(words) > MAX_WORDS:
            raise InvalidInput("query", f"has {len(words)} words; the limit is {MAX_WORDS}")
        # dict.fromkeys: without duplicates, in order
        keys = dict.fromkeys(key for word in words for key in word.keys)
        patterns = dict.fromkeys(build_pattern(group) for group in _split_groups(folded))
        return cls(
            given,
            folded,
            tuple(keys),
            tuple(map(re.compile, patterns)),
            re.compile(build_pattern(words)),
        )

    def rank(self, text: str) -> float | None:
        """Return the score of a text, 0 to 1; None if it does not match.

        Words that occur often and short texts score higher. A text that contains all words in sequence scores highest.
        """
        text = fold(text[:MAX_INDEXED_CHARS])[:MAX_INDEXED_CHARS]
        # Saturating word frequency with a penalty for length, as in BM25, but without statistics of other messages.
        saturation = _TYPICAL_COUNT * (0.5 + len(text) / _TYPICAL_CHARS)
        total = 0.0
        for pattern in self.patterns:
            count = sum(1 for _ in pattern.finditer(text))
            if not count:
                return None
            total += count / (count + saturation)
        has_phrase = len(self.patterns) == 1 or self.phrase.search(text) is not None
        return round((total / len(self.patterns) + has_phrase) / 2, 6)

    def is_in(self, text: str) -> bool:
        """Return whether a text matches."""
        folded = fold(text)
        return all(pattern.search(folded) for pattern in self.patterns)

    def excerpt(self, text: str) -> tuple[str, list[tuple[int, int]]]:
        """Return the part of a text around its first match, on one line, and the positions of the words in it."""
        text = limit_marks(text[:MAX_INDEXED_CHARS])
        folded, positions = fold_with_positions(text)
        phrase = self.phrase.search(folded)
        first = (
            min((each.start() for each in self._find_words(folded)), default=0) if phrase is None else phrase.start()
        )
        start = max(positions[first] - _LEAD_CHARS, 0)
        end = min(start + SNIPPET_CHARS, len(text))
        start = max(end - SNIPPET_CHARS, 0)
        part = text[start:end]
        folded, positions = fold_with_positions(part)
        marks = sorted((positions[each.start()], positions[each.end()]) for each in self._find_words(folded))
        return _add_ellipses(part, marks, is_cut_before=start > 0, is_cut_after=end < len(text))

    def _find_words(self, folded: str) -> Iterator[re.Match[str]]:
        for pattern in self.patterns:
            yield from pattern.finditer(folded)


def _split_groups(folded: str) -> Iterator[list[Word]]:
    """Yield the groups of words that must follow each other: the words of each quotation, and every other word alone."""
    for number, part in enumerate(folded.split('"')):
        words = list(split_words(part))
        if number % 2 and words:
            yield words
        else:
            yield from ([word] for word in words)


def _add_ellipses(
    text: str, marks: list[tuple[int, int]], *, is_cut_before: bool, is_cut_after: bool
) -> tuple[str, list[tuple[int, int]]]:
    """Return the text on one line with an ellipsis at each cut end, and the marks moved accordingly and merged."""
    merged: list[tuple[int, int]] = []
    for start, end in marks:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    line = re.sub(r"\s", " ", text)
    lead = "…" if is_cut_before else ""
    return lead + line + ("…" if is_cut_after else ""), [(start + len(lead), end + len(lead)) for start, end in merged]
