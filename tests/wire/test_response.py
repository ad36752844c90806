"""Tests of reading a response body, streamed or whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.domain.events import Finished, TextDelta
from convokit.errors import BadReply, ContextOverflow, Interrupted, ModelError, RateLimited, Rejected, ServerFailed
from convokit.settings import Limits

from .vectors import chunk, join_text, read, reader, reply, sse

GOOD = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hel"}),
    chunk({"content": "lo"}),
    chunk({}, "stop"),
]


def read_error(
    data: bytes, kind: type[Exception] = ModelError, *, streaming: bool = True, content_type: str = ""
) -> Any:
    """Return the error that a body raises."""
    with pytest.raises(kind) as caught:
        read(data, streaming=streaming, content_type=content_type)
    return caught.value


def test_b48_a_finish_reason_completes_a_reply_without_done() -> None:
    events, completion = read(sse(*GOOD, done=False))
    assert join_text(events) == "Hello"
    assert completion.done
    assert completion.choices[0].finish_reason == "stop"


def test_b48_end_without_finish_reason_is_interrupted_with_the_partial() -> None:
    for tail in (b"", b": keep-alive\n\n", b'data: {"choices":[{"del'):
        error = read_error(sse(*GOOD[:3], done=False) + tail, Interrupted)
        assert error.partial == "Hello"
        assert error.status == 200


def test_b48_done_without_finish_reason_is_interrupted() -> None:
    found = reader()
    with pytest.raises(Interrupted) as caught:
        found.feed(sse(*GOOD[:3]))
    assert caught.value.partial == found.text == "Hello"


def test_b48_one_unfinished_choice_is_interrupted() -> None:
    error = read_error(sse(chunk({"content": "a"}), chunk({"content": "b"}, "stop", 1)), Interrupted)
    assert error.partial == "a"


@pytest.mark.parametrize("data", [b"", b"\n\n", b": keep-alive\n\n", sse({"choices": []}, done=False)])
def test_b48_a_stream_without_content_is_interrupted(data: bytes) -> None:
    """Only comments, or an empty chunk (Ollama after an error)."""
    assert read_error(data, Interrupted).partial == ""


def test_b48_done_alone_is_a_bad_reply() -> None:
    """LM Studio sends it if the request has too many tokens."""
    assert "too many tokens" in str(read_error(sse(), BadReply))


def test_b49_nothing_after_done_is_read() -> None:
    found = reader()
    found.feed(sse(*GOOD))
    assert found.finished
    assert found.feed(sse(chunk({"content": "!"}))) == []
    assert found.end() == []
    assert found.build_reply().choices[0].content == "Hello"


ERRORS = [
    sse({"error": {"message": "boom", "type": "server_error", "param": None, "code": None}}, done=False),
    sse(
        {**chunk({"content": ""}, "error"), "error": {"code": 502, "message": "boom", "metadata": {"error_type": "x"}}}
    ),
    sse({"error": {"message": "boom", "type": "InternalServerError", "param": None, "code": 500}}),
    sse({"error": {"object": "error", "message": "boom", "type": "InternalServerError", "param": None, "code": 500}}),
    sse({"error": {"message": "litellm.APIError: boom", "type": None, "param": None, "code": "500"}}),
    b'error: {"code":500,"message":"boom","type":"server_error"}\n\ndata: [DONE]\n\n',
    sse({"object": "error", "message": "boom", "type": "internal_error", "param": None, "code": 500}),
    sse({"error": "boom"}),
    b'event: error\ndata: {"type":"overloaded_error","message":"boom"}\n\n',
    sse({"message": "boom", "code": "internal_error"}),
    sse({"detail": "boom"}),
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("step", [None, 1])
def test_b50_errors_in_a_stream_are_raised_with_the_partial_text(error: bytes, step: int | None) -> None:
    """In every vendor's form; they are not retried."""
    with pytest.raises(ServerFailed, match="boom") as caught:
        read(sse(*GOOD[:3], done=False) + error, step=step)
    assert caught.value.partial == "Hello"
    assert caught.value.should_retry is False
    assert caught.value.code is None or isinstance(caught.value.code, str)


def test_b50_errors_in_a_stream_have_the_class_of_their_kind() -> None:
    assert isinstance(read_error(sse({"error": {"message": "x", "code": 429}})), RateLimited)
    assert isinstance(read_error(sse({"error": {"message": "x", "type": "invalid_request_error"}})), Rejected)
    overflow = {"error": {"message": "Trying to keep the first 6000 tokens when context the overflows. x"}}
    assert read_error(sse(overflow), ContextOverflow).needed == 6000


