"""OpenAI's package for Python with the Responses API and the Conversations API."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest

from convokit.testing import ScriptedCall, ScriptedReply
from tests.clients.answers import REPLIES, TEXTS, assert_three_turns
from tests.clients.chat_history import TOOLS
from tests.clients.conftest import Connect, StartGateway
from tests.support.gateway import MODEL, RunningGateway

in_both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
FUNCTION: Any = {"type": "function", "strict": False, **TOOLS[0]["function"]}  # type: ignore[dict-item]


def _respond(client: openai.OpenAI, stream: bool, **options: Any) -> Any:
    if not stream:
        return client.responses.create(model=MODEL, **options)
    with client.responses.stream(model=MODEL, **options) as events:
        return events.get_final_response()


@in_both_ways
@pytest.mark.parametrize("by", ["conversation", "previous", "input"])
def test_three_turns_are_one_conversation(gateway: RunningGateway, connect: Connect, by: str, stream: bool) -> None:
    client = connect(gateway.base_url)
    conversation = client.conversations.create().id if by == "conversation" else None
    previous, history = None, []
    for text, reply in zip(TEXTS, REPLIES, strict=True):
        given: Any = {"input": text}
        if by == "conversation":
            given["conversation"] = conversation
        elif by == "previous" and previous is not None:
            given["previous_response_id"] = previous
        elif by == "input":
            history.append({"role": "user", "content": text})
            given["input"] = history
        response = _respond(client, stream, instructions="Answer briefly.", **given)
        assert (response.output_text, response.status) == (reply, "completed")
        previous = response.id
        history += response.output
    assert_three_turns(gateway)


@in_both_ways
def test_a_conversation_runs_tools(start_gateway: StartGateway, connect: Connect, stream: bool) -> None:
    gateway = start_gateway([ScriptedCall("get_weather", {"location": "京都"}, id="call_1"), "It is sunny."])
    client = connect(gateway.base_url)
    conversation = client.conversations.create().id
    response = _respond(client, stream, input="The weather?", conversation=conversation, tools=[FUNCTION])
    (call,) = response.output
    assert (call.type, call.call_id, call.arguments) == ("function_call", "call_1", '{"location": "京都"}')
    result: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}]
    response = _respond(client, stream, input=result, conversation=conversation, tools=[FUNCTION])
    assert response.output_text == "It is sunny."
    types = [item.type for item in client.conversations.items.list(conversation, order="asc")]
    assert types == ["message", "function_call", "function_call_output", "message"]
    assert gateway.count_stored() == [4]
    assert [each["role"] for each in gateway.model.last_request.messages] == ["user", "assistant", "tool"]


def test_an_item_reference_stands_for_a_stored_message(gateway: RunningGateway, connect: Connect) -> None:
    client = connect(gateway.base_url)
    first = client.responses.create(model=MODEL, input="Hi")
    items: Any = [
        {"role": "user", "content": "Hi"},
        {"type": "item_reference", "id": first.output[0].id},
        {"role": "user", "content": "Why?"},
    ]
    assert client.responses.create(model=MODEL, input=items).output_text == "You asked: Why?"
    assert gateway.count_stored() == [4]


def test_a_stored_response_is_read_streamed_and_deleted(gateway: RunningGateway, connect: Connect) -> None:
    client = connect(gateway.base_url)
    options: Any = {"model": MODEL, "input": "旅の話?", "metadata": {"topic": "旅"}, "instructions": "Be kind."}
    events = list(client.responses.create(**options, stream=True))
    made: Any = events[-1]
    response = client.responses.retrieve(made.response.id)
    assert response == made.response
    assert (response.output_text, response.metadata, response.instructions) == (
        "You asked: 旅の話?",
        {"topic": "旅"},
        "Be kind.",
    )
    delta: Any = next(event for event in events if event.type == "response.output_text.delta")
    rest = list(client.responses.retrieve(response.id, stream=True, starting_after=delta.sequence_number))
    assert [event.sequence_number for event in rest] == sorted({event.sequence_number for event in rest})
    assert rest[0].sequence_number > delta.sequence_number
    text = "".join(event.delta for event in rest if event.type == "response.output_text.delta")
    assert delta.delta + text == response.output_text
    assert rest[-1] == made

    (item,) = [each.to_dict() for each in client.responses.input_items.list(response.id)]
    assert (item["type"], item["content"]) == ("message", [{"type": "input_text", "text": "旅の話?"}])
    client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_a_response_in_the_background_is_awaited(gateway: RunningGateway, connect: Connect) -> None:
    client = connect(gateway.base_url)
    response = client.responses.create(model=MODEL, input="Hi", background=True)
    assert response.status in ("queued", "in_progress", "completed")
    deadline = time.monotonic() + 10
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
        response = client.responses.retrieve(response.id)
    assert response.output_text == "You asked: Hi"


def test_a_response_in_the_background_is_cancelled(start_gateway: StartGateway, connect: Connect) -> None:
    gateway = start_gateway([ScriptedReply(["a", "b", "c"], pause_s=2.0)])
    client = connect(gateway.base_url)
    response = client.responses.create(model=MODEL, input="Hi", background=True)
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"


def test_input_tokens_are_counted(gateway: RunningGateway, connect: Connect) -> None:
    client = connect(gateway.base_url)
    short = client.responses.input_tokens.count(model=MODEL, input="Hi").input_tokens
    long = client.responses.input_tokens.count(model=MODEL, input="Hi " * 50).input_tokens
    assert 0 < short < long
    assert gateway.count_stored() == []
    assert gateway.model.requests == []


def test_conversations_and_items_are_created_read_and_deleted(gateway: RunningGateway, connect: Connect) -> None:
    client = connect(gateway.base_url)
    first: Any = {"type": "message", "role": "user", "content": "Hi"}
    conversation = client.conversations.create(metadata={"topic": "旅"}, items=[first])
    assert client.conversations.retrieve(conversation.id).metadata == {"topic": "旅"}
    assert client.conversations.update(conversation.id, metadata={"a": "b"}).metadata == {"a": "b"}
    more: Any = [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Bye"}]
    added = client.conversations.items.create(conversation.id, items=more)
    assert [each.role for each in added.data] == ["assistant", "user"]  # type: ignore[union-attr]
    newest_first = list(client.conversations.items.list(conversation.id, limit=2))
    oldest_first = list(client.conversations.items.list(conversation.id, limit=2, order="asc"))
    assert len(oldest_first) == 3
    assert newest_first == oldest_first[::-1]
    item = client.conversations.items.retrieve(oldest_first[0].id or "", conversation_id=conversation.id)
    assert item == oldest_first[0]
    assert client.conversations.delete(conversation.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.conversations.retrieve(conversation.id)


@pytest.mark.parametrize("place", ["conversation", "previous_response_id", "item_reference"])
def test_an_id_that_does_not_exist_is_refused(gateway: RunningGateway, connect: Connect, place: str) -> None:
    digits = "0" * 32
    given: Any = {"input": "Hi"}
    if place == "conversation":
        given["conversation"] = f"conv_{digits}"
    elif place == "previous_response_id":
        given["previous_response_id"] = f"resp_{digits}{digits}"
    else:
        given["input"] = [{"type": "item_reference", "id": f"msg_{digits}_1"}, {"role": "user", "content": "Hi"}]
    with pytest.raises((openai.NotFoundError, openai.BadRequestError)):
        connect(gateway.base_url).responses.create(model=MODEL, **given)
    assert gateway.count_stored() == []
