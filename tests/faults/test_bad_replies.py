"""What servers send that nothing can store: the reply is kept, mended where it must be, and the conversation goes on."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import text as sql

from convokit import Budget, Limits
from convokit.errors import BadReply, ContextOverflow, ConvokitError, Interrupted, ModelError, TooLarge
from tests.faults.stage import Stage, staged
from tests.support.server import Script, chunk, completion, event, failure, stream

stage = staged()
SSE = {"content-type": "text/event-stream"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
JSON_DEPTH = 100_000


def _goes_on(stage: Stage, chat: Any, **settings: Any) -> list[Any]:
    """Hold that the conversation can be read, verified, and continued with a valid request; return the messages before."""
    before = list(stage.settle(chat.messages()))
    assert stage.settle(chat.send("go on", **settings)).text == "echo: go on"
    asked: dict[str, int] = {}
    for message in stage.server.requests[-1].body["messages"]:
        assert message.get("content") is not None or message.get("tool_calls")
        if message["role"] == "tool":
            asked[message["tool_call_id"]] -= 1
        asked |= {call["id"]: 1 for call in message.get("tool_calls", ())}
    assert not any(asked.values())
    json.dumps([each.model_dump(mode="json") for each in before], ensure_ascii=False).encode()
    stage.settle(chat.verify())
    return before


def _raw(body: dict[str, Any], **replaced: str) -> Script:
    """Return a plain answer with each word in capitals replaced by JSON text of any kind."""
    text = json.dumps(body)
    for word, written in replaced.items():
        text = text.replace(f'"{word}"', written)
    return Script([text.encode()])


def _body(content: Any = "ok", **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}
    return {"id": "x", "model": "m", "choices": [choice], "usage": USAGE, **more}


MENDED: list[tuple[str, str, str]] = [
    ("high surrogate", r"a\ud800b", "a\ufffdb"),
    ("low surrogate at the end", r"a\udfff", "a\ufffd"),
    ("a pair", r"\ud83d\ude00", "😀"),
    ("a pair the wrong way round", r"\ude00\ud83d", "\ufffd\ufffd"),
    ("nul", r"a\u0000b", "a\ufffdb"),
    ("controls", r"\u001b[31m\u0007\u0085\u2028", "\x1b[31m\x07\x85\u2028"),
    ("marks", r"\ufeff\uffff\ufdd0", "\ufeff\uffff\ufdd0"),
]


@pytest.mark.parametrize(("written", "kept"), [pytest.param(*case[1:], id=case[0]) for case in MENDED])
def test_text_is_kept_and_mended(stage: Stage, written: str, kept: str) -> None:
    """Whole or in pieces, what a backend cannot hold becomes U+FFFD and everything else stays; the next request has the same."""
    chat = stage.chat()
    stage.server.script(_raw(_body("TEXT"), TEXT=f'"{written}"'))
    assert stage.settle(chat.send("whole")).text == kept
    half = chunk({"content": "TEXT"}).replace(b"TEXT", written.encode())
    stage.server.script(Script([half, chunk({}, "stop"), event(b"[DONE]")], headers=SSE))
    streaming = chat.stream("in pieces")
    assert "".join(each.text for each in stage.face.collect(streaming)).replace("\x00", "\ufffd") == kept
    stage.server.script(Script([half, None], headers=SSE))
    with pytest.raises(Interrupted):
        stage.face.collect(chat.stream("broken off"))
    told = _goes_on(stage, chat)
    assert [each.text for each in told if each.role == "assistant"] == [kept] * 3
    sent = [each["content"] for each in stage.server.requests[-1].body["messages"] if each["role"] == "assistant"]
    assert sent == [kept] * 3


FIELDS = ["id", "model", "service_tier", "system_fingerprint", "object", "created", "unknown"]
ODD = [r'"a\ud800\u0000"', "1e400", "-1e400", "NaN", "9" * 4000, str(2**63), "-1", "[]", "{}", "true", '"x"', "1.5"]


@pytest.mark.parametrize("written", ODD)
def test_odd_values_anywhere_beside_the_text_lose_nothing(stage: Stage, written: str) -> None:
    """Whatever stands in the fields around a reply, its text is kept, and what is reported of it is true or absent."""
    chat = stage.chat()
    for field in FIELDS:
        stage.server.script(_raw(_body(**{field: "ODD"}), ODD=written))
        assert stage.settle(chat.send("x")).text == "ok"
    for place in ("finish_reason", "logprobs", "index"):
        body = _body()
        body["choices"][0][place] = "ODD"
        stage.server.script(_raw(body, ODD=written))
        assert stage.settle(chat.send("x")).message.text == "ok"
    for name in ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details", "unknown"):
        stage.server.script(_raw(_body(usage={**USAGE, name: "ODD"}), ODD=written))
        usage = stage.settle(chat.send("x")).usage
        assert all(value is None or 0 <= value < 2**53 for value in (usage.prompt_tokens, usage.completion_tokens))
    for name in ("refusal", "annotations", "audio", "reasoning_content", "unknown", "role", "name", "tool_calls"):
        body = _body()
        body["choices"][0]["message"][name] = "ODD"
        stage.server.script(_raw(body, ODD=written))
        assert stage.settle(chat.send("x")).message.content == "ok"
    assert len(_goes_on(stage, chat)) == 2 * 23


UNREADABLE: list[tuple[str, str]] = [
    ("5,000 digits", "9" * 5_000),
    ("100,000 deep", "[" * JSON_DEPTH + "]" * JSON_DEPTH),
    ("100 deep", "[" * 100 + "]" * 100),
    ("broken", "{"),
]


@pytest.mark.parametrize("written", [pytest.param(case[1], id=case[0]) for case in UNREADABLE])
def test_what_cannot_be_read_is_a_bad_reply(stage: Stage, written: str) -> None:
    """JSON that Python cannot read is BadReply, whole or in a stream, in a reply, its usage or a tool call; what came is kept."""
    chat = stage.chat()
    broken = _raw(_body(unknown="ODD"), ODD=written)
    usage = _raw(_body(usage={"prompt_tokens": "ODD"}), ODD=written)
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
    told = [each.text for each in _goes_on(stage, chat)]
    assert told.count("x") == 3
    assert told[-1] == "one "


@pytest.mark.parametrize("written", [*ODD, "9" * 5_000, "[" * JSON_DEPTH, '"x\\u001b[31m\\nforged"'])
@pytest.mark.parametrize("status", [400, 500])
def test_odd_errors_are_typed(stage: Stage, written: str, status: int) -> None:
    """An error answer of any shape is a ModelError whose sentence is one short line that can be printed; the chat goes on."""
    chat = stage.chat()
    bodies = [written, '{"error": %s}' % written, '{"error": {"message": %s, "code": %s}}' % (written, written)]
    for body in bodies:
        stage.server.script(Script([body.encode()], status=status, headers={"x-should-retry": "false"}))
        with pytest.raises((ModelError, ContextOverflow)) as caught:
            stage.settle(chat.send("x"))
        said = str(caught.value)
        said.encode()
        assert len(said) < 700
        assert said.isprintable()
    body = event({"error": {"message": "ODD", "code": "ODD"}}).replace(b'"ODD"', written.encode())
    stage.server.script(Script([chunk({"content": "one "}), body], headers=SSE))
    with pytest.raises(ConvokitError):
        stage.face.collect(chat.stream("x"))
    assert _goes_on(stage, chat)[-1].text == "one "


def _asks(id: str, name: str, arguments: str) -> Script:
    """Return an answer that calls a tool; each argument is JSON text."""
    call = {"id": "ID", "type": "function", "function": {"name": "NAME", "arguments": "ARGUMENTS"}}
    body = _body(None)
    body["choices"][0]["message"]["tool_calls"] = [call]
    return _raw(body, ID=id, NAME=name, ARGUMENTS=arguments)


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


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda text: repr(text[:24]))
def test_tool_arguments_of_any_kind(stage: Stage, arguments: str) -> None:
    """Arguments that are none are told to the model, those that are reach the tool; either way the round is whole."""

    def look_up(word: str) -> str:
        return f"found {word}"

    chat = stage.chat(tools=[look_up], budget=Budget(context_tokens=1_000_000))
    stage.server.script(_asks('"call_1"', '"look_up"', json.dumps(arguments)), completion("done"))
    assert stage.settle(chat.send("x")).text == "done"
    (result,) = [each for each in stage.server.requests[-1].body["messages"] if each["role"] == "tool"]
    assert result["content"].startswith(("found ", '{"error":'))
    assert [each.role for each in _goes_on(stage, chat)] == ["user", "assistant", "tool", "assistant"]


@pytest.mark.parametrize(
    ("id", "name"),
    [
        (r'"a\ud800"', '"look_up"'),
        pytest.param(
            r'"a\u0000"', '"look_up"', marks=pytest.mark.xfail(strict=True, reason="NUL stays in the call's id")
        ),
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
    stage.server.script(_asks(id, name, '"{}"'), completion("done"))
    assert stage.settle(chat.send("x")).text == "done"
    assert [each["role"] for each in stage.server.requests[-1].body["messages"]] == ["user", "assistant", "tool"]
    _goes_on(stage, chat)


@pytest.mark.xfail(strict=True, reason="results are found by id alone")
def test_two_calls_of_one_id(stage: Stage) -> None:
    """Two calls under one id have a result each, and neither is given the other's."""

    def look_up(word: str) -> str:
        return f"found {word}"

    body = _body(None)
    body["choices"][0]["message"]["tool_calls"] = [
        {"id": "same", "type": "function", "function": {"name": "look_up", "arguments": json.dumps({"word": word})}}
        for word in ("a", "b")
    ]
    chat = stage.chat(tools=[look_up])
    stage.server.script(Script([json.dumps(body).encode()]), completion("done"))
    stage.settle(chat.send("x"))
    asked, *results = stage.server.requests[-1].body["messages"][1:]
    found = {each["tool_call_id"]: each["content"] for each in results}
    calls = asked["tool_calls"]
    told = [(json.loads(call["function"]["arguments"])["word"], found[call["id"]]) for call in calls]
    assert told == [("a", "found a"), ("b", "found b")]


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
]


