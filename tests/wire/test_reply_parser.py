"""Tests of merging chunks into a reply."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from convokit.domain.events import AudioDelta, Finished, ReasoningDelta, RefusalDelta, TextDelta
from convokit.domain.reply import ReplyChoice
from convokit.errors import BadReply, ModelError
from convokit.wire.reply_parser import MAX_CHOICES, ReplyParser

from .vectors import chunk, parse, reply, tool_delta


def parse_choice(*deltas: dict[str, Any], finish: str = "stop") -> ReplyChoice:
    """Return the choice that these deltas make."""
    return parse(*(chunk(delta) for delta in deltas), chunk({}, finish)).choices[0]


USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": [], "usage": None},
        {"choices": [], "prompt_filter_results": []},
        {"id": "chatcmpl-1"},
        {"choices": None},
        {"choices": [{"index": 0, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        {"choices": [None]},
        {},
    ],
)
def test_b53_missing_and_null_keys_change_nothing(odd: dict[str, Any]) -> None:
    """Chunks without choices and choices without a delta are accepted."""
    found = parse(chunk({"content": "a"}), odd, chunk({"content": "b"}), chunk({}, "stop"), odd)
    assert found.choices[0].content == "ab"
    assert found.done


@pytest.mark.parametrize("where", ["first", "middle", "finish", "last", "every"])
def test_b54_usage_may_come_on_any_chunk(where: str) -> None:
    """The last usage counts, and null never overwrites it."""
    chunks = [chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop"), {"choices": []}]
    chunks = [{**one, "usage": None} for one in chunks]
    at = {"first": 0, "middle": 1, "finish": 2, "last": 3}
    for number, one in enumerate(chunks):
        if where == "every":
            one["usage"] = {**USAGE, "completion_tokens": number}
        elif number == at[where]:
            one["usage"] = USAGE
    found = parse(*chunks, {"choices": [], "usage": None})
    assert found.usage.prompt_tokens == 1
    assert found.usage.completion_tokens == (3 if where == "every" else 2)
    assert found.usage.source == "reported"


def test_b57_choices_are_merged_by_index_in_any_order() -> None:
    chunks = [chunk({"content": "b"}, index=1), chunk({"content": "a"}), chunk({"content": "B"}, "stop", 1)]
    parser = ReplyParser()
    events = [event for one in [*chunks, chunk({"content": "A"})] for event in parser.feed(one)]
    assert TextDelta("b", 1) in events
    assert parser.text == "aA"
    assert not parser.done
    parser.feed(chunk({}, "length"))
    found = parser.build_reply()
    assert [(one.index, one.content, one.finish_reason) for one in found.choices] == [
        (0, "aA", "length"),
        (1, "bB", "stop"),
    ]
    assert found.done


@pytest.mark.parametrize(("message", "content"), [({}, None), ({"content": None}, None), ({"content": ""}, "")])
def test_b58_null_empty_and_absent_content_stay_apart(message: dict[str, Any], content: str | None) -> None:
    """A reply that only calls tools has content None; content sent empty is ""."""
    tools = tool_delta(0, "a", "f", "{}")
    assert parse_choice({"role": "assistant", **message}, tools).content == content
    assert parse(reply({"role": "assistant", **message, **tools})).choices[0].content == content


def test_b59_refusal_is_kept_apart_from_content() -> None:
    parser = ReplyParser()
    events = [event for part in ("I can", "not") for event in parser.feed(chunk({"refusal": part}))]
    assert events == [RefusalDelta("I can"), RefusalDelta("not")]
    assert parser.text == ""
    found = parser.build_reply().choices[0]
    assert (found.content, found.refusal) == (None, "I cannot")


def test_b60_audio_encoded_in_pieces_becomes_one_base64_text() -> None:
    """The id counts once, and the expiry may come last."""
    data = [b"one", b"an", b"other"]
    deltas = [{"audio": {"id": "audio_1", "transcript": "He"}}]
    deltas += [{"audio": {"data": base64.b64encode(one).decode()}} for one in data]
    chunks = [chunk(delta) for delta in [*deltas, {"audio": {"id": "audio_1", "transcript": "llo"}}]]
    audio = parse(*chunks, chunk({}, "stop"), chunk({"audio": {"expires_at": 99}})).choices[0].audio
    assert audio is not None
    assert base64.b64decode(audio["data"]) == b"".join(data)
    assert (audio["id"], audio["transcript"], audio["expires_at"]) == ("audio_1", "Hello", 99)


def test_b60_audio_cut_anywhere_is_joined() -> None:
    """Each piece is an event."""
    whole = base64.b64encode(b"some audio data!").decode()
    parser = ReplyParser()
    events = [event for cut in (whole[:5], whole[5:]) for event in parser.feed(chunk({"audio": {"data": cut}}))]
    assert events == [AudioDelta(whole[:5], ""), AudioDelta(whole[5:], "")]
    audio = parser.build_reply().choices[0].audio
    assert audio == {"data": whole}


@pytest.mark.parametrize("keys", [("reasoning_content",), ("reasoning",), ("reasoning_content", "reasoning")])
def test_b61_reasoning_of_either_key_fills_one_field(keys: tuple[str, ...]) -> None:
    """Its key is stored for the server that needs it back, and it is never part of the content."""
    parser = ReplyParser()
    events = [e for text in ("Hm", "m") for e in parser.feed(chunk({"content": None, **dict.fromkeys(keys, text)}))]
    assert events == [ReasoningDelta("Hm"), ReasoningDelta("m")]
    found = parser.build_reply().choices[0]
    assert (found.content, found.reasoning) == (None, "Hmm")
    assert found.extra == dict.fromkeys(keys, "Hmm")


def test_b61_absent_reasoning_is_none_and_empty_is_empty() -> None:
    """Empty reasoning is stored because DeepSeek needs it back."""
    assert parse_choice({"content": "a", "reasoning_content": None}).reasoning is None
    found = parse_choice({"content": "a", "reasoning_content": ""})
    assert (found.reasoning, found.extra) == ("", {"reasoning_content": ""})


def test_b62_a_late_filter_changes_the_finish_reason() -> None:
    """Azure sends it in a choice without a delta."""
    parser = ReplyParser()
    parser.feed(chunk({"content": "a"}))
    assert parser.feed(chunk({}, "stop")) == [Finished("stop")]
    late = {"index": 0, "finish_reason": "content_filter", "content_filter_results": {"hate": {"filtered": True}}}
    assert parser.feed({"choices": [late]}) == [Finished("content_filter")]
    found = parser.build_reply().choices[0]
    assert found.finish_reason == "content_filter"
    assert found.extra["content_filter_results"] == {"hate": {"filtered": True}}


def test_b82_missing_usage_is_none_not_zero() -> None:
    found = parse(reply())
    assert found.usage.source == "absent"
    assert (found.usage.prompt_tokens, found.usage.cached_tokens, found.usage_details) == (None, None, {})
    odd = {"prompt_tokens": "9", "completion_tokens": -1, "total_tokens": True, "prompt_tokens_details": None}
    strange = parse(reply(usage=odd)).usage
    assert (strange.prompt_tokens, strange.completion_tokens, strange.total_tokens) == (None, None, None)


def test_logprobs_are_joined() -> None:
    chunks = [chunk({"content": text}) for text in "ab"]
    for one, text in zip(chunks, "ab", strict=True):
        one["choices"][0]["logprobs"] = {"content": [{"token": text}], "refusal": None}
    assert parse(*chunks).choices[0].logprobs == {"content": [{"token": "a"}, {"token": "b"}], "refusal": None}


def test_surrogate_pairs_cut_between_chunks_are_joined() -> None:
    """A half without its other half becomes U+FFFD, in events and in the reply."""
    parser = ReplyParser()
    events = [
        event for text in ("a\ud83d", "\ude00b", "\ude00", "c\ud83d") for event in parser.feed(chunk({"content": text}))
    ]
    assert [event.text for event in events] == ["a", "😀b", "\ufffd", "c"]
    assert parser.build_reply().choices[0].content == "a😀b\ufffdc\ufffd"
    whole = parse_choice(
        {"reasoning": "\ud83d"},
        {"reasoning": "\ude00"},
        tool_delta(0, "a", "f", "\ud83d"),
        tool_delta(0, None, None, "\ude00"),
    )
    assert (whole.reasoning, whole.tool_calls[0]["function"]["arguments"]) == ("😀", "😀")


def test_a_final_message_after_deltas_is_ignored() -> None:
    last = chunk({}, "stop")
    last["choices"][0] |= {"delta": None, "message": {"role": "assistant", "content": "ab"}}
    assert parse(chunk({"content": "a"}), chunk({"content": "b"}), last).choices[0].content == "ab"


def test_text_after_returns_the_rest() -> None:
    parser = ReplyParser()
    for text in ("ab", "c", "def"):
        parser.feed(chunk({"content": text}))
    assert parser.text_chars == 6
    assert [parser.text_after(at) for at in range(8)] == ["abcdef", "bcdef", "cdef", "def", "ef", "f", "", ""]


def test_every_kind_of_content_adds_to_the_size() -> None:
    deltas: Iterator[dict[str, Any]] = iter(
        [
            {"content": "x" * 1000},
            {"refusal": "x" * 1000},
            {"reasoning": "x" * 1000},
            tool_delta(0, "a", "f", "x" * 1000),
            {"audio": {"data": "x" * 1000}},
            {"annotations": [{"x": "x" * 1000}]},
            {"reasoning_details": [{"text": "x" * 1000}]},
            {"unknown": {"x": "x" * 1000}},
        ]
    )
    parser = ReplyParser()
    before = parser.size_chars
    for delta in deltas:
        parser.feed(chunk(delta))
        assert parser.size_chars >= before + 1000
        before = parser.size_chars
    for _ in range(5):
        parser.feed(chunk({"unknown": {"x": "y" * 1000}}))  # replaced, not added
    assert parser.size_chars < before + 100


def test_reasoning_details_are_merged_by_index_and_type() -> None:
    """OpenRouter's blocks are joined, and their signature is stored."""
    first, second = {"index": 0, "type": "reasoning.text"}, {"index": 1, "type": "reasoning.encrypted"}
    parts = [{**first, "text": "a"}, {**second, "data": "x"}, {**first, "text": "b"}, {**first, "signature": "s"}]
    found = parse_choice(*({"reasoning_details": [part]} for part in parts)).extra["reasoning_details"]
    assert found == [{**first, "text": "ab", "signature": "s"}, {**second, "data": "x"}]


