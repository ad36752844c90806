"""What text is found by: the same words for what is stored and for what is asked.

Both sides are folded (NFKC, case, and the accents of Latin, Greek and Cyrillic letters) and cut into words. A language that
writes no spaces has no words to cut at: its runs are indexed by every character, and every two that follow each other.

Stored rows were cut by these rules, and are taken out of the index again by the same: whoever changes them empties the index
in a migration.
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


@dataclass(frozen=True, slots=True)
class Word:
    """A word as it is folded. `unspaced` says that it is a run of a language without spaces: it may stand inside another."""

    text: str
    unspaced: bool

    @property
    def keys(self) -> list[str]:
        """What every row that holds the word is indexed by."""
        if not self.unspaced:
            return [self.text[:WORD_CHARS]]
        return [self.text[at : at + 2] for at in range(max(len(self.text) - 1, 1))]


def folded(text: str) -> str:
    """Return text as it is compared.

    >>> folded("ＡＢＣ ｶﾞｲﾄﾞ Café Straße")
    'abc ガイド cafe strasse'
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if _ACCENTED.search(text):
        text = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", text)))
    return text


def folded_places(text: str) -> tuple[str, list[int]]:
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
    return folded(text)


def pattern(found: Iterable[Word]) -> str:
    """Return the regular expression that finds these words, one after the other, in folded text."""
    made, before = "", None
    for word in found:
        spelt = re.escape(word.text)
        # the word comes first: a pattern that begins with letters skips to them, one with a condition looks everywhere
        edges = "" if word.unspaced else f"(?<!{_LETTER}{spelt})(?!{_LETTER})"
        between = "" if before is None else r"[\W_]*" if word.unspaced or before.unspaced else r"[\W_]+"
        made += f"{between}{spelt}{edges}"
        before = word
    return made


def words(text: str) -> Iterator[Word]:
    """Yield the words of folded text.

    >>> [word.text for word in words("東京tower, 2nd floor")]
    ['東京', 'tower', '2nd', 'floor']
    """
    for found in _WORD.finditer(text):
        yield Word(found.group(), found.lastgroup == "run")


def keys(text: str) -> set[str]:
    """Return what a message with this text is indexed by.

    >>> sorted(keys("東京都 Tower"))
    ['tower', '京', '京都', '東', '東京', '都']
    """
    text = folded(text[:MOST_CHARS])[:MOST_CHARS]
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
