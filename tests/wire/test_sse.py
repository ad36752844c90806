"""Server-sent events: what a payload is, wherever the bytes were cut."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit.errors import ConvokitError
from convokit.wire.sse import SseDecoder

from .vectors import pieces


def decode(data: bytes, step: int | None = None, limit: int = 1 << 20) -> list[str]:
    """Every payload of a stream that comes in pieces of `step` bytes."""
    decoder = SseDecoder(limit)
    found: list[str] = []
    for piece in pieces(data, step or len(data) or 1):
        found += decoder.feed(piece)
    return found + decoder.end()


STEPS = pytest.mark.parametrize("step", [1, 2, 3, 5, None])


@STEPS
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_b42_line_endings_give_identical_events(end: str, step: int | None) -> None:
    """LF, CRLF and CR, cut anywhere, also inside a CRLF, give the same events."""
    data = end.join(['data: {"a":1}', "", "data: one", "data: two", "", ": note", "", 'data: {"b":2}', "", ""])
    assert decode(data.encode(), step) == ['{"a":1}', "one\ntwo", '{"b":2}']


@STEPS
def test_b42_mixed_line_endings_give_identical_events(step: int | None) -> None:
    """Line ends may differ from line to line."""
    assert decode(b"data: 1\r\n\ndata: 2\r\rdata: 3\n\r\ndata: 4\r\ndata: 5\n\n", step) == ["1", "2", "3", "4\n5"]


def test_b42_an_event_ended_by_cr_does_not_wait_for_the_next_byte() -> None:
    """The second half of a CRLF that is cut in two is dropped when it comes, not waited for."""
    decoder = SseDecoder(100)
    assert decoder.feed(b"data: 1\r\n\r") == ["1"]
    assert decoder.feed(b"\ndata: 2\r\n\r\n") == ["2"]


@STEPS
def test_b43_split_characters_arrive_whole(step: int | None) -> None:
    """A character cut between packets is the same character."""
    text = "日本語 👩‍👩‍👧 ü"
    assert decode(f"data: {text}\n\n".encode(), step) == [text]


@STEPS
def test_b43_invalid_utf8_is_replaced(step: int | None) -> None:
    """Bytes that are no UTF-8 become U+FFFD and end nothing."""
    assert decode(b"data: a\xffb\xe6\n\ndata: c\n\n", step) == ["a\ufffdb\ufffd", "c"]


@STEPS
def test_b44_byte_order_mark_is_ignored(step: int | None) -> None:
    """A byte order mark before the first event is no part of it; one inside is text."""
    assert decode("\ufeffdata: a\ufeff\n\n".encode(), step) == ["a\ufeff"]


@STEPS
def test_b45_blocks_without_data_are_ignored(step: int | None) -> None:
    """Comments, an event, id or retry alone, and empty data give nothing."""
    data = b": hi\n\n:\n\nevent: ping\n\nid: 1\n\nretry: 5\n\ndata:\n\ndata: \n\ndata\n\n\n\ndata: x\nid: 2\n\n"
    assert decode(data, step) == ["x"]


@STEPS
def test_b46_multi_line_data_is_joined(step: int | None) -> None:
    """Several data lines are one payload; one space after the colon is not part of it, a second one is."""
    assert decode(b"data: {\ndata:  1\ndata:}\n\n", step) == ["{\n 1\n}"]


@STEPS
def test_b46_unicode_line_separators_do_not_split(step: int | None) -> None:
    """U+2028, U+2029, U+0085, VT, FF and FS inside an event are text."""
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf\x1cg"
    assert decode(f"data: {text}\n\n".encode(), step) == [text]


@STEPS
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_b47_last_event_needs_no_blank_line(end: str, step: int | None) -> None:
    """The last event counts however it ends."""
    assert decode(f"data: 1\n\ndata: 2{end}".encode(), step) == ["1", "2"]


@STEPS
@pytest.mark.parametrize("done", ["data: [DONE]", "data:[DONE]", "data:  [DONE]  ", "data: [DONE]\n"])
def test_b47_done_with_blanks_or_without_blank_line_ends(done: str, step: int | None) -> None:
    """`[DONE]` ends the stream, with spaces around it and without a blank line after it."""
    decoder = SseDecoder(100)
    for piece in pieces(f"data: 1\n\n{done}".encode(), step or 100):
        decoder.feed(piece)
    decoder.end()
    assert decoder.done


@STEPS
def test_b49_data_after_done_is_ignored(step: int | None) -> None:
    """Nothing after `[DONE]` is read, not even what is too large."""
    assert decode(b"data: 1\n\ndata: [DONE]\n\ndata: 2\n\n" + b"x" * 200, step, limit=50) == ["1"]


@STEPS
def test_b50_an_error_field_is_an_error(step: int | None) -> None:
    """llama.cpp's `error:` field, and an event named error, are errors in the form of all others."""
    found = decode(b'error: {"code":500,"message":"x"}\n\nevent: error\ndata: {"message":"y"}\n\nerror: z\n\n', step)
    assert [json.loads(one) for one in found] == [
        {"error": {"code": 500, "message": "x"}},
        {"error": {"message": "y"}},
        {"error": "z"},
    ]
    assert decode(b'error: {"error":{"message":"x"}}\n\n', step) == ['{"error":{"message":"x"}}']


@pytest.mark.parametrize("step", [1, 7, None])
def test_an_event_over_the_limit_is_refused_after_those_before_it(step: int | None) -> None:
    """The buffer never grows past the limit, finished event or not, and what came before is handed out."""
    for tail in (b"", b"\n\n"):
        decoder = SseDecoder(64)
        found: list[str] = []
        for piece in pieces(b"data: 1\n\ndata: " + b"x" * 100 + tail, step or 1000):
            found += decoder.feed(piece)
        assert found == ["1"]
        assert decoder.too_large


def test_a_long_event_costs_no_more_than_its_length() -> None:
    """An event that comes in many small pieces is not searched again from its start."""
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
    """However a stream is cut and whatever ends its lines, its events are the same."""
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
def test_random_bytes_raise_nothing_else(data: bytes, step: int, limit: int) -> None:
    """Whatever a server sends, only our own errors come out."""
    with contextlib.suppress(ConvokitError):
        decode(data, step, limit)