def test_b51_json_error_on_a_stream_request_is_raised() -> None:
    """Whatever its content type."""
    body = json.dumps({"error": {"message": "boom", "type": "server_error", "code": 503}}).encode()
    for content_type in ("application/json; charset=utf-8", "text/event-stream", ""):
        error = read_error(body, ServerFailed, content_type=content_type)
        assert error.status == 503
        assert error.should_retry is None  # nothing had begun


@pytest.mark.parametrize("content_type", ["application/json", "text/event-stream", "text/plain"])
def test_b51_a_whole_reply_to_a_stream_request_is_read(content_type: str) -> None:
    events, completion = read(b"\n " + json.dumps(reply()).encode(), content_type=content_type, step=7)
    assert events == [TextDelta("Hi"), Finished("stop")]
    assert completion.choices[0].content == "Hi"


def test_b51_stream_under_a_wrong_content_type_is_read() -> None:
    events, _ = read(sse(*GOOD), content_type="application/json")
    assert join_text(events) == "Hello"


def test_b52_invalid_json_in_a_stream_is_a_bad_reply_with_an_excerpt() -> None:
    error = read_error(sse(*GOOD[:2], '{"choices": oops}', *GOOD[2:]), BadReply)
    assert "oops" in str(error)
    assert error.partial == "Hel"


@pytest.mark.parametrize("payload", ["1", '"x"', "null", "[1]", "[]"])
def test_b52_a_chunk_must_be_an_object(payload: str) -> None:
    assert isinstance(read_error(sse(*GOOD[:2], payload)), BadReply)


def test_b52_endless_nesting_and_digits_are_bad_replies() -> None:
    for payload in ("[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '{"created":' + "9" * 6000 + "}"):
        assert isinstance(read_error(sse(*GOOD[:2], payload)), BadReply)
        assert isinstance(read_error(b'{"x":' + payload.encode() + b"}", streaming=False), ModelError)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_infinite_numbers_become_none(number: str) -> None:
    body = json.dumps(reply()).replace('"created": 1', f'"created": 1, "odd": {number}')
    assert read(body.encode(), streaming=False)[1].extra == {}
    nested = body.replace(f'"odd": {number}', f'"odd": [{number}]')
    assert read(nested.encode(), streaming=False)[1].extra == {"odd": [None]}


def test_raw_control_characters_in_strings_are_accepted() -> None:
    events, _ = read(sse(json.dumps(chunk({"content": "a_b"})).replace("a_b", "a\tb\x1cc"), chunk({}, "stop")))
    assert join_text(events) == "a\tb\x1cc"


@pytest.mark.parametrize(
    "body", [{"error": {"message": "boom"}}, {"error": "boom"}, {"detail": "boom"}, [{"error": "boom"}]]
)
def test_b67_error_in_a_plain_200_is_raised(body: Any) -> None:
    assert "boom" in str(read_error(json.dumps(body).encode(), ServerFailed, streaming=False))


@pytest.mark.parametrize("body", [{}, {"choices": []}, {"choices": None}, {"id": "x", "object": "chat.completion"}])
def test_b67_missing_or_empty_choices_are_a_bad_reply(body: Any) -> None:
    assert isinstance(read_error(json.dumps(body).encode(), streaming=False), BadReply)


@pytest.mark.parametrize("before", [b"\n\n\n", b"\r\n \t", b"\xef\xbb\xbf", b""])
def test_b67_leading_blanks_are_accepted(before: bytes) -> None:
    """DeepSeek keeps connections alive with blank lines."""
    assert read(before + json.dumps(reply()).encode(), streaming=False, step=3)[1].choices[0].content == "Hi"


@pytest.mark.parametrize("streaming", [True, False])
def test_b67_html_is_a_bad_reply_with_an_excerpt(streaming: bool) -> None:
    """The excerpt has no tags."""
    page = b"<!DOCTYPE html><html><head><style>a{}</style></head><body><h1>502 Bad\nGateway</h1></body></html>"
    error = read_error(page, BadReply, streaming=streaming, content_type="text/html")
    assert "502 Bad Gateway" in str(error)
    assert "text/html" in str(error)
    assert "<h1>" not in str(error)


