"""What servers send that nothing can store: the reply is kept, mended where it must be, and the conversation goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convokit import Budget, Limits
from convokit.errors import BadReply, ContextOverflow, ConvokitError, Interrupted, ModelError
from tests.faults.malformed_replies import SSE, USAGE, asks, body_of, goes_on, raw
from tests.faults.shared_kit import EACH_ONCE, Stage, staged
from tests.support.server import Script, chunk, completion, event, failure

stage = staged(EACH_ONCE)
JSON_DEPTH = 100_000


MENDED: list[tuple[str, str, str]] = [
    ("high surrogate", r"a\ud800b", "a\ufffdb"),
    ("low surrogate at the end", r"a\udfff", "a\ufffd"),
    ("a pair", r"\ud83d\ude00", "😀"),
    ("a pair the wrong way round", r"\ude00\ud83d", "\ufffd\ufffd"),
    ("nul", r"a\u0000b", "a\ufffdb"),
    ("controls", r"\u001b[31m\u0007\u0085\u2028", "\x1b[31m\x07\x85\u2028"),
    ("marks", r"\ufeff\uffff\ufdd0", "\ufeff\uffff\ufdd0"),
]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(("written", "kept"), [pytest.param(*case[1:], id=case[0]) for case in MENDED])
def test_text_is_kept_and_mended(stage: Stage, written: str, kept: str) -> None:
    """Whole or in pieces, what a backend cannot hold becomes U+FFFD and everything else stays, in the next request too."""
    chat = stage.chat()
    stage.server.script(raw(body_of("TEXT"), TEXT=f'"{written}"'))
    assert stage.settle(chat.send("whole")).text == kept
    half = chunk({"content": "TEXT"}).replace(b"TEXT", written.encode())
    stage.server.script(Script([half, chunk({}, "stop"), event(b"[DONE]")], headers=SSE))
    streaming = chat.stream("in pieces")
    assert "".join(each.text for each in stage.face.collect(streaming)).replace("\x00", "\ufffd") == kept
    stage.server.script(Script([half, None], headers=SSE))
    with pytest.raises(Interrupted):
        stage.face.collect(chat.stream("broken off"))
    told = goes_on(stage, chat)
    assert [each.text for each in told if each.role == "assistant"] == [kept] * 3
    sent = [each["content"] for each in stage.server.requests[-1].body["messages"] if each["role"] == "assistant"]
    assert sent == [kept] * 3


FIELDS = ["id", "model", "service_tier", "system_fingerprint", "object", "created", "unknown"]
ODD = [r'"a\ud800\u0000"', "1e400", "-1e400", "NaN", "9" * 4000, str(2**63), "-1", "[]", "{}", "true", '"x"', "1.5"]


@pytest.mark.once
@pytest.mark.parametrize("written", ODD)
def test_odd_values_anywhere_beside_the_text_lose_nothing(stage: Stage, written: str) -> None:
    """Whatever stands in the fields around a reply, its text is kept, and what is reported of it is true or absent."""
    chat = stage.chat()
    for field in FIELDS:
        stage.server.script(raw(body_of(**{field: "ODD"}), ODD=written))
        assert stage.settle(chat.send("x")).text == "ok"
    for place in ("finish_reason", "logprobs", "index"):
        body = body_of()
        body["choices"][0][place] = "ODD"
        stage.server.script(raw(body, ODD=written))
        assert stage.settle(chat.send("x")).message.text == "ok"
    for name in ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "unknown"):
        stage.server.script(raw(body_of(usage={**USAGE, name: "ODD"}), ODD=written))
        usage = stage.settle(chat.send("x")).usage
        assert all(value is None or 0 <= value < 2**53 for value in (usage.prompt_tokens, usage.completion_tokens))
    for name in ("refusal", "annotations", "audio", "reasoning_content", "unknown", "role", "name", "tool_calls"):
        body = body_of()
        body["choices"][0]["message"][name] = "ODD"
        stage.server.script(raw(body, ODD=written))
        assert stage.settle(chat.send("x")).message.content == "ok"
    assert len(goes_on(stage, chat)) == 2 * 23


UNREADABLE: list[tuple[str, str]] = [
    ("5,000 digits", "9" * 5_000),
    ("100,000 deep", "[" * JSON_DEPTH + "]" * JSON_DEPTH),
    ("100 deep", "[" * 100 + "]" * 100),
    ("broken", "{"),
]


@pytest.mark.once
@pytest.mark.parametrize("written", [pytest.param(case[1], id=case[0]) for case in UNREADABLE])
def test_what_cannot_be_read_is_a_bad_reply(stage: Stage, written: str) -> None:
    """JSON that Python cannot read is BadReply, whole or in a stream, in a reply or its usage; what came is kept."""
    chat = stage.chat()
    broken = raw(body_of(unknown="ODD"), ODD=written)
    usage = raw(body_of(usage={"prompt_tokens": "ODD"}), ODD=written)
    tail = event({"choices": [], "usage": "ODD"}).replace(b'"ODD"', written.encode())
    pieces = Script([chunk({"content": "one "}), tail, chunk({}, "stop"), event(b"[DONE]")], headers=SSE)
    for script in (broken, usage):
        stage.server.script(script)
        with pytest.raises((BadReply, Interrupted)) as caught:
            stage.settle(chat.send("x"))
        assert len(str(caught.value)) < 2_000
    stage.server.script(pieces)
    with pytest.raises(BadReply) as broken_off:
        stage.face.collect(chat.stream("x"))
    assert broken_off.value.partial == "one "
    told = [each.text for each in goes_on(stage, chat)]
    assert told.count("x") == 3
    assert told[-1] == "one "


@pytest.mark.once
@pytest.mark.parametrize("written", [*ODD, "9" * 5_000, "[" * JSON_DEPTH, '"x\\u001b[31m\\nforged"'])
@pytest.mark.parametrize("status", [400, 500])
def test_odd_errors_are_typed(stage: Stage, written: str, status: int) -> None:
    """An error answer of any shape is a ModelError whose sentence is one short line that can be printed; the chat goes on."""
    chat = stage.chat()
    bodies = [written, f'{{"error": {written}}}', f'{{"error": {{"message": {written}, "code": {written}}}}}']
    for body in bodies:
        stage.server.script(Script([body.encode()], status=status, headers={"x-should-retry": "false"}))
        with pytest.raises((ModelError, ContextOverflow)) as caught:
            stage.settle(chat.send("x"))
        said = str(caught.value)
        said.encode()
        assert len(said) < 700
        assert said.isprintable()
    odd = event({"error": {"message": "ODD", "code": "ODD"}}).replace(b'"ODD"', written.encode())
    stage.server.script(Script([chunk({"content": "one "}), odd], headers=SSE))
    with pytest.raises(ConvokitError):
        stage.face.collect(chat.stream("x"))
    assert goes_on(stage, chat)[-1].text == "one "


ARGUMENTS: list[str] = [
    "",
    "{",
    "[]",
    "5",
    "null",
    '{"word": "x", "word": "y"}',
    '{"word": NaN}',
    '{"word": 1e400}',
    '{"word": ' + "9" * 5_000 + "}",
    '{"word": ' + "[" * 2_000 + "]" * 2_000 + "}",
    '{"word": "\\ud800"}',
    '{"word": "\\u0000"}',
    '{"word": "\x00"}',
    '{"word": "\ud800"}',
    '{"word": "x", "other": 1}',
    "x" * 10_000,
]


@pytest.mark.once
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda text: repr(text[:24]))
def test_tool_arguments_of_any_kind(stage: Stage, arguments: str) -> None:
    """Arguments that are none are told to the model, those that are reach the tool; either way the round is whole."""

    def look_up(word: str) -> str:
        return f"found {word}"

    chat = stage.chat(tools=[look_up], budget=Budget(context_tokens=1_000_000))
    stage.server.script(asks('"call_1"', '"look_up"', json.dumps(arguments)), completion("done"))
    assert stage.settle(chat.send("x")).text == "done"
    (result,) = [each for each in stage.server.requests[-1].body["messages"] if each["role"] == "tool"]
    assert result["content"].startswith(("found ", '{"error":'))
    assert [each.role for each in goes_on(stage, chat)] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("id", "name"),
    [
        (r'"a\ud800"', '"look_up"'),
        (r'"a\u0000"', '"look_up"'),
        ('""', '"look_up"'),
        ("null", '"look_up"'),
        ("5", '"look_up"'),
        (json.dumps("x" * 500), '"look_up"'),
        ('"call_1"', '"nobody"'),
        ('"call_1"', r'"a\ud800"'),
        ('"call_1"', r'"a\u0000"'),
        ('"call_1"', '""'),
        ('"call_1"', "null"),
        ('"call_1"', json.dumps("n" * 500)),
    ],
)
def test_tool_calls_of_odd_names(stage: Stage, id: str, name: str) -> None:
    """Whatever a call is called, its result goes back under the same id, and the round is whole."""

    def look_up() -> str:
        return "found"

    chat = stage.chat(tools=[look_up])
    stage.server.script(asks(id, name, '"{}"'), completion("done"))
    assert stage.settle(chat.send("x")).text == "done"
    assert [each["role"] for each in stage.server.requests[-1].body["messages"]] == ["user", "assistant", "tool"]
    goes_on(stage, chat)


@pytest.mark.once
def test_two_calls_of_one_id(stage: Stage) -> None:
    """Two calls under one id are both run, and both go back with their results: the second gets an id of its own."""

    def look_up(word: str) -> str:
        return f"found {word}"

    body = body_of(None)
    body["choices"][0]["message"]["tool_calls"] = [
        {"id": "same", "type": "function", "function": {"name": "look_up", "arguments": json.dumps({"word": word})}}
        for word in ("a", "b")
    ]
    chat = stage.chat(tools=[look_up])
    stage.server.script(Script([json.dumps(body).encode()]), completion("done"))
    stage.settle(chat.send("x"))
    asked, *results = stage.server.requests[-1].body["messages"][1:]
    words = [json.loads(call["function"]["arguments"])["word"] for call in asked["tool_calls"]]
    assert words == ["a", "b"]
    assert [each["content"] for each in results] == ["found a", "found b"]
    assert [each["tool_call_id"] for each in results] == [call["id"] for call in asked["tool_calls"]]
    stored = [message.text for message in stage.settle(chat.messages()) if message.role == "tool"]
    assert stored == ["found a", "found b"]


def _infinite() -> Any:
    made: list[Any] = []
    made.append(made)
    return made


RESULTS: list[tuple[str, Any]] = [
    ("surrogate", "a\ud800"),
    ("nul", "a\x00"),
    ("bytes", b"\xff\x00"),
    ("nan", {"a": float("nan")}),
    ("itself", _infinite()),
    ("5,000 digits", 10**5000),
    ("odd keys", {(1, 2): 3, None: 4}),
    ("set", {1, "a"}),
    ("object", object()),
    ("nothing", None),
    ("exception", ValueError("a\ud800\x00")),
    ("megabytes", "x" * 5_000_000),
    ("megabytes in a list", ["x" * 1_000] * 5_000),
]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("value", [pytest.param(case[1], id=case[0]) for case in RESULTS])
def test_tool_results_of_any_kind(stage: Stage, value: Any) -> None:
    """Whatever a tool returns or raises becomes a text that can be stored and sent, of at most Limits.tool_result_bytes."""

    def look_up() -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    chat = stage.chat(tools=[look_up], budget=Budget(context_tokens=1_000_000))
    stage.server.script(asks('"call_1"', '"look_up"', '"{}"'), completion("done"))
    assert stage.settle(chat.send("x")).text == "done"
    result = stage.server.requests[-1].body["messages"][-1]
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_1")
    assert len(result["content"].encode()) <= Limits().tool_result_bytes
    assert goes_on(stage, chat)[2].content == result["content"]


@pytest.mark.once
def test_rejected_words_are_not_repeated(stage: Stage) -> None:
    """What a validator quotes of the request stays out of the error."""
    detail = [{"loc": ["body", "messages"], "msg": "bad", "input": "the whole question", "type": "x"}]
    chat = stage.chat()
    stage.server.script(failure(422), Script([json.dumps({"detail": detail}).encode()], status=422))
    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            stage.settle(chat.send("the whole question"))
        assert "the whole question" not in str(caught.value)
    goes_on(stage, chat)