@pytest.mark.parametrize("value", [pytest.param(case[1], id=case[0]) for case in RESULTS])
def test_tool_results_of_any_kind(stage: Stage, value: Any) -> None:
    """Whatever a tool returns or raises becomes a text that can be stored and sent, of at most Limits.tool_result_bytes."""

    def look_up() -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    chat = stage.chat(tools=[look_up], budget=Budget(context_tokens=1_000_000))
    stage.server.script(_asks('"call_1"', '"look_up"', '"{}"'), completion("done"))
    assert stage.settle(chat.send("x")).text == "done"
    result = stage.server.requests[-1].body["messages"][-1]
    assert (result["role"], result["tool_call_id"]) == ("tool", "call_1")
    assert len(result["content"].encode()) <= Limits().tool_result_bytes
    assert _goes_on(stage, chat)[2].content == result["content"]


def _limited(stage: Stage, **limits: int) -> Any:
    """Return a chat of a kit with other limits, on the same database."""
    kit = stage.face.kit(stage.database, model="m", base_url=stage.server.url, limits=Limits(**limits))
    return kit.chat(stage.chat().key)


@pytest.mark.parametrize(
    ("limits", "script"),
    [
        ({"reply_bytes": 1_000}, stream(["x" * 400] * 10)),
        ({"reply_bytes": 1_000}, stream([], finish=None, done=False)),
        ({"event_bytes": 1_000}, stream(["one ", "x" * 4_000])),
    ],
)
def test_a_reply_over_its_limit_is_cut_and_kept(stage: Stage, limits: dict[str, int], script: Script) -> None:
    """A stream over Limits.reply_bytes or Limits.event_bytes ends in an error that names it; what came is kept."""
    chat = _limited(stage, **limits)
    if len(script.pieces) == 1:  # no text, but endless fields of another kind
        script.pieces += [chunk({"reasoning_content": "x" * 400}) for _ in range(10)]
    stage.server.script(script)
    with pytest.raises(ModelError, match=rf"Limits\.{next(iter(limits))}") as caught:
        stage.face.collect(chat.stream("x"))
    assert [each.text for each in _goes_on(stage, chat)][1:] == ([caught.value.partial] if caught.value.partial else [])


