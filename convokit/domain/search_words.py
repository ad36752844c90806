"""What text is found by: the same words for what is stored and for what is asked.

Both sides are folded (NFKC, case, and the accents of Latin, Greek and Cyrillic letters) and cut into words. A language that
writes no spaces has no words to cut at: its runs are indexed by every character, and every two that follow each other.

Stored rows were cut by these rules, and are taken out of the index again by the same: whoever changes them empties the index
in a migration.

Lengths of time that a search looks at before it looks at all of it, and what a message of each of them is indexed by.

PostgreSQL's index gives out all messages that hold the words, in no order. With the words it is asked for the newest periods of
some length: of a word that stands in half of a million messages it then gives out some hundred. Periods are counted from 1970.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

MOST_CHARS = 65_536
"""Of each message, so many folded characters are indexed: at most 512 KiB of pairs, where PostgreSQL takes 1 MiB of a row."""
WORD_CHARS = 64
"""A longer word is found by its beginning: at most 256 bytes, where PostgreSQL takes 2 kB."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3100-\u318f\u31a0-\u31bf\u31f0-\u31ff"  # jamo, kana, bopomofo
    "\u2600-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff"  # emoji
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U000323af"
)
_SEPARATE = "\u30a0\u30fb\u0e3f\u0e4f\u0e5a\u0e5b"
"""Signs in these blocks that stand between words."""
_SIGNS = "\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u0f00-\u0fbc"
"""Signs on and around letters, which are no letters themselves: Hebrew, Arabic, the scripts of India, Tibetan."""
_LETTER = f"(?:[^\\W_{_UNSPACED}]|[{_SIGNS}])"
_WORD = re.compile(f"(?P<run>(?:(?![{_SEPARATE}])[{_UNSPACED}])+)|{_LETTER}+")
_ASCII_WORD = re.compile("[0-9a-z]+")
_MARKS = re.compile("[\u0300-\u036f]+")
_ACCENTED = re.compile("[\u00c0-\u024f\u0300-\u045f\u0490-\u052f\u1e00-\u1fff]")
_CLUSTER = re.compile("[\\s\\S][\u0300-\u036f\u1160-\u11ff\u3099\u309a\uff9e\uff9f]*")
LENGTHS = (10, 16, 22)
"""17 minutes, 18 hours and 49 days, as powers of two of a second."""
MOST = 32
"""Periods of a span: half of the next length."""
_SECOND = 1_000_000


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is folded. `unspaced` says that it is a run of a language without spaces: it may stand inside another."""

    text: str
    is_unspaced: bool

    @property
    def keys(self) -> list[str]:
        """What every row that holds the word is indexed by."""
        if not self.is_unspaced:
            return [self.text[:WORD_CHARS]]
        return [self.text[at : at + 2] for at in range(max(len(self.text) - 1, 1))]


def fold(text: str) -> str:
    """Return text as it is compared.

    >>> fold("ＡＢＣ ｶﾞｲﾄﾞ Café Straße")
    'abc ガイド cafe strasse'
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if _ACCENTED.search(text):
        text = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", text)))
    return text


def fold_with_positions(text: str) -> tuple[str, list[int]]:
    """Return text as it is compared, and for each character of that, and its end, where in `text` it comes from."""
    if text.isascii():
        return text.lower(), list(range(len(text) + 1))
    pieces, places = [], []
    for found in _CLUSTER.finditer(text):
        piece = _folded_cluster(found.group())
        pieces.append(piece)
        places += [found.start()] * len(piece)
    return "".join(pieces), [*places, len(text)]


@lru_cache(maxsize=8192)
def _folded_cluster(text: str) -> str:
    return fold(text)


def build_pattern(found: Iterable[Word]) -> str:
    """Return the regular expression that finds these words, one after the other, in folded text."""
    made, before = "", None
    for word in found:
        spelt = re.escape(word.text)
        # the word comes first: a pattern that begins with letters skips to them, one with a condition looks everywhere
        edges = "" if word.is_unspaced else f"(?<!{_LETTER}{spelt})(?!{_LETTER})"
        between = "" if before is None else r"[\W_]*" if word.is_unspaced or before.is_unspaced else r"[\W_]+"
        made += f"{between}{spelt}{edges}"
        before = word
    return made


def split_words(text: str) -> Iterator[Word]:
    """Yield the words of folded text.

    >>> [word.text for word in split_words("東京tower, 2nd floor")]
    ['東京', 'tower', '2nd', 'floor']
    """
    for found in _WORD.finditer(text):
        yield Word(found.group(), found.lastgroup == "run")


def build_keys(text: str) -> set[str]:
    """Return what a message with this text is indexed by.

    >>> sorted(build_keys("東京都 Tower"))
    ['tower', '京', '京都', '東', '東京', '都']
    """
    text = fold(text[:MOST_CHARS])[:MOST_CHARS]
    if text.isascii():  # the same words, found six times as fast
        return {word[:WORD_CHARS] for word in _ASCII_WORD.findall(text)}
    found: set[str] = set()
    for match in _WORD.finditer(text):
        word = match.group()
        if match.lastgroup is None:
            found.add(word[:WORD_CHARS])
        else:
            found.update(word, map(str.__add__, word, word[1:]))
    return found


@dataclass(frozen=True, slots=True)
class PeriodSpan:
    """Messages from microsecond `since` on: each has one of `keys`, unless it is newer than what the span was made for."""

    since: int
    keys: tuple[str, ...]


def build_period_keys(at: int) -> list[str]:
    """Return what a message of microsecond `at` is indexed by. No word holds the signs that are in them.

    >>> build_period_keys(1_700_000_000_000_000)
    ['_10.1660156', '_16.25939', '_22.405']
    """
    return [_key(length, at // _SECOND >> length) for length in LENGTHS]


def span_ending_at(at: int, length: int, count: int = 2) -> PeriodSpan:
    """Return the span of `count` periods that ends with the one that microsecond `at` is in."""
    last = at // _SECOND >> length
    first = last - count + 1
    return PeriodSpan((first << length) * _SECOND, tuple(_key(length, number) for number in range(first, last + 1)))


def span_covering(first: int, last: int) -> PeriodSpan | None:
    """Return the shortest span that holds both moments, None where none is as long."""
    spans = (span_ending_at(last, length, MOST) for length in LENGTHS)
    return next((span for span in spans if span.since <= first), None)


def spans_to_search(at: int, which: int, found: int, wanted: int) -> list[PeriodSpan]:
    """Return the spans to ask for: two periods of `LENGTHS[which]` hold `wanted` messages, two of the length before it `found`.

    Where that says how many more of the shorter periods would do if all was as it is now, these come first, a quarter more.
    """
    enough = [span_ending_at(at, LENGTHS[which])]
    if which and found * 2 * MOST >= wanted * 5:
        enough.insert(0, span_ending_at(at, LENGTHS[which - 1], min(wanted * 5 // (found * 2) + 1, MOST)))
    return enough


def _key(length: int, number: int) -> str:
    return f"_{length}.{number}"
