"""Property-based tests of replies and streams."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from dataclasses import asdict
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from convokit.domain.reply import ParsedReply
from convokit.errors import ConvokitError
from convokit.wire import error_mapping
from convokit.wire.reply_parser import ReplyParser
from tests.support.selection import examples

from .vectors import parse, reader, sse

TEXT = st.text(st.characters(), max_size=12) | st.sampled_from(
    ["日本語 テスト", "👩‍👩‍👧", "\u2028\u0085", '{"a": "\\n"}', "data: [DONE]"]
)
NAMES = st.sampled_from(["weather", "search", "f"])
CALL = st.builds(
    lambda name, arguments: {"type": "function", "function": {"name": name, "arguments": arguments}},
    NAMES,
    TEXT | st.just('{"city":"Oslo"}'),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | TEXT},
    optional={
        "refusal": TEXT,
        "reasoning_content": TEXT,
        "vendor_text": TEXT,
        "vendor_object": st.dictionaries(NAMES, st.integers() | TEXT, min_size=1, max_size=2),
        "annotations": st.lists(st.fixed_dictionaries({"type": st.just("url_citation"), "url": TEXT}), max_size=3),
        "audio": st.fixed_dictionaries(
            {"id": st.just("audio_1"), "data": st.sampled_from(["", "QUJD", "QUI="]), "transcript": TEXT}
        ),
        "tool_calls": st.lists(CALL, max_size=3),
    },
)
USAGE = st.fixed_dictionaries(
    {"prompt_tokens": st.integers(0, 9999), "completion_tokens": st.integers(0, 9999)},
    optional={
        "prompt_tokens_details": st.fixed_dictionaries({"cached_tokens": st.integers(0, 99)}),
        "cost": st.floats(0, 1),
    },
)
TOP = st.fixed_dictionaries(
    {"id": st.just("chatcmpl-1"), "created": st.just(1764000000), "model": st.just("m")},
    optional={
        "service_tier": st.just("flex"),
        "system_fingerprint": st.just("fp"),
        "provider": st.just("P"),
        "usage": USAGE,
    },
)
FINISH = st.sampled_from(["stop", "length", "tool_calls", "content_filter"])


def add_ids(message: dict[str, Any]) -> dict[str, Any]:
    """Give each call of a message an id, as servers do."""
    for number, call in enumerate(message.get("tool_calls", [])):
        call["id"] = f"call_{number}"
    return message


def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Cut a text into some pieces."""
    ends = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


@st.composite
def deltas(draw: st.DrawFn, message: dict[str, Any]) -> list[dict[str, Any]]:
    """Draw deltas of a message: every key cut somewhere, the keys interleaved."""
    lanes: list[list[dict[str, Any]]] = []
    for key, value in message.items():
        if isinstance(value, str) and key != "role":
            lanes.append([{key: piece} for piece in cut(draw, value)])
        elif key == "annotations":
            lanes.append([{key: [item]} for item in value] or [{key: []}])
        elif key == "audio":
            audio: dict[str, Any] = message["audio"]
            spoken = [{"transcript": one} for one in cut(draw, audio["transcript"])]
            lanes.append([{key: piece} for piece in [{"id": audio["id"], "data": audio["data"]}, *spoken]])
        elif key != "tool_calls":
            lanes.append([{key: value}])
    lanes += [lane for lane in [_call_lane(draw, message.get("tool_calls", []))] if lane]
    out = []
    while lanes:
        lane = draw(st.sampled_from(lanes))
        out.append(lane.pop(0))
        lanes = [one for one in lanes if one]
    return out


