"""Tests of tool calls that models and gateways write in odd ways."""

from __future__ import annotations

import json
from typing import Any

import pytest

from convokit import Retry
from convokit.wire import request as wire_request
from convokit.wire.message_encoding import to_wire_messages
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, calls, completion, echo, failure

ONCE = Retry(attempts=1)


def look(path: str) -> str:
    """Look at a path."""
    return f"seen {path}"


def refuse_invalid_arguments(body: Any) -> Script:
    """Answer as vLLM and llama.cpp do: every arguments of the history must be a JSON object."""
    for message in body["messages"]:
        for call in message.get("tool_calls") or ():
            try:
                is_object = isinstance(json.loads(call["function"]["arguments"]), dict)
            except ValueError:
                is_object = False
            if not is_object:
                return failure(500, "Failed to parse tool call arguments as JSON", type="server_error")
    return echo(body)


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("arguments", ['{"path": "/京都', "{'path': '/a'}", '{"path":"/a"}{"path":"/a"}', "[1]", '"a"'])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_conversation_goes_on_after_malformed_arguments(
    face: Face, kit: Any, server: LoopbackServer, arguments: str, streamed: bool
) -> None:
    """The arguments are stored as they came. Every later request has a JSON object that holds their text."""
    server.answer = refuse_invalid_arguments
    chat = kit.chat("t", tools=[look])
    server.script(calls(("c1", "look", arguments), streamed=streamed))
    if streamed:
        face.collect(chat.stream("q", retry=ONCE))
    else:
        face.settle(chat.send("q", retry=ONCE))
    face.settle(chat.send("and now?", retry=ONCE))
    face.settle(chat.regenerate())
    stored = face.settle(chat.messages())[1].tool_calls[0]["function"]["arguments"]
    assert stored == arguments
    for request in server.requests[1:]:
        sent = request.body["messages"][1]["tool_calls"][0]["function"]["arguments"]
        assert json.loads(sent) == {"arguments": arguments}
    face.settle(chat.verify())


@pytest.mark.once
def test_a_replay_uses_the_renderer_of_its_request(
    face: Face, kit: Any, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that renderer 1 made is replayed with its malformed arguments, and the next one without."""
    chat = kit.chat("t", tools=[look])
    with monkeypatch.context() as older:
        older.setattr(wire_request, "RENDERER", 1)
        older.setitem(to_wire_messages.__kwdefaults__ or {}, "renderer", 1)
        server.script(calls(("c1", "look", "{'path': 1}")), completion("done"))
        first = face.settle(chat.send("q"))
    second = face.settle(chat.send("again"))
    for reply, sent in ((first, "{'path': 1}"), (second, '{"arguments":"{\'path\': 1}"}')):
        replay = face.settle(chat.replay(reply))
        assert replay.status == "exact", replay.problem
        assert replay.messages[1]["tool_calls"][0]["function"]["arguments"] == sent
    difference = face.settle(chat.diff(first, second))
    assert difference.reason == "altered"
    assert "versions 1 and 2 of the renderer" in difference.why


def list_pairs(body: Any) -> list[tuple[str, str, str]]:
    """Return id, path and result of each call in a request."""
    results = {each["tool_call_id"]: each["content"] for each in body["messages"] if each["role"] == "tool"}
    asked = [call for each in body["messages"] for call in each.get("tool_calls") or ()]
    return [(call["id"], json.loads(call["function"]["arguments"])["path"], results[call["id"]]) for call in asked]


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("id", ["same", "look", ""])
@pytest.mark.parametrize("streamed", [False, True])
def test_two_calls_with_one_id(face: Face, kit: Any, server: LoopbackServer, id: str, streamed: bool) -> None:
    """Both run, and the model reads both results. The next reply of the path may use the id again."""
    chat = kit.chat("t", tools=[look])
    for number in range(2):
        asked = [(id, "look", f'{{"path":"/{number}{name}"}}') for name in ("x", "y")]
        server.script(calls(*asked, streamed=streamed))
        if streamed:
            face.collect(chat.stream("q"))
        else:
            face.settle(chat.send("q"))
    pairs = list_pairs(server.requests[-1].body)
    assert [(path, result) for _, path, result in pairs] == [
        (f"/{each}", f"seen /{each}") for each in ("0x", "0y", "1x", "1y")
    ]
    assert len({each[0] for each in pairs}) == 4
    stored = [call["id"] for each in face.settle(chat.messages()) for call in each.tool_calls or ()]
    assert stored == [each[0] for each in pairs]
    face.settle(chat.verify())


@pytest.mark.once
def test_calls_for_the_caller_get_ids_of_their_own(face: Face, kit: Any, server: LoopbackServer) -> None:
    server.script(calls(("a", "look", "{}"), ("a", "look", "{}")))
    tool = {"type": "function", "function": {"name": "look"}}
    ids = [call["id"] for call in face.settle(kit.chat("t").send("q", tools=[tool])).tool_calls]
    assert ids[0] == "a"
    assert len(set(ids)) == 2


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", ["look<|channel|>commentary", "functions.look", " look\n"])
def test_an_odd_name_runs_the_tool_that_is_meant(face: Face, kit: Any, server: LoopbackServer, name: str) -> None:
    """The name is stored as it came. A tool without a function is the caller's under this name too."""
    chat = kit.chat("t")
    server.script(calls(("c1", name, json.dumps(json.dumps({"path": "/京都"})))))
    face.settle(chat.send("q", tools=[look]))
    _, _, result = server.requests[-1].body["messages"]
    assert result["content"] == "seen /京都"
    assert face.settle(chat.messages())[1].tool_calls[0]["function"]["name"] == name
    face.settle(chat.verify())
    server.script(calls(("c2", name, "{}")))
    tool = {"type": "function", "function": {"name": "look"}}
    assert face.settle(chat.send("q", tools=[tool])).tool_calls[0]["id"] == "c2"
