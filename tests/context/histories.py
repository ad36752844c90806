"""Histories of every kind, for the properties that hold for all of them.

`conversations()` are as they should be; `histories()` are as crashes, imports, cuts and careless code leave them. Every message
with words has its own mark in them (`<m3>`), so a test can tell which ones are in an array.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from convokit import ContextBuilder, Profile
from convokit.context.builder import ContextInput
from convokit.context.report import Context
from convokit.context.strategy import Everything, Item, LastTurns, Selection, StepWindow, Strategy, View
from convokit.tokens.counter import Counter
from convokit.tokens.estimate import CharacterEstimate
from convokit.tokens.exact import ExactTokens

Message = dict[str, Any]
IDS = st.sampled_from(["a", "b", "c", "call_1", "日本"])
"""Few, so that calls share them: some servers begin at call_0 again in every answer."""
WORDS = st.text(alphabet="ab 日本🚀\n.", max_size=30)
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


class Words:
    """Counts words: easy to reason about."""

    name = "words"
    is_scaled = False

    def count(self, text: str) -> int:
        return len(text.split())


@dataclass(frozen=True)
class Anything:
    """A user's strategy that selects whatever it was told to, indexes that are not there included."""

    start: int
    also: tuple[int, ...]
    name: str = "anything"
    most_turns: int | None = None

    def select(self, view: View) -> Selection:
        return Selection(self.start, self.name, self.also)


def call_of(id: Any, name: str = "f", *, custom: bool = False) -> Message:
    if custom:
        return {"id": id, "type": "custom", "custom": {"name": name, "input": "x"}}
    return {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}