def _call_lane(draw: st.DrawFn, calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Draw the deltas of tool calls: they start in order, then their arguments come interleaved."""
    begins = []
    rest: list[list[dict[str, Any]]] = []
    for number, call in enumerate(calls):
        function = {"name": call["function"]["name"], "arguments": ""}
        begins.append({"tool_calls": [{"index": number, **call, "function": function}]})
        parts = cut(draw, call["function"]["arguments"])
        rest.append([{"tool_calls": [{"index": number, "function": {"arguments": part}}]} for part in parts])
    while rest:
        lane = draw(st.sampled_from(rest))
        begins.append(lane.pop(0))
        rest = [one for one in rest if one]
    return begins


def to_plain(completion: ParsedReply) -> dict[str, Any]:
    """Return a reply as plain data."""
    found = asdict(completion)
    found["usage"] = completion.usage.model_dump()
    return found


@examples(cost=3)
@given(st.data(), st.lists(st.tuples(MESSAGE, FINISH), min_size=1, max_size=2), TOP)
def test_b63_any_chunking_of_a_reply_equals_the_plain_reply(
    data: st.DataObject, choices: list[tuple[dict[str, Any], str]], top: dict[str, Any]
) -> None:
    plain_choices, lanes = [], []
    for index, (drawn, finish) in enumerate(choices):
        message = add_ids(copy.deepcopy(drawn))
        plain_choices.append({"index": index, "message": message, "finish_reason": finish})
        pieces: list[dict[str, Any]] = [{"index": index, "delta": delta} for delta in data.draw(deltas(message))]
        lanes.append([*pieces, {"index": index, "delta": {}, "finish_reason": finish}])
    plain = {**top, "object": "chat.completion", "choices": plain_choices}
    chunks = []
    while lanes:
        lane = data.draw(st.sampled_from(lanes))
        chunks.append({"object": "chat.completion.chunk", "choices": [lane.pop(0)]})
        lanes = [one for one in lanes if one]
    for key, value in top.items():
        chunks[data.draw(st.integers(0, len(chunks) - 1))][key] = value
    stream = sse(*chunks)
    found = reader()
    step = data.draw(st.integers(1, 200))
    text = ""
    for at in range(0, len(stream), step):
        for event in found.feed(stream[at : at + step]):
            text += event.text if getattr(event, "index", 0) == 0 else ""
    found.end()
    whole = parse(plain)
    assert to_plain(found.build_reply()) == to_plain(whole)
    assert text == found.text == (whole.choices[0].content or "")


KEYS = st.sampled_from(
    re.findall(
        r"\w+",
        """id object created model choices usage error message code type param detail index delta finish_reason logprobs
        content refusal tool_calls function arguments name input custom audio data transcript expires_at reasoning
        reasoning_details annotations function_call text thinking metadata raw status innererror content_filter_result
        timings cache_n""",
    )
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)


@given(st.lists(JSON, max_size=5), st.booleans())
def test_random_json_raises_only_convokits_errors(values: list[Any], streaming: bool) -> None:
    """The reply so far can always be stored."""
    found = reader(streaming=streaming)
    try:
        for value in values:
            text = json.dumps(value)
            found.feed(b"data: " + text.encode() + b"\n\n" if streaming else text.encode())
        found.end()
    except ConvokitError:
        pass
    json.dumps(to_plain(found.build_reply()), allow_nan=False).encode()


@examples(cost=3)
@given(st.lists(st.dictionaries(KEYS, JSON, max_size=6), max_size=4))
def test_random_chunks_raise_only_convokits_errors(chunks: list[dict[str, Any]]) -> None:
    parser = ReplyParser()
    for one in chunks:
        choice = {key: value for key, value in one.items() if key != "error"}
        with contextlib.suppress(ConvokitError):
            parser.feed({**one, "choices": [choice, {"delta": choice}, {"message": choice}]})
    json.dumps(to_plain(parser.build_reply()), ensure_ascii=False, default=str).encode()


@given(
    st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()), st.integers(100, 599), st.booleans()
)
def test_random_bodies_raise_only_convokits_errors(body: bytes, status: int, streaming: bool) -> None:
    """Under any status."""
    error = error_mapping.build_response_error(status, {"retry-after": "x"}, body, retry_after_now=0.0)
    assert isinstance(error, ConvokitError)
    assert str(error)
    for name in ("code", "type", "param", "request_id"):
        assert isinstance(getattr(error, name, None), str | None)
    found = reader(streaming=streaming)
    try:
        found.feed(body)
        found.end()
    except ConvokitError:
        pass
