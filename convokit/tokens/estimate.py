"""Estimate tokens by character classes, without a vocabulary.

An ASCII word counts by its length, a frequent word as one token. Numbers, signs, line breaks and indents count as tokenizers
split them. Other characters count by their class: frequent Chinese characters and hangul as one token, rare ones as more.

Costs are in quarters of a token, and fitted not to be under the truth of o200k_base. A count is four fifths of their sum, which
is in the middle of the vocabularies that models have.
"""

from __future__ import annotations

import functools
import re
import sys
from array import array
from importlib.resources import files
from itertools import repeat
from typing import NamedTuple

_LONGEST = 40
_ASCII_WORDS = re.compile(f"[A-Z]?[a-z]{{1,{_LONGEST}}}|[A-Z]{{1,2}}")
_WORDS = re.compile(
    f"[A-Z\u00c0-\u00de]?[a-z\u00df-\u024f\u1e00-\u1eff]{{1,{_LONGEST}}}|[A-Z\u00c0-\u00de]{{1,2}}"
    f"|[\u0370-\u052f]{{1,{_LONGEST}}}"
)
_ACCENTED = re.compile("[\u00c0-\u024f\u0370-\u052f\u1e00-\u1eff]")
_UNBROKEN = re.compile(r"\b[A-Za-z0-9]{20,}")
_NUMBERS = re.compile("[0-9]{1,3}")
_SPACED_NUMBERS = re.compile(" [0-9]")
_GAPS = re.compile("  {1,63}")
_LETTER_DIGIT = re.compile("[A-Za-z][0-9]")
_SPACED_SIGNS = re.compile(" (?=[\u2000-\U0010ffff])")
_SPACED_HAN = re.compile(" (?=[\u2e80-\u9fff])")
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
_NO_SIGNS = bytes(code for code in range(128) if chr(code).isalnum() or chr(code) == " ")
_NO_DIGITS = bytes(code for code in range(256) if not 48 <= code < 58)
_UTF16 = "utf-16-le" if sys.byteorder == "little" else "utf-16-be"

# First and last code unit, and quarters of a token for each.
_CLASSES = (
    (0x0000, 0xFFFF, 12),  # every script that is not named: its UTF-8 bytes
    (0x0080, 0x00BF, 8),  # signs of Latin-1
    (0x00C0, 0x00DE, 5),  # Latin capitals, which split the words they begin
    (0x00DF, 0x00FF, 2),  # Latin letters, beside what their words cost
    (0x0100, 0x024F, 4),
    (0x0250, 0x036F, 8),
    (0x0370, 0x03FF, 2),  # Greek, likewise
    (0x0400, 0x052F, 3),  # Cyrillic, likewise; the Russian letters cost less
    (0x0410, 0x044F, 1),
    (0x0530, 0x058F, 4),  # Armenian
    (0x0590, 0x06FF, 3),  # Hebrew, Arabic
    (0x0660, 0x0669, 8),  # digits, which no space is joined to
    (0x06F0, 0x06F9, 8),
    (0x0900, 0x0A7F, 4),  # the scripts of India
    (0x0966, 0x096F, 8),
    (0x0A80, 0x0DFF, 4),
    (0x0B00, 0x0B7F, 6),
    (0x0B80, 0x0BFF, 4),
    (0x0E00, 0x0E7F, 4),  # Thai
    (0x0E50, 0x0E59, 8),
    (0x0E80, 0x0FFF, 9),
    (0x1000, 0x109F, 4),  # Burmese
    (0x10A0, 0x10FF, 4),  # Georgian
    (0x1200, 0x139F, 9),
    (0x1780, 0x17FF, 4),  # Khmer
    (0x1E00, 0x1EFF, 4),  # the rest of Vietnamese
    (0x2000, 0x206F, 4),  # dashes and quotation marks
    (0x2190, 0x21FF, 8),
    (0x2500, 0x25FF, 8),
    (0x3000, 0x30FF, 4),  # kana and the punctuation beside them
    (0x4E00, 0x9FFF, 9),  # Chinese characters, if they are not frequent
    (0xAC00, 0xD7A3, 9),
    (0xD83C, 0xD83E, 8),  # emoji: a pair of units each
    (0xDC00, 0xDFFF, 4),
    (0xFE00, 0xFE0F, 4),
    (0xFF00, 0xFFEF, 5),
)
_FREQUENT = 4
_SIGN = 4
_UNBROKEN_SHARE = 0.6
"""Quarters for each character of a long run of letters and digits, beside what its words cost."""
_DIGIT = 3
"""Quarters for each digit of a number beyond the first of three: about half of the vocabularies have a token for each digit."""