COUNTERS: st.SearchStrategy[Counter] = st.sampled_from(
    [Words(), CharacterEstimate(), ExactTokens(), ExactTokens("qwen3", near=True)]
)
PROFILES = st.builds(
    Profile,
    instructions=st.sampled_from(["developer", "system", "fold"]),
    alternate=st.booleans(),
    max_input_tokens=st.one_of(*[st.none()] * 3, st.integers(50, 3000)),
    template_tokens=st.sampled_from([0, 20]),
)
STRATEGIES: st.SearchStrategy[Strategy] = st.one_of(
    st.just(StepWindow()),
    st.just(Everything()),
    st.builds(LastTurns, st.integers(1, 6)),
    st.builds(Anything, st.integers(-9, 40), st.lists(st.integers(-9, 40), max_size=5).map(tuple)),
)
PINS = st.lists(st.integers(-3, 30), max_size=5)
TOOL = {"type": "function", "function": {"name": "f", "description": "Do it.", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}

_text = WORDS
_content = st.one_of(
    *[_text] * 5,
    _text.map(lambda text: [{"type": "text", "text": text}]),
    _text.map(lambda text: [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": PNG}}]),
    st.just([{"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}}]),
    st.just([{"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}]),
    st.just([{"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERg==", "filename": "a.pdf"}}]),
)
_extras = st.sampled_from(
    [
        {},
        {},
        {"name": "anna"},
        {"name": "田中 太郎"},
        {"name": None},
        {"vendor_key": {"deep": [1]}, "annotations": []},
        {"refusal": None, "audio": None, "function_call": None},
        {"tool_calls": None},
        {"tool_calls": []},
    ]
)
_calls = st.lists(
    st.builds(call_of, st.one_of(IDS, IDS, st.sampled_from([None, "", 7])), st.sampled_from(["f", "a.b/c"])), max_size=3
)
_loose = st.one_of(
    st.builds(lambda content, more: {"role": "user", "content": content, **more}, _content, _extras),
    st.builds(lambda text, more: {"role": "assistant", "content": text, **more}, st.none() | _text, _extras),
    st.builds(
        lambda calls, text: {"role": "assistant", "content": text, "tool_calls": calls}, _calls, st.none() | _text
    ),
    st.builds(
        lambda answered, text: {"role": "tool", "tool_call_id": answered, "content": text},
        IDS | st.none(),
        st.none() | _text,
    ),
    st.sampled_from(
        [
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "assistant", "content": None, "audio": {"id": "audio_1", "transcript": "so"}},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "assistant", "content": [], "tool_calls": [call_of("a", custom=True)]},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "ok"},
            {"role": "user", "content": None, "refusal": "mine?"},
            {"role": "user", "content": "x", "tool_calls": [call_of("a")]},
            {"role": "user", "content": []},
            {"role": "tool", "content": "no id"},
            {"role": "tool", "tool_call_id": "a", "content": []},
            {"role": "system", "content": "a rule"},
            {"role": "developer", "content": [{"type": "text", "text": "another rule"}]},
        ]
    ),
)

ROUNDS = st.sampled_from([0, 0, 1, 1, 2])


@st.composite
def turns(draw: st.DrawFn, rounds: st.SearchStrategy[int] = ROUNDS) -> list[Message]:
    """Return a turn as it should be: a question, rounds of tools, a reply."""
    made: list[Message] = [{"role": "user", "content": draw(_content)}]
    for _ in range(draw(rounds)):
        ids = draw(st.lists(IDS, min_size=1, max_size=3, unique=True))
        made.append({"role": "assistant", "content": None, "tool_calls": [call_of(each) for each in ids]})
        made += [{"role": "tool", "tool_call_id": each, "content": draw(_text)} for each in ids]
    return [*made, {"role": "assistant", "content": draw(_text.filter(bool))}]


@st.composite
def conversations(
    draw: st.DrawFn, least: int = 1, most: int = 6, rounds: st.SearchStrategy[int] = ROUNDS
) -> list[Message]:
    """Return turns as they should be, and a question."""
    made = [message for turn in draw(st.lists(turns(rounds), min_size=least, max_size=most)) for message in turn]
    return _with_marks([*made, {"role": "user", "content": "so?"}])


@st.composite
def careless(draw: st.DrawFn) -> list[Message]:
    """Return a round of tools as careless code stores it: ids twice, answers missing, out of order, of nothing."""
    ids = draw(st.lists(IDS, min_size=1, max_size=3))
    kept = draw(st.permutations(ids))[: draw(st.integers(1, 3))]
    asked = {"role": "assistant", "content": None, "tool_calls": [call_of(each) for each in ids]}
    return [asked, *({"role": "tool", "tool_call_id": each, "content": draw(st.none() | _text)} for each in kept)]


@st.composite
def histories(draw: st.DrawFn) -> list[Message]:
    """Return anything: turns, single messages of any kind between them, whatever at the end."""
    alone = _loose.map(lambda each: [each])
    least = draw(st.sampled_from([0, 3, 6]))
    pieces = draw(st.lists(st.one_of(turns(), careless(), alone, alone), min_size=least, max_size=12))
    end = draw(st.sampled_from([[], *[[{"role": "user", "content": "so?"}]] * 3]))
    return _with_marks([dict(message) for piece in pieces for message in piece] + end)


def turn_on_its_way() -> list[Message]:
    """Return what stands behind a question while its turn runs: two calls, one of them answered."""
    asked = {"role": "assistant", "content": None, "tool_calls": [call_of("t1"), call_of("t2")]}
    return [asked, {"role": "tool", "tool_call_id": "t1", "content": "<m99> ok"}]


def _with_marks(messages: list[Message]) -> list[Message]:
    return [
        {**message, "content": f"<m{at}> {message['content']}"}
        if isinstance(message.get("content"), str) and message["content"]
        else message
        for at, message in enumerate(messages)
    ]


def marks(messages: list[Message]) -> list[str]:
    """Return the marks in an array, in order."""
    return re.findall(r"<m\d+>", "".join(str(message.get("content")) for message in messages))


def assemble(
    builder: ContextBuilder,
    items: Sequence[Item],
    *,
    developer_prompt: str | None = None,
    pins: Sequence[Item] = (),
    **given: Any,
) -> Context:
    """Return the context that a builder assembles from counted items."""
    fixed = builder.count_fixed(developer_prompt)
    return builder.assemble(ContextInput(items=items, fixed=fixed, pins=pins, **given))
