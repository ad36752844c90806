"""What a text is indexed by."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from convokit.domain.search_words import build_keys

_ASCII = st.text(st.sampled_from(string.printable + "aaa_- "), max_size=200)


@given(_ASCII)
def test_plain_text_is_cut_as_any_other(text: str) -> None:
    """The short way for ASCII finds the very words that the long way finds: beside a word that is not ASCII."""
    assert build_keys(text) | {"東"} == build_keys(f"{text} 東")