def test_finish_reason_error_raises_with_the_partial_text() -> None:
    parser = ReplyParser()
    parser.feed(chunk({"content": "half"}))
    with pytest.raises(ModelError) as caught:
        parser.feed(chunk({}, "error"))
    assert caught.value.partial == "half"


def test_invalid_chunks_are_bad_replies() -> None:
    """So are too many choices and too many levels of nesting."""
    for value in (None, 1, "x", [], [chunk()]):
        with pytest.raises(BadReply):
            parse(value)
    with pytest.raises(BadReply, match="choices"):
        parse({"choices": [{"message": {}}] * (MAX_CHOICES + 1)})
    deep: Any = "x"
    for _ in range(100):
        deep = [deep]
    with pytest.raises(BadReply, match="nested"):
        parse(reply({"content": "a", "odd": deep}))


def test_filter_results_of_several_chunks_are_merged() -> None:
    chunks = [chunk({"content": "a"}), chunk({"content": "b"}), chunk({}, "stop")]
    for one, name in zip(chunks, ("hate", "violence", "hate"), strict=True):
        one["choices"][0]["content_filter_results"] = {name: {"filtered": False}}
    assert parse(*chunks).choices[0].extra["content_filter_results"].keys() == {"hate", "violence"}


def test_reasoning_details_of_other_types_and_of_whole_replies_are_not_joined() -> None:
    first, second = (
        {"index": 0, "type": "reasoning.text", "text": "a"},
        {"index": 0, "type": "reasoning.summary", "summary": "b"},
    )
    assert parse_choice(*({"reasoning_details": [part]} for part in (first, second))).extra["reasoning_details"] == [
        first,
        second,
    ]
    plain = parse(reply({"content": "x", "reasoning_details": [first, first]}))
    assert plain.choices[0].extra["reasoning_details"] == [first, first]


