"""Test the index keys of a text."""

from __future__ import annotations

import itertools
import string
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.domain.search_words import build_keys, limit_marks
from convokit.search.query import TextQuery
from convokit.wire.message_encoding import slugify_name
from tests.support.selection import keep

_ASCII = st.text(st.sampled_from(string.printable + "aaa_- "), max_size=200)


@given(_ASCII)
def test_ascii_and_unicode_paths_give_equal_keys(text: str) -> None:
    """The fast path for ASCII finds the same words as the general path."""
    assert build_keys(text) | {"東"} == build_keys(f"{text} 東")


MARKS = {
    "Latin": "\u0301\u0316" * 32_000,
    "half-width kana": "\u0301\uff9e" * 32_000,
    "marks that decompose": "\u0f73\u0301" * 32_000,
    "several scripts": "\u05b0\u064b\u0301\U0001d165" * 16_000,
}


@pytest.mark.parametrize("marks", keep(MARKS.values(), MARKS["half-width kana"], sample=True), ids=MARKS)
def test_no_long_run_of_marks_is_normalized(marks: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting the marks of a run takes quadratic time, so a run is cut at 30 marks: 20 ms instead of many seconds."""
    text = f"東京 a{marks} ende"
    given: list[str] = []
    normalize = unicodedata.normalize

    def record(form: Any, value: str) -> str:
        given.append(value)
        return normalize(form, value)

    monkeypatch.setattr(unicodedata, "normalize", record)
    keys = build_keys(text)
    query = TextQuery.parse(text[:1000])
    assert query.rank(text) is not None or "ende" not in query.text
    query.excerpt(text)
    slugify_name(text)
    assert {"東京", "ende"} <= keys
    monkeypatch.undo()
    assert given
    assert max(map(_count_longest_run, given)) <= 2 * 30  # some marks decompose into two


def _count_longest_run(text: str) -> int:
    """Return the number of marks in the longest run of marks of a text."""
    kinds = [unicodedata.combining(unicodedata.normalize("NFKD", each)[0]) > 0 for each in text]
    return max((len(list(run)) for is_mark, run in itertools.groupby(kinds) if is_mark), default=0)


def test_limit_marks_keeps_30_marks_and_all_other_text() -> None:
    kept = "か\u3099 e\u0301\u0323 が。。。" + "…" * 40 + "🎉" * 40 + " -- " * 20
    assert limit_marks(kept) == kept
    assert limit_marks("a" + "\u0301" * 31 + "b" + "\u0316" * 30) == "a" + "\u0301" * 30 + "b" + "\u0316" * 30
    assert limit_marks("a" + "\u0301\uff9e" * 31) == "a" + "\u0301\uff9e" * 15


def test_limit_marks_knows_every_mark() -> None:
    """Every character whose decomposition begins with a mark is cut, in any version of Unicode."""
    for code in (*range(0x300, 0x3100), *range(0xA000, 0xABFF), *range(0xFB00, 0x11FFF), *range(0x16A00, 0x1EFFF)):
        if not 0xD800 <= code < 0xE000 and unicodedata.combining(unicodedata.normalize("NFKD", chr(code))[0]):
            assert len(limit_marks("a" + chr(code) * 40)) == 31, hex(code)


def test_a_word_with_too_many_marks_is_found_by_itself() -> None:
    word = "a" + "\u05b0" * 64
    hit = TextQuery.parse(word)
    assert set(hit.keys) <= build_keys(f"x {word} y")
    assert hit.rank(f"x {word} y") is not None
    snippet, marks = hit.excerpt(f"x {word} y")
    assert [len(snippet[start:end]) for start, end in marks] == [31]