def test_b67_plain_text_on_a_stream_request_is_a_bad_reply() -> None:
    assert "upstream connect error" in str(read_error(b"upstream connect error", BadReply, content_type="text/plain"))
    assert isinstance(read_error(b"", streaming=False), BadReply)


def test_an_incomplete_body_is_interrupted() -> None:
    assert isinstance(read_error(json.dumps(reply()).encode()[:-20], streaming=False), Interrupted)


def test_b65_only_data_counts_as_content() -> None:
    """Comments and blank lines only keep the connection alive."""
    found = reader()
    seen = []
    for data in (
        b"\n\n",
        b": OPENROUTER PROCESSING\n\n",
        b"event: ping\n\n",
        b"data: {",
        b"}\n\n",
        b":\n\n",
        sse(*GOOD),
    ):
        found.feed(data)
        seen.append(found.content_seen)
    assert seen == [False, False, False, False, True, False, True]


def test_a_whole_body_has_its_events_at_the_end() -> None:
    found = reader(streaming=False)
    assert found.feed(json.dumps(reply()).encode()) == []
    assert not found.finished
    assert found.end() == [TextDelta("Hi"), Finished("stop")]
    assert found.finished


def test_a_whole_body_without_a_finish_reason_is_accepted() -> None:
    completion = read(json.dumps(reply(finish=None)).encode(), streaming=False)[1]
    assert (completion.choices[0].finish_reason, completion.done) == (None, False)


def test_an_event_without_its_blank_line_is_returned_by_end() -> None:
    found = reader()
    data = sse(*GOOD[:2], done=False) + b"data: " + json.dumps(chunk({"content": "lo"}, "stop")).encode()
    events = found.feed(data)
    assert join_text(events) + "|" + join_text(found.end()) == "Hel|lo"


def test_an_incomplete_event_after_the_finish_reason_is_ignored() -> None:
    assert read(sse(*GOOD, done=False) + b'data: {"choices":[],"usa')[1].done


@pytest.mark.parametrize("streaming", [True, False])
def test_a_reply_over_the_limit_raises_with_the_partial_text(streaming: bool) -> None:
    """Of a stream, only the content counts."""
    limits = Limits(reply_bytes=2000)
    found = reader(streaming=streaming, limits=limits)
    data = [sse(chunk({"content": "x" * 100}), done=False)] * 100 if streaming else [b"x" * 2001]
    with pytest.raises(ModelError, match="reply_bytes") as caught:
        list(map(found.feed, data))
    assert isinstance(caught.value, Interrupted if streaming else BadReply)
    assert streaming == (len(caught.value.partial) > 1000)
    small = reader(limits=limits)
    for _ in range(100):
        small.feed(sse(chunk({"content": "x"}), done=False))
    assert small.text == "x" * 100


def test_an_event_over_the_limit_raises_with_the_text_before_it() -> None:
    found = reader(limits=Limits(event_bytes=500))
    with pytest.raises(BadReply, match=r"500 bytes \(Limits.event_bytes\)") as caught:
        found.feed(sse(*GOOD[:3], chunk({"content": "x" * 1000})))
    assert caught.value.partial == "Hello"


@pytest.mark.parametrize(
    ("data", "kind"),
    [(b'data: {"id":"x","cho', Interrupted), (b"data: hello", BadReply), (b"data: hello\n\n", BadReply)],
)
def test_an_incomplete_first_event_is_interrupted_and_an_invalid_one_is_a_bad_reply(
    data: bytes, kind: type[Exception]
) -> None:
    assert type(read_error(data)) is kind


def test_invalid_json_that_ends_as_json_does_is_a_bad_reply() -> None:
    assert isinstance(read_error(b'{"choices": oops}', streaming=False), BadReply)


def escape(*chunks: dict[str, Any]) -> bytes:
    """Return a stream of chunks with every non-ASCII character escaped."""
    return b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in chunks)


@pytest.mark.parametrize("padding", [False, True])
def test_chunks_that_differ_in_any_key_are_merged(padding: bool) -> None:
    """Keys of a choice and keys beside the choices are merged, however alike the chunks are."""
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
    _, completion = read(escape(*chunks))
    first, second = completion.choices
    assert first.content == 'abé\u2028q"\\"content":"efg😀'
    assert (second.content, second.finish_reason) == ("cd", "length")
    assert (first.refusal, len(first.tool_calls)) == ("R", 1)
    assert (completion.service_tier, completion.usage.prompt_tokens, completion.extra["provider"]) == ("flex", 7, "P")


