"""Tests of finish reasons, and of errors inside of a choice."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.domain.finish_reason import FinishKind, choose_finish_reason, classify_finish_reason
from convokit.errors import ContentFiltered, Interrupted, ModelError, RateLimited, ServerFailed, Truncated
from convokit.wire import error_mapping
from convokit.wire.reply_parser import ReplyParser
from convokit.wire.structured_output import parse_structured

from .vectors import chunk, parse, read, reply, sse

KINDS: dict[FinishKind, tuple[str, ...]] = {
    "complete": ("stop", "tool_calls", "function_call", "STOP", "end_turn", "tool-calls", "COMPLETE"),
    "cut": (
        "length",
        "max_tokens",
        "MAX_TOKENS",
        "model_context_window_exceeded",
        "FinishReason.MAX_TOKENS",
        "max-tokens",
        "maxTokens",
        "model_length",
        "max_output_tokens",
    ),
    "filtered": (
        "content_filter",
        "sensitive",
        "SAFETY",
        "RECITATION",
        "PROHIBITED_CONTENT",
        "guardrail_intervened",
        "content-filter",
        "ContentFilter",
        "FinishReason.SAFETY",
    ),
    "failed": (
        "error",
        "ERROR",
        "network_error",
        "insufficient_system_resource",
        "abort",
        "timeout",
        "FinishReason.ERROR",
        "network-error",
        "cancelled",
        "timed_out",
    ),
    "unknown": ("", "理由", "other", "stopped"),
}


@pytest.mark.parametrize(("kind", "reason"), [(kind, reason) for kind, reasons in KINDS.items() for reason in reasons])
def test_every_reason_has_one_kind(kind: FinishKind, reason: str) -> None:
    assert classify_finish_reason(reason) == kind


@pytest.mark.parametrize("word", ["null", "None", "", "FINISH_REASON_UNSPECIFIED"])
def test_a_word_for_no_reason_ends_no_stream(word: str) -> None:
    """Some gateways write `"null"` into every chunk. A stream that is cut after one of them is not whole."""
    half = chunk({"content": "前半"}, word)
    with pytest.raises(Interrupted) as caught:
        read(sse(half))
    assert caught.value.partial == "前半"
    assert parse(half, chunk({"content": "後半"}, "stop")).choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("reason", "native", "counts"),
    [
        ("stop", None, "stop"),
        ("stop", "end_turn", "stop"),
        ("stop", "completed", "stop"),
        ("stop", "MAX_TOKENS", "MAX_TOKENS"),
        ("stop", "SAFETY", "SAFETY"),
        ("length", "stop", "length"),
        ("length", "SAFETY", "SAFETY"),
        ("content_filter", "max_tokens", "content_filter"),
        ("tool_calls", 5, "tool_calls"),
        (None, "max_tokens", "max_tokens"),
        (None, "stop", None),
    ],
)
def test_a_native_reason_counts_only_where_it_is_worse(reason: str | None, native: Any, counts: str | None) -> None:
    assert choose_finish_reason(reason, native) == counts
    first = {**chunk({"content": "a"}), "choices": [{"index": 0, "delta": {"content": "a"}}]}
    last = chunk({}, reason)
    last["choices"][0]["native_finish_reason"] = native
    assert parse(first, last).choices[0].finish_reason == counts


@pytest.mark.parametrize("reason", KINDS["failed"])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_failed_reply_is_an_error(reason: str, native: bool, streamed: bool) -> None:
    """The text that came is the partial text of the error."""
    fields = {"finish_reason": "stop", "native_finish_reason": reason} if native else {"finish_reason": reason}
    if streamed:
        last = chunk({})
        last["choices"][0] |= fields
        body = sse(chunk({"content": "半"}), last)
    else:
        whole = reply({"content": "半"})
        whole["choices"][0] |= fields
        body = sse(whole, done=False).removeprefix(b"data: ")
    with pytest.raises(ServerFailed, match=reason) as caught:
        read(body, streaming=streamed)
    assert caught.value.partial == "半"


ERRORS: list[tuple[Any, type[Exception], str]] = [
    ({"code": 502, "message": "upstream lost"}, ServerFailed, "upstream lost"),
    ({"code": "429", "message": "混雑"}, RateLimited, "混雑"),
    ({"code": 403, "message": "flagged", "metadata": {"reasons": ["violence"]}}, ContentFiltered, "flagged"),
    ("overloaded", ServerFailed, "overloaded"),
]


@pytest.mark.parametrize(("error", "kind", "text"), ERRORS)
@pytest.mark.parametrize("finish", [None, "error", "stop"])
@pytest.mark.parametrize("place", ["delta", "message", "choice"])
def test_an_error_inside_of_a_choice_is_an_error(
    error: Any, kind: type[Exception], text: str, finish: str | None, place: str
) -> None:
    """The error is found beside the message of a choice, and inside of it."""
    parser = ReplyParser()
    parser.feed(chunk({"content": "Hel"}))
    body = chunk({"content": ""}, finish)
    if place == "choice":
        body["choices"][0]["error"] = error
    elif place == "delta":
        body["choices"][0]["delta"]["error"] = error
    else:
        parser = ReplyParser()
        body = reply({"content": "Hel", "error": error}, finish)
    with pytest.raises(kind, match=text) as caught:
        parser.feed(body)
    assert isinstance(caught.value, ModelError)
    assert caught.value.partial == "Hel"


@pytest.mark.parametrize("error", [None, "", {}, {"code": None, "message": ""}, False, []])
def test_an_empty_error_is_none(error: Any) -> None:
    body = reply({"content": "whole"})
    body["choices"][0]["error"] = error
    assert parse(body).choices[0].content == "whole"


def test_the_error_of_a_chunk_comes_before_that_of_its_choice() -> None:
    body = chunk({}, "error", error={"code": 429, "message": "first"})
    body["choices"][0]["error"] = {"code": 502, "message": "second"}
    with pytest.raises(RateLimited, match="first"):
        ReplyParser().feed(body)


@pytest.mark.parametrize("reason", KINDS["filtered"])
def test_filters_of_every_name(reason: str) -> None:
    found = parse(chunk({"content": "half"}), chunk({}, reason))
    error = error_mapping.find_filter_error(found.choices[0], found)
    assert isinstance(error, ContentFiltered)
    assert error.partial == "half"
    assert not found.done
    with pytest.raises(ContentFiltered):
        parse_structured(int, "5", finish_reason=reason, refusal=None)


@pytest.mark.parametrize("reason", KINDS["cut"])
def test_a_cut_reply_of_a_type_is_truncated(reason: str) -> None:
    with pytest.raises(Truncated):
        parse_structured(int, "5", finish_reason=reason, refusal=None)
