"""Messages that clients echo in another form."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from convokit.testing import ScriptedCall, ScriptedReply
from tests.server.conversation_client import ConversationClient, user
from tests.support.gateway import RunningGateway, running_gateway

pytestmark = pytest.mark.once
NAMED = pytest.mark.parametrize("thread", ["chat 1", None], ids=["named", "unnamed"])
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(40)).decode()
ARGUMENTS = '{"location": "S\\u00e3o Paulo", "unit": "c"}'


@pytest.fixture
def gateway(sqlite_file: str) -> Iterator[RunningGateway]:
    with running_gateway(sqlite_file) as running:
        yield running


def ask_for_weather(request: Any) -> Any:
    last = request.messages[-1]
    if last["role"] == "tool":
        return f"It is {last['content']}."
    if "weather" in last["content"]:
        return ScriptedReply(calls=[ScriptedCall("get_weather", ARGUMENTS)])
    return "You are welcome."


@NAMED
def test_tools_with_arguments_that_are_written_anew(sqlite_file: str, thread: str | None) -> None:
    """Calls are compared by their parsed arguments. The results start a new turn, and can be sent again."""
    with running_gateway(sqlite_file, ask_for_weather) as gateway:
        tools = [
            {
                "type": "function",
                "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}},
            }
        ]
        client = ConversationClient(gateway, thread)
        first = client.send([user("weather?")], tools=tools)
        [made] = first.message["tool_calls"]
        echoed = {**made, "function": {"name": "get_weather", "arguments": '{"unit":"c","location":"São Paulo"}'}}
        results = [
            user("weather?"),
            {"role": "assistant", "content": "", "tool_calls": [echoed], "annotations": []},
            {"role": "tool", "tool_call_id": made["id"], "content": "sunny"},
        ]
        second = client.send(results, tools=tools)
        assert (first.place, second.place, second.text) == ("new", "append", "It is sunny.")
        assert client.send(results, tools=tools, retry=1).body["id"] == second.body["id"]
        third = client.send([*results, second.message, user("thanks")], tools=tools)
        assert (third.place, client.only.count) == ("append", 6)
        again = client.send(results, tools=tools)
        assert (again.place, again.text) == ("regenerate", "It is sunny.")
        with gateway.kit() as kit:
            kit.verify()


@NAMED
def test_images(gateway: RunningGateway, thread: str | None) -> None:
    """An image is compared by its bytes: another spelling of the same data: URL is the same image."""
    client = ConversationClient(gateway, thread)

    def ask(url: str, **image: str) -> dict[str, Any]:
        return {"role": "user", "content": [
            {"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": url, **image}}
        ]}  # fmt: skip

    first = client.send([ask(f"data:image/png;base64,{PIXEL}")])
    padded = f"data:IMAGE/PNG;base64,{PIXEL.rstrip('=')}"
    second = client.send([ask(padded, detail="auto"), first.message, user("and now?")])
    assert second.place == "append"
    third = client.send([ask(f"data:image/gif;base64,{PIXEL}"), first.message, user("and now?")])
    assert third.place == ("new" if thread is None else "detached")


def test_forms_of_the_same_message(gateway: RunningGateway) -> None:
    """Parts and text, line ends, spaces at the ends, reasoning in the text and keys of replies make no difference."""
    client = ConversationClient(gateway)
    first = client.send([user("line one\r\nline two")])
    echoed = [
        {"role": "user", "content": [{"type": "text", "text": "line one\n"}, {"type": "text", "text": "line two "}]},
        {**first.message, "content": f"<think>\nhm\n</think>\n\n{first.text}", "refusal": None, "annotations": []},
        user("next"),
    ]
    assert client.send(echoed).place == "append"
    assert client.only.count == 4


def test_an_empty_reply_that_was_stopped_is_left_out(gateway: RunningGateway) -> None:
    """Some clients keep an assistant message without text when the user stops a reply at once."""
    client = ConversationClient(gateway, "k")
    client.talk("one")
    history = [
        user("one"),
        {"role": "assistant", "content": "echo: one"},
        user("two"),
        {"role": "assistant", "content": ""},
    ]
    assert client.send([*history, user("three")]).status == 200
    assert client.only.texts == ["one", "echo: one", "two", "three", "echo: three"]
