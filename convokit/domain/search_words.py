"""Split text into the words and index keys of the search.

Stored messages and queries go through the same steps. Text is folded: at most 30 marks on a letter, NFKC, lower case, no
accents on Latin, Greek and Cyrillic letters. Folded text is split into words. Languages without spaces have no word
boundaries: their runs are indexed by each character and by each pair of neighbouring characters.

Rows are removed from the index with the keys that these rules give. A change of the rules therefore needs a migration that
empties the index.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from uuid import UUID

MAX_INDEXED_CHARS = 65_536
"""Folded characters of a message that are indexed. Their pairs take at most 512 KiB; PostgreSQL limits a row to 1 MiB."""
MAX_WORD_CHARS = 64
"""A longer word is indexed by its beginning: at most 256 bytes. PostgreSQL limits an index entry to 2 kB."""
_MAY_BE_MARKS = re.compile("[\\W\uff9e\uff9f]{31,}")
"""Runs that may have too many marks. No mark is a letter or digit, except the half-width voicing marks of kana."""
MAX_MARKS = 30
"""Combining marks in a row that are kept: the limit of Unicode's stream-safe text (UAX 15, D3)."""
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3100-\u318f\u31a0-\u31bf\u31f0-\u31ff"  # jamo, kana, bopomofo
    "\u2600-\u27bf\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff"  # emoji
    "\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U000323af"
)
_SEPARATORS = "\u30a0\u30fb\u0e3f\u0e4f\u0e5a\u0e5b"
"""Characters of the blocks above that separate words."""
_COMBINING = "\u0300-\u036f\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0dff\u0f00-\u0fbc"
"""Marks on and around letters, which belong to the word: Latin, Hebrew, Arabic, the scripts of India, Tibetan."""
_LETTER = f"(?:[^\\W_{_UNSPACED}]|[{_COMBINING}])"
_WORD = re.compile(f"(?P<run>(?:(?![{_SEPARATORS}])[{_UNSPACED}])+)|{_LETTER}+")
_ASCII_WORD = re.compile("[0-9a-z]+")
_MARKS = re.compile("[\u0300-\u036f]+")
_ACCENTED = re.compile("[\u00c0-\u024f\u0300-\u045f\u0490-\u052f\u1e00-\u1fff]")
_CLUSTER = re.compile("[\\s\\S][\u0300-\u036f\u1160-\u11ff\u3099\u309a\uff9e\uff9f]*")


@dataclass(frozen=True, slots=True)
class Word:
    """A folded word. `is_unspaced` marks a run of a language without spaces, which may stand inside a longer run."""

    text: str
    is_unspaced: bool

    @property
    def keys(self) -> list[str]:
        """The index keys that every message with this word has."""
        if not self.is_unspaced:
            return [self.text[:MAX_WORD_CHARS]]
        return [self.text[at : at + 2] for at in range(max(len(self.text) - 1, 1))]


def fold(text: str) -> str:
    """Fold text for comparison.

    >>> fold("ＡＢＣ ｶﾞｲﾄﾞ Café Straße")
    'abc ガイド cafe strasse'
    """
    if text.isascii():
        return text.lower()
    text = limit_marks(text)
    # NFKC runs again because case folding can leave its normal form.
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if _ACCENTED.search(text):
        text = unicodedata.normalize("NFC", _MARKS.sub("", unicodedata.normalize("NFD", text)))
    return text


def limit_marks(text: str) -> str:
    """Return `text` without the combining marks beyond 30 in a row.

    Normalization sorts the marks of a run, and takes quadratic time for that. No language has so many marks on a letter.
    """
    return text if text.isascii() else _MAY_BE_MARKS.sub(_cut_marks, text)


def _cut_marks(match: re.Match[str]) -> str:
    kept, count = [], 0
    for character in match.group():
        # Some marks have class 0 and stand for two marks of other classes, so the decomposed form counts.
        is_mark = unicodedata.combining(unicodedata.normalize("NFKD", character)[0]) > 0
        count = count + 1 if is_mark else 0
        if count <= MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def fold_with_positions(text: str) -> tuple[str, list[int]]:
    """Fold text and return the position in `text` of each folded character, and of the end."""
    if text.isascii():
        return text.lower(), list(range(len(text) + 1))
    folded: list[str] = []
    positions: list[int] = []
    for match in _CLUSTER.finditer(text):
        cluster = _fold_cluster(match.group())
        folded.append(cluster)
        positions += [match.start()] * len(cluster)
    return "".join(folded), [*positions, len(text)]


@lru_cache(maxsize=8192)
def _fold_cluster(text: str) -> str:
    return fold(text)


def build_pattern(words: Iterable[Word]) -> str:
    """Return the regular expression that matches these words in sequence, in folded text."""
    pattern, previous = "", None
    for word in words:
        spelling = re.escape(word.text)
        # The word comes before its boundary conditions: `re` then skips ahead to its letters instead of testing each position.
        edges = "" if word.is_unspaced else f"(?<!{_LETTER}{spelling})(?!{_LETTER})"
        may_touch = previous is None or word.is_unspaced or previous.is_unspaced
        between = "" if previous is None else r"[\W_]*" if may_touch else r"[\W_]+"
        pattern += f"{between}{spelling}{edges}"
        previous = word
    return pattern


def split_words(text: str) -> Iterator[Word]:
    """Yield the words of folded text.

    >>> [word.text for word in split_words("東京tower, 2nd floor")]
    ['東京', 'tower', '2nd', 'floor']
    """
    for match in _WORD.finditer(text):
        yield Word(match.group(), match.lastgroup == "run")


def build_keys(text: str) -> set[str]:
    """Return the index keys of a message's text.

    >>> sorted(build_keys("東京都 Tower"))
    ['tower', '京', '京都', '東', '東京', '都']
    """
    text = fold(text[:MAX_INDEXED_CHARS])[:MAX_INDEXED_CHARS]
    if text.isascii():  # the same words, found six times as fast
        return {word[:MAX_WORD_CHARS] for word in _ASCII_WORD.findall(text)}
    keys: set[str] = set()
    for match in _WORD.finditer(text):
        word = match.group()
        if match.lastgroup is None:
            keys.add(word[:MAX_WORD_CHARS])
        else:
            keys.update(word, map(str.__add__, word, word[1:]))
    return keys


def build_owner_keys(tenant: str, conversation_id: UUID) -> tuple[str, str]:
    """Return the index keys of a tenant and of a conversation. They begin with `_`, which no word contains."""
    return f"_{tenant.encode().hex()[:MAX_WORD_CHARS]}", f"_{conversation_id.hex}"


def build_title_key(tenant: str) -> str:
    """Return the index key of a tenant's titles. They have no other owner key, so no search for messages finds a title."""
    return f"_title{build_owner_keys(tenant, UUID(int=0))[0]}"
