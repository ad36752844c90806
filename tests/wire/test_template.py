"""The quick way to read a stream skips nothing that counts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.errors import BadReply
from convokit.wire.template import Template

from .test_response import broken
from .vectors import chunk, read, text_of


@pytest.mark.parametrize("padding", [False, True])
def test_chunks_that_differ_elsewhere_are_read_in_full(padding: bool) -> None:
    """Reading only what differs from the chunk before never skips anything else that does."""
    more: list[dict[str, Any]] = [{"obfuscation": "x" * number} if padding else {} for number in range(12)]
    chunks = [
        chunk({"content": "a"}, **more[0]),
        chunk({"content": "b"}, **more[1]),
        chunk({"content": "c"}, index=1, **more[2]),
        chunk({"content": "d"}, index=1, **more[3]),
        chunk({"content": "é\u2028"}, **more[4]),
        chunk({"content": 'q"\\"content":"', "refusal": "R"}, **more[5]),
        chunk({"content": "e"}, service_tier="flex", **more[6]),
        chunk({"content": "f", "tool_calls": [{"index": 0, "id": "t", "function": {"name": "f"}}]}, **more[7]),
        chunk({"content": "g"}, provider="P", usage={"prompt_tokens": 7}, **more[8]),
        chunk({"content": "\ud83d"}, **more[9]),
        chunk({"content": "\ude00"}, "stop", **more[10]),
        chunk({}, "length", index=1, **more[11]),
    ]
    _, completion = read(b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks))
    first, second = completion.choices
    assert first.content == 'abé\u2028q"\\"content":"efg😀'
    assert (second.content, second.finish_reason) == ("cd", "length")
    assert (first.refusal, len(first.tool_calls)) == ("R", 1)
    assert (completion.service_tier, completion.usage.prompt_tokens, completion.extra["provider"]) == ("flex", 7, "P")


def raw(*chunks: dict[str, Any]) -> bytes:
    """A stream of chunks, escaped as JSON allows."""
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks)


def test_chunks_that_repeat_more_than_content_are_read_in_full() -> None:
    """What is joined is joined however alike its chunks are."""
    stream = raw(*(chunk({"content": text, "refusal": "R"}) for text in "abc"), chunk({}, "stop"))
    answer = read(stream)[1].choices[0]
    assert (answer.content, answer.refusal) == ("abc", "RRR")


def test_chunks_that_differ_after_their_content_are_read_in_full() -> None:
    """A value of the same length in the same place is still another value; so is one after the padding."""
    chunks = [
        chunk({"content": text}, service_tier=tier) for text, tier in (("a", "flex"), ("b", "flex"), ("c", "auto"))
    ]
    completion = read(raw(*chunks, {**chunk({}, "stop")}))[1]
    assert (completion.choices[0].content, completion.service_tier) == ("abc", "auto")
    padded = [chunk({"content": text}, obfuscation="x" * n, usage=None) for n, text in enumerate("abc")]
    padded[2]["usage"] = {"prompt_tokens": 5}
    completion = read(raw(*padded, chunk({}, "stop")))[1]
    assert (completion.choices[0].content, completion.usage.prompt_tokens) == ("abc", 5)


def test_chunks_with_another_content_key_are_read_in_full() -> None:
    """The content that counts is the delta's."""
    chunks = [{"provider": {"content": "P"}, **chunk({"content": text})} for text in "aaa"]
    assert read(raw(*chunks, chunk({}, "stop")))[1].choices[0].content == "aaa"


def test_log_probabilities_are_never_skipped() -> None:
    """A chunk that repeats its log probabilities adds them again."""
    chunks = [chunk({"content": "a"}) for _ in range(3)]
    for one in chunks:
        one["choices"][0]["logprobs"] = {"content": [{"token": "a"}]}
    answer = read(raw(*chunks, chunk({}, "stop")))[1].choices[0]
    assert answer.logprobs == {"content": [{"token": "a"}] * 3}


@pytest.mark.parametrize("more", [{}, {"obfuscation": "xy"}, {"usage": None, "x_vendor": {"a": 1}}])
def test_a_chunk_like_the_last_is_read_by_its_content_alone(more: dict[str, Any]) -> None:
    """The quick way is taken where it can be, and left for good where no two chunks are alike."""
    template = Template()
    first, second = chunk({"content": "a"}, **more), chunk({"content": 'b"\u65e5'}, **more)
    assert template.read(json.dumps(first)) is None
    template.learn(json.dumps(first), first)
    assert template.read(json.dumps(second)) == 'b"\u65e5'
    assert template.read(json.dumps(chunk({"content": 1}, **more))) is None
    for number in range(50):
        odd = chunk({"content": "a"}, created=number, **more)
        assert template.read(json.dumps(odd)) is None
        template.learn(json.dumps(odd), odd)
    assert template.read(json.dumps(chunk({"content": "b"}, created=49, **more))) is None


def test_a_chunk_with_something_after_it_is_a_bad_reply() -> None:
    """A payload like the last one, and then some, is no JSON."""
    good = raw(chunk({"content": "a"}), chunk({"content": "b"}))
    assert broken(good + raw(chunk({"content": "c"}))[:-2] + b"}\n\n", BadReply).partial == "ab"
    padded = raw(*(chunk({"content": text}, obfuscation="x") for text in "ab"))
    assert broken(padded + raw(chunk({"content": "c"}, obfuscation="x"))[:-2] + b"}\n\n", BadReply).partial == "ab"


def test_a_stream_that_never_repeats_itself_is_read_in_full() -> None:
    """Chunks that always differ are read one by one, however many there are."""
    chunks = [chunk({"content": str(number % 10)}, created=number + 1) for number in range(60)]
    completion = read(raw(*chunks, chunk({}, "stop")))[1]
    assert completion.choices[0].content == "0123456789" * 6
    assert completion.created == 1


@given(
    st.lists(
        st.sampled_from(["a", "é", "日", '"', "\\", "\ud83d", "\ude00", "\ud83d\ude00", "", "content"]), max_size=12
    )
)
def test_every_character_arrives_in_its_place(texts: list[str]) -> None:
    """Whatever the pieces of content are, also halves of a character, they are joined in the order in which they came."""
    events, completion = read(
        raw(chunk({"content": ""}), *(chunk({"content": text}) for text in texts), chunk({}, "stop"))
    )
    whole = "".join(texts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert completion.choices[0].content == text_of(events) == whole


@pytest.mark.parametrize("index", [True, None, "0", 7, -1, 1.5])
def test_an_odd_index_is_no_accident(index: Any) -> None:
    """An index that is no number counts as the position; any number is a choice of its own."""
    chunks = [chunk({"content": text}, index=index) for text in "abc"]
    assert read(raw(*chunks, chunk({}, "stop", index=index)))[1].choices[0].content == "abc"