class _Scale(NamedTuple):
    """Costs in quarters of a token. `words` has the cost of a word by its length, `saved` the discount of frequent words."""

    words: tuple[int, ...]
    saved: dict[str, int]
    units: bytes


class CharacterEstimate:
    """Estimates tokens without a vocabulary. For prose and code, between 0.75 of the true count and twice as many.

    That holds for vocabularies of 100,000 tokens and more. Smaller ones need more for other languages than English.
    """

    name = "estimate-2"  # another scale than the "estimate" of version 0.1, whose stored counts it does not take
    first_factor = 1.0
    is_estimate = True

    def count(self, text: str) -> int:
        """Return the tokens of `text`, rounded up."""
        if not text:
            return 0
        scale, plain, beyond = _scale(), text, ""
        if not text.isascii():
            beyond = "".join(_BEYOND_ASCII.findall(text))
            plain = text.encode("ascii", "replace").decode("ascii")
        words = _WORDS.findall(text) if _ACCENTED.search(beyond) else _ASCII_WORDS.findall(plain)
        quarters = sum(map(scale.words.__getitem__, map(len, words))) - sum(map(scale.saved.get, words, repeat(0)))
        encoded = plain.encode("ascii")
        signs = len(encoded.translate(None, _NO_SIGNS)) - len(beyond) + len(_GAPS.findall(plain)) + text.endswith(" ")
        digits = len(encoded.translate(None, _NO_DIGITS))
        if digits:
            groups = len(_NUMBERS.findall(plain))
            signs += len(_SPACED_NUMBERS.findall(plain)) + groups
            quarters += _DIGIT * (digits - groups) + 2 * len(_LETTER_DIGIT.findall(plain))  # identifiers
        if beyond:
            signs += len(_SPACED_SIGNS.findall(text)) + len(_SPACED_HAN.findall(text))
            quarters += sum(map(scale.units.__getitem__, array("H", beyond.encode(_UTF16, "surrogatepass"))))
        unbroken = sum(map(len, _UNBROKEN.findall(plain)))
        quarters += signs * _SIGN + int(unbroken * _UNBROKEN_SHARE)
        return -(-quarters // 5)  # four fifths of a quarter of the sum


@functools.cache
def _scale() -> _Scale:
    words, han, hangul = _read_frequent()
    costs = (0, *(4 * max(1, -int(-length * 0.4 // 1)) for length in range(1, _LONGEST + 2)))
    saved = {spelt: costs[len(word)] - 4 for word in words.split() for spelt in (word, word.capitalize())}
    units = bytearray(0x10000)
    for first, last, cost in _CLASSES:
        units[first : last + 1] = bytes([cost]) * (last + 1 - first)
    for character in "".join((han + hangul).split()):
        units[ord(character)] = _FREQUENT
    return _Scale(costs, saved, bytes(units))


def _read_frequent() -> tuple[str, str, str]:
    """Return words, Chinese characters and hangul syllables that are one token of o200k_base each."""
    words, han, hangul = files("convokit.tokens").joinpath("frequent.txt").read_text("utf-8").split("\n\n")
    return words, han, hangul
