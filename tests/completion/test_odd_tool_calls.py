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