def test_the_first_id_and_the_last_service_tier_count() -> None:
    """Empty values change nothing."""
    empty = {"id": "", "model": "", "created": 0, "choices": []}
    found = parse(empty, chunk({"content": "a"}, service_tier="auto"), chunk({}, "stop", service_tier="flex"), empty)
    assert (found.response_id, found.model, found.created, found.service_tier) == ("chatcmpl-1", "m", 1, "flex")


def test_an_invalid_chunk_carries_the_partial_text() -> None:
    parser = ReplyParser()
    parser.feed(chunk({"content": "half"}))
    with pytest.raises(BadReply) as caught:
        parser.feed(["x"])
    assert caught.value.partial == "half"


def test_half_a_surrogate_pair_at_the_end_is_an_event() -> None:
    parser = ReplyParser()
    assert parser.feed(chunk({"content": "a\ud83d"})) == [TextDelta("a")]
    assert parser.feed(chunk({}, "stop")) == [TextDelta("\ufffd"), Finished("stop")]
    assert parser.text == parser.build_reply().choices[0].content == "a\ufffd"


@pytest.mark.parametrize("created", [float("inf"), float("nan"), 1e300, -1, True, "1", [1]])
def test_an_invalid_created_time_is_none(created: object) -> None:
    parser = ReplyParser()
    parser.feed({"created": created, "choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]})
    assert parser.build_reply().created is None
    assert parser.text == "x"


def test_lists_of_several_chunks_are_joined() -> None:
    """Pictures and blocks of thinking come one in each chunk. A list that repeats the ones before it replaces them."""
    one, two = {"url": "A"}, {"url": "B"}
    for key in ("images", "thinking_blocks", "未知"):
        assert parse_choice({key: [one]}, {key: [two]}).extra[key] == [one, two]
        assert parse_choice({key: [one]}, {key: [one, two]}, {key: [one, two]}).extra[key] == [one, two]
        nested = parse_choice(*({"provider_specific_fields": {key: [each], "last": each}} for each in (one, two)))
        assert nested.extra["provider_specific_fields"] == {key: [one, two], "last": two}
    chunks = [chunk({"content": "a"}), chunk({"content": "b"}, "stop")]
    for each, ids in zip(chunks, ([1], [2]), strict=True):
        each["choices"][0]["token_ids"] = ids
    assert parse(*chunks).choices[0].extra["token_ids"] == [1, 2]
    whole = reply({"content": "two", "images": [one, two]})
    assert parse(whole).choices[0].extra["images"] == [one, two]
    assert whole["choices"][0]["message"]["images"] == [one, two]
