"""Tests of parsing server-sent events."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.errors import ConvokitError
from convokit.wire.sse import SseDecoder

from .vectors import cut_bytes


def decode(data: bytes, step: int | None = None, limit: int = 1 << 20) -> list[str]:
    """Return the payloads of a stream that arrives `step` bytes at a time."""
    decoder = SseDecoder(limit)
    found: list[str] = []
    for piece in cut_bytes(data, step or len(data) or 1):
        found += decoder.feed(piece)
    return found + decoder.end()


STEPS = pytest.mark.parametrize("step", [1, 2, 3, 5, None])


@STEPS
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_b42_line_endings_give_identical_events(end: str, step: int | None) -> None:
    """Also if the data is cut inside a CRLF."""
    data = end.join(['data: {"a":1}', "", "data: one", "data: two", "", ": note", "", 'data: {"b":2}', "", ""])
    assert decode(data.encode(), step) == ['{"a":1}', "one\ntwo", '{"b":2}']


@STEPS
def test_b42_mixed_line_endings_give_identical_events(step: int | None) -> None:
    assert decode(b"data: 1\r\n\ndata: 2\r\rdata: 3\n\r\ndata: 4\r\ndata: 5\n\n", step) == ["1", "2", "3", "4\n5"]


def test_b42_an_event_ended_by_cr_does_not_wait_for_the_next_byte() -> None:
    """The LF of a CRLF is dropped when it arrives."""
    decoder = SseDecoder(100)
    assert decoder.feed(b"data: 1\r\n\r") == ["1"]
    assert decoder.feed(b"\ndata: 2\r\n\r\n") == ["2"]


@STEPS
def test_b43_a_character_cut_between_packets_is_joined(step: int | None) -> None:
    text = "日本語 👩‍👩‍👧 ü"
    assert decode(f"data: {text}\n\n".encode(), step) == [text]


@STEPS
def test_b43_invalid_utf8_is_replaced(step: int | None) -> None:
    assert decode(b"data: a\xffb\xe6\n\ndata: c\n\n", step) == ["a\ufffdb\ufffd", "c"]


@STEPS
def test_b44_a_byte_order_mark_is_ignored_only_at_the_start(step: int | None) -> None:
    assert decode("\ufeffdata: a\ufeff\n\n".encode(), step) == ["a\ufeff"]


@STEPS
def test_b45_events_without_data_are_ignored(step: int | None) -> None:
    data = b": hi\n\n:\n\nevent: ping\n\nid: 1\n\nretry: 5\n\ndata:\n\ndata: \n\ndata\n\n\n\ndata: x\nid: 2\n\n"
    assert decode(data, step) == ["x"]


@STEPS
def test_b46_multi_line_data_is_joined(step: int | None) -> None:
    """One space after the colon is dropped, a second one is data."""
    assert decode(b"data: {\ndata:  1\ndata:}\n\n", step) == ["{\n 1\n}"]


@STEPS
def test_b46_unicode_line_separators_do_not_split(step: int | None) -> None:
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"
    assert decode(f"data: {text}\n\n".encode(), step) == [text]


@STEPS
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_b47_last_event_needs_no_blank_line(end: str, step: int | None) -> None:
    assert decode(f"data: 1\n\ndata: 2{end}".encode(), step) == ["1", "2"]


@STEPS
@pytest.mark.parametrize("done", ["data: [DONE]", "data:[DONE]", "data:  [DONE]  ", "data: [DONE]\n"])
def test_b47_done_ends_the_stream_with_blanks_or_without_a_blank_line(done: str, step: int | None) -> None:
    decoder = SseDecoder(100)
    for piece in cut_bytes(f"data: 1\n\n{done}".encode(), step or 100):
        decoder.feed(piece)
    decoder.end()
    assert decoder.done


@STEPS
def test_b49_data_after_done_is_ignored(step: int | None) -> None:
    assert decode(b"data: 1\n\ndata: [DONE]\n\ndata: 2\n\n" + b"x" * 200, step, limit=50) == ["1"]


@STEPS
def test_b50_an_error_field_or_event_has_the_form_of_other_errors(step: int | None) -> None:
    """llama.cpp sends an `error:` field."""
    found = decode(b'error: {"code":500,"message":"x"}\n\nevent: error\ndata: {"message":"y"}\n\nerror: z\n\n', step)
    assert [json.loads(one) for one in found] == [
        {"error": {"code": 500, "message": "x"}},
        {"error": {"message": "y"}},
        {"error": "z"},
    ]
    assert decode(b'error: {"error":{"message":"x"}}\n\n', step) == ['{"error":{"message":"x"}}']


@pytest.mark.parametrize("step", [1, 7, None])
def test_an_event_over_the_limit_stops_after_those_before_it(step: int | None) -> None:
    for tail in (b"", b"\n\n"):
        decoder = SseDecoder(64)
        found: list[str] = []
        for piece in cut_bytes(b"data: 1\n\ndata: " + b"x" * 100 + tail, step or 1000):
            found += decoder.feed(piece)
        assert found == ["1"]
        assert decoder.too_large


def test_a_long_event_is_searched_once() -> None:
    decoder = SseDecoder(8 << 20)
    for _ in range(20_000):
        assert decoder.feed(b"x" * 100) == []
    assert decoder.feed(b"\n\n") == []


LINES = st.lists(
    st.sampled_from(
        ["data: a", "data:b", "data", ": c", "event: e", "id: 3", "data: é日", "error: x", "", "", "data: [D"]
    ),
    max_size=20,
)


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(1, 9), min_size=1, max_size=20))
def test_b42_any_split_gives_the_same_events(lines: list[str], end: str, steps: list[int]) -> None:
    data = "".join(line + end for line in lines).encode()
    decoder = SseDecoder(1 << 20)
    found: list[str] = []
    at = 0
    while at < len(data):
        step = steps[at % len(steps)]
        found += decoder.feed(data[at : at + step])
        at += step
    assert found + decoder.end() == decode("".join(line + "\n" for line in lines).encode())


@given(st.binary(max_size=300), st.integers(1, 50), st.integers(1, 60))
def test_random_bytes_raise_only_convokits_errors(data: bytes, step: int, limit: int) -> None:
    with contextlib.suppress(ConvokitError):
        decode(data, step, limit)