def test_keys_that_repeat_in_every_chunk_are_joined_in_a_choice_and_kept_once_beside_it() -> None:
    chunks = [chunk({"content": text, "refusal": "R"}, provider={"content": "P"}, usage=None) for text in "aaa"]
    for one in chunks:
        one["choices"][0]["logprobs"] = {"content": [{"token": "a"}]}
    completion = read(escape(*chunks, chunk({}, "stop", usage={"prompt_tokens": 5})))[1]
    choice = completion.choices[0]
    assert (choice.content, choice.refusal, choice.logprobs) == ("aaa", "RRR", {"content": [{"token": "a"}] * 3})
    assert (completion.extra, completion.usage.prompt_tokens) == ({"provider": {"content": "P"}}, 5)


@pytest.mark.parametrize("key", ["id", "object", "usage", "provider"])
def test_a_deeply_nested_key_beside_the_choices_is_a_bad_reply(key: str) -> None:
    """However often it comes: two such values cannot be compared with each other."""
    deep = "[" * 300 + "1" + "]" * 300
    payload = '{"choices":[{"delta":{"content":"c"}}],"' + key + '":{"a":' + deep + "}}"
    assert read_error(sse(*GOOD[:2], payload, payload), BadReply).partial == "Helc"


@given(
    st.lists(
        st.sampled_from(["a", "é", "日", '"', "\\", "\ud83d", "\ude00", "\ud83d\ude00", "", "content"]), max_size=12
    )
)
def test_every_character_arrives_in_its_order(texts: list[str]) -> None:
    """Also halves of a character are joined, as text and as events."""
    events, completion = read(
        escape(chunk({"content": ""}), *(chunk({"content": text}) for text in texts), chunk({}, "stop"))
    )
    whole = "".join(texts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert completion.choices[0].content == join_text(events) == whole


@pytest.mark.parametrize("index", [True, None, "0", 7, -1, 1.5])
def test_an_index_that_is_not_a_number_counts_as_the_position(index: Any) -> None:
    """Any number is a choice of its own."""
    chunks = [chunk({"content": text}, index=index) for text in "abc"]
    assert read(escape(*chunks, chunk({}, "stop", index=index)))[1].choices[0].content == "abc"


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (b'id:1\nevent:error\n:HTTP_STATUS/429\ndata:{"code":"X","message":"m","request_id":"r"}\n\n', RateLimited),
        (b'event: error\n:HTTP_STATUS/401\ndata: {"message":"m"}\n\n', Rejected),
        (b':HTTP_STATUS/401\ndata: {"error":{"message":"m"}}\n\n', Rejected),
        (b"event:error\n:HTTP_STATUS/429\ndata:m\n\n", RateLimited),
    ],
)
def test_the_status_in_a_comment_of_an_error_counts(event: bytes, kind: type[ModelError], step: int | None) -> None:
    """DashScope sends it. The comment of a chunk that is no error says 200."""
    with pytest.raises(kind, match="m") as caught:
        read(sse(*GOOD[:3], done=False) + event, step=step)
    assert caught.value.status in (401, 429)
    fine = b"".join(b"id:1\nevent:result\n:HTTP_STATUS/200\n" + sse(each, done=False) for each in GOOD)
    assert read(fine, step=step)[1].choices[0].content == "Hello"


@pytest.mark.parametrize("encoding", ["shift_jis", "euc-jp", "utf-16", "utf-8"])
def test_a_body_in_another_encoding_is_read_as_its_content_type_says(encoding: str) -> None:
    """The Japanese text is not replaced by U+FFFD in silence."""
    body = json.dumps(reply({"role": "assistant", "content": "日本語"}), ensure_ascii=False).encode(encoding)
    made = reader(streaming=False, content_type=f'application/json; charset="{encoding}"')
    made.feed(body)
    made.end()
    assert made.text == "日本語"


@pytest.mark.parametrize("charset", ["no-such", "base64", "utf-8"])
def test_a_body_that_no_encoding_fits_is_repaired(charset: str) -> None:
    body = json.dumps(reply({"content": "日本語"}), ensure_ascii=False).encode("shift_jis")
    made = reader(streaming=False, content_type=f"application/json; charset={charset}")
    made.feed(body)
    made.end()
    assert "\ufffd" in made.text