def test_a_whole_reply_over_its_limit(stage: Stage) -> None:
    """An answer over Limits.reply_bytes is refused by name while it is read, and its turn is closed as failed."""
    chat = _limited(stage, reply_bytes=1_000)
    stage.server.script(completion("x" * 2_000))
    with pytest.raises(BadReply, match=r"Limits\.reply_bytes"):
        stage.settle(chat.send("x"))
    with stage.engine.connect() as connection:
        query = sql("SELECT state, error FROM convokit_turn WHERE conversation_id = :id")
        values = {"id": chat.id.hex if stage.engine.dialect.name == "sqlite" else chat.id}
        state, error = connection.execute(query, values).one()
    assert state == "failed"
    assert json.loads(error)["type"] == "BadReply"
    _goes_on(stage, chat)


@pytest.mark.parametrize(
    ("limits", "content"),
    [
        ({"message_bytes": 10}, "eleven byte"),
        ({"message_bytes": 10}, ["x", "あああああ"]),
        ({"attachment_bytes": 10}, [{"type": "image_url", "image_url": {"url": "data:,eleven%20byte"}}]),
        ({"attachment_bytes": 10}, [{"type": "image_url", "image_url": {"url": f"data:,five{n}{n}"}} for n in (1, 2)]),
    ],
)
def test_a_message_over_its_limit(stage: Stage, limits: dict[str, int], content: Any) -> None:
    """A message or its attachments over a limit is TooLarge, which names the limit; nothing happens."""
    chat = _limited(stage, **limits)
    with stage.untouched(), pytest.raises(TooLarge) as caught:
        stage.settle(chat.send(content))
    assert caught.value.setting == f"Limits.{next(iter(limits))}"
    assert caught.value.limit == 10 < caught.value.size


