"""Test the index keys of a text."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from convokit.domain.search_words import build_keys

_ASCII = st.text(st.sampled_from(string.printable + "aaa_- "), max_size=200)


@given(_ASCII)
def test_ascii_and_unicode_paths_give_equal_keys(text: str) -> None:
    """The fast path for ASCII finds the same words as the general path."""
    assert build_keys(text) | {"東"} == build_keys(f"{text} 東")
