"""The estimate: not under the truth for o200k_base, not twice over it for prose and code, careful with the unknown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.tokens.estimate import CharacterEstimate, _read_frequent
from convokit.tokens.exact import ExactTokens
from tests.tokens.samples import COUNTS, FIXTURES, POOLS, UNSPACED

O200K, CL100K = ExactTokens("o200k_base"), ExactTokens("cl100k_base")


@pytest.mark.parametrize("kind", FIXTURES)
def test_the_estimate_is_over_the_truth_and_under_twice_of_it(kind: str) -> None:
    """For every class of text that was measured, the estimate for o200k_base lies between the truth and its double."""
    truth = O200K.count(FIXTURES[kind])
    assert truth == COUNTS[kind][0]
    assert truth <= CharacterEstimate("o200k_base").count(FIXTURES[kind]) < 2 * truth


@pytest.mark.parametrize("kind", FIXTURES)
def test_an_unknown_vocabulary_is_taken_for_a_small_one(kind: str) -> None:
    """Where nothing is known of the vocabulary, the estimate covers cl100k_base and SmolLM2, and is under twice the latter."""
    _, cl100k, smollm2 = COUNTS[kind]
    assert CL100K.count(FIXTURES[kind]) == cl100k
    for vocabulary in (None, "cl100k_base"):
        assert CharacterEstimate(vocabulary).count(FIXTURES[kind]) >= cl100k
    assert smollm2 <= CharacterEstimate().count(FIXTURES[kind]) < 2 * smollm2


def _followed(pool: str) -> st.SearchStrategy[str]:
    between = ("", " ", "\n") if pool in UNSPACED else (" ", "\n", ", ", ". ", " (", ") ")
    return st.tuples(st.sampled_from(POOLS[pool]), st.sampled_from(between)).map("".join)


MIXED = st.lists(st.sampled_from(sorted(POOLS)).flatmap(_followed), max_size=40).map("".join)


@given(MIXED)
def test_mixed_text_is_never_undercounted(text: str) -> None:
    """Whatever languages, code, emoji, numbers and white space a text mixes, the estimate covers its exact count."""
    assert CharacterEstimate("o200k_base").count(text) >= O200K.count(text)


@given(st.text(max_size=300))
def test_any_text_has_an_estimate(text: str) -> None:
    """No text raises; what is not known is never estimated lower than what is; no character costs more than five tokens."""
    known, unknown = CharacterEstimate("o200k_base").count(text), CharacterEstimate().count(text)
    assert known <= unknown <= 5 * len(text)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud83d\ude00 \udc00"])
def test_lone_surrogates_are_counted(text: str) -> None:
    """A half pair is counted as what is sent in its place, at least."""
    assert CharacterEstimate("o200k_base").count(text) >= O200K.count(text) > 0


@pytest.mark.parametrize(
    "unit", ["a", "A", "1", " ", "\n", "\t", "a1", "日", "é", "😀", "a\u0301", "-", "aA", " 1", "Я"]
)
def test_long_texts_cost_in_proportion(unit: str) -> None:
    """A text ten times as long costs at most ten times as much: no pattern runs wild on a run of one character."""
    estimate = CharacterEstimate("o200k_base")
    short, long = estimate.count(unit * 2_000), estimate.count(unit * 20_000)
    assert 0 < short < long <= 10 * short + 10


def test_frequent_words_and_characters_are_single_tokens() -> None:
    """What the estimate takes for one token is one: each word behind a space, each character by itself."""
    words, han, hangul = _read_frequent()
    assert all(O200K.count(f" {word}") == 1 for word in words.split())
    assert all(O200K.count(character) == 1 for character in re.sub(r"\s", "", han + hangul))
    assert (len(words.split()), len(re.sub(r"\s", "", han)), len(re.sub(r"\s", "", hangul))) == (2642, 2515, 677)


def test_the_name_says_what_it_was_made_for() -> None:
    """Estimates for different vocabularies have different names: their counts are not each other's."""
    assert [CharacterEstimate(each).name for each in (None, "o200k_base")] == ["estimate", "estimate:o200k_base"]