def test_a_tool_result_over_its_limit_is_cut(stage: Stage) -> None:
    """Limits.tool_result_bytes cuts a result, and says by how much."""

    def look_up() -> str:
        return "あ" * 1_000

    chat = _limited(stage, tool_result_bytes=200)
    stage.server.script(_asks('"call_1"', '"look_up"', '"{}"'), completion("done"))
    stage.settle(chat.send("x", tools=[look_up]))
    result = stage.server.requests[-1].body["messages"][-1]["content"]
    assert len(result.encode()) <= 200
    assert "of 3,000 bytes" in result


@pytest.mark.parametrize(
    "budget", [Budget(context_tokens=10, reply_tokens=5), Budget(context_tokens=100, reply_tokens=90)]
)
def test_a_budget_that_is_exceeded_says_by_how_much(stage: Stage, budget: Budget) -> None:
    """What does not fit Budget.context_tokens less Budget.reply_tokens is ContextOverflow with both numbers."""
    with stage.untouched(), pytest.raises(ContextOverflow, match="budget") as caught:
        stage.settle(stage.chat().send("some words " * 10, budget=budget))
    needed, available = caught.value.needed, caught.value.available
    assert needed is not None
    assert available is not None
    assert needed > available


def test_rejected_words_are_not_repeated(stage: Stage) -> None:
    """What a validator quotes of the request stays out of the error."""
    detail = [{"loc": ["body", "messages"], "msg": "bad", "input": "the whole question", "type": "x"}]
    chat = stage.chat()
    stage.server.script(failure(422), Script([json.dumps({"detail": detail}).encode()], status=422))
    for _ in range(2):
        with pytest.raises(ModelError) as caught:
            stage.settle(chat.send("the whole question"))
        assert "the whole question" not in str(caught.value)
    _goes_on(stage, chat)
