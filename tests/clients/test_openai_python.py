"""OpenAI's package for Python: turns of a conversation, however it is named."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from convokit.server import GatewaySettings
from convokit.testing import ScriptedReply
from tests.clients.answers import KINDS_OF_ADDRESS, PLAIN, REPLIES, TEXTS, WEATHER, make_headers
from tests.clients.chat_history import TOOLS, ChatHistory
from tests.clients.conftest import Connect, StartGateway
from tests.support.gateway import MODEL, RunningGateway

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
in_both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@in_both_ways
@pytest.mark.parametrize("address", ["header", "path", "history"])
def test_three_turns_are_one_conversation(
    gateway: RunningGateway, connect: Connect, address: str, stream: bool
) -> None:
    headers = {"X-Conversation-Id": "kyoto/1"} if address == "header" else {}
    url = f"{gateway.root_url}/c/京都/v1" if address == "path" else gateway.base_url
    history = ChatHistory(connect(url, headers), system="Answer briefly.", stream=stream)
    assert [history.ask(text) for text in TEXTS] == REPLIES
    assert history.places == ["new", "append", "append"]
    PLAIN.check(gateway)
    (conversation,) = gateway.list_stored()
    assert conversation.key == {"header": "kyoto/1", "path": "京都", "history": None}[address]


def test_twenty_turns_without_an_id_store_forty_messages(
    start_gateway: StartGateway, connect: Connect, database: str
) -> None:
    gateway = start_gateway(database=database)
    history = ChatHistory(connect(gateway.base_url))
    for number in range(20):
        assert history.ask(f"Question {number}?") == f"You asked: Question {number}?"
    assert gateway.count_stored() == [40]
    assert history.places == ["new", *["append"] * 19]


def test_without_matching_each_request_is_a_conversation(start_gateway: StartGateway, connect: Connect) -> None:
    """The model gets the same messages. A name still continues a conversation."""
    gateway = start_gateway(settings=GatewaySettings(match_history=False))
    history = ChatHistory(connect(gateway.base_url))
    assert [history.ask(text) for text in TEXTS] == REPLIES
    assert sorted(gateway.count_stored()) == [2, 4, 6]
    assert len(gateway.model.last_request.messages) == 5
    named = ChatHistory(connect(gateway.base_url, {"X-Conversation-Id": "kyoto"}))
    assert [named.ask(text) for text in TEXTS] == REPLIES
    assert sorted(gateway.count_stored()) == [2, 4, 6, 6]


@in_both_ways
@pytest.mark.parametrize("address", KINDS_OF_ADDRESS)
def test_tools_run_in_one_conversation(gateway: RunningGateway, connect: Connect, address: str, stream: bool) -> None:
    history = ChatHistory(connect(gateway.base_url, make_headers(address)), stream=stream, tools=TOOLS)
    assert [history.ask(text) for text in WEATHER.texts] == WEATHER.replies
    WEATHER.check(gateway)


def test_two_users_with_the_same_words_have_two_conversations(gateway: RunningGateway, connect: Connect) -> None:
    """A history is matched within one user. Without a user, the opening question alone matches nothing."""
    mika = ChatHistory(connect(gateway.base_url), user="mika")
    ken = ChatHistory(connect(gateway.base_url), user="ken")
    for text in TEXTS:
        for history in (mika, ken):
            history.ask(text)
    assert gateway.count_stored() == [6, 6]
    assert mika.places == ken.places == ["new", "append", "append"]


@pytest.mark.parametrize("headers", [{"X-Conversation-Id": "kyoto"}, {}], ids=["header", "history"])
def test_a_repeated_request_makes_another_reply_of_the_same_question(
    gateway: RunningGateway, connect: Connect, headers: dict[str, str]
) -> None:
    history = ChatHistory(connect(gateway.base_url, headers))
    history.ask("Where is Kyoto?")
    history.ask("Name a town.")
    history.messages.pop()
    gateway.model.add("Nara.")
    assert history.ask() == "Nara."
    (conversation,) = gateway.list_stored()
    assert (history.places, conversation.count) == (["new", "append", "regenerate"], 5)
    assert conversation.texts[2:] == ["Name a town.", "Nara."]
    assert history.ask("Why?") == "You asked: Why?"
    assert gateway.count_stored() == [7]
    assert history.places[-1] == "append"


def test_an_edited_question_becomes_a_branch_of_the_same_conversation(
    gateway: RunningGateway, connect: Connect
) -> None:
    history = ChatHistory(connect(gateway.base_url))
    history.ask("Name a town.")
    history.ask("And a river?")
    del history.messages[2:]
    history.ask("And a mountain?")
    history.ask("How high?")
    (conversation,) = gateway.list_stored()
    assert (history.places, conversation.count) == (["new", "append", "branch", "append"], 8)
    assert conversation.texts[::2] == ["Name a town.", "And a mountain?", "How high?"]


def test_an_edited_first_question_leads_the_conversation_once_it_is_continued(
    gateway: RunningGateway, connect: Connect
) -> None:
    """Before, it may be a request for a title or tags, which must not replace the conversation."""
    headers = {"X-Conversation-Id": "kyoto"}
    history = ChatHistory(connect(gateway.base_url, headers))
    history.ask("Name a town.")
    history.messages.clear()
    history.ask("Name a big town.")
    (conversation,) = gateway.list_stored()
    assert (conversation.texts[0], conversation.count) == ("Name a town.", 4)
    history.ask("Why?")
    (conversation,) = gateway.list_stored()
    assert (conversation.texts[::2], conversation.count) == (["Name a big town.", "Why?"], 6)
    assert history.places == ["new", "detached", "branch"]


def test_a_client_that_sends_its_last_messages_only_continues(gateway: RunningGateway, connect: Connect) -> None:
    """The model gets exactly what the client sends."""
    history = ChatHistory(connect(gateway.base_url, {"X-Conversation-Id": "kyoto"}))
    for number in range(4):
        history.ask(f"Question {number}?")
    del history.messages[:4]
    history.ask("Question 4?")
    assert history.places[-1] == "window"
    assert gateway.count_stored() == [10]
    assert [each["content"] for each in gateway.model.last_request.messages] == [
        "Question 2?",
        "You asked: Question 2?",
        "Question 3?",
        "You asked: Question 3?",
        "Question 4?",
    ]


def test_images_are_stored_once_and_sent_each_time(gateway: RunningGateway, connect: Connect) -> None:
    history = ChatHistory(connect(gateway.base_url))
    image = {"type": "image_url", "image_url": {"url": PIXEL}}
    history.ask([{"type": "text", "text": "What is this?"}, image])
    history.ask("Are you sure?")
    assert gateway.count_stored() == [4]
    assert history.places == ["new", "append"]
    assert gateway.model.last_request.messages[0]["content"][1]["image_url"]["url"] == PIXEL


class Town(BaseModel):
    """A structured answer."""

    name: str
    people: int


def test_structured_output_is_parsed(start_gateway: StartGateway, connect: Connect) -> None:
    text = json.dumps({"name": "京都", "people": 1_460_000}, ensure_ascii=False)
    gateway = start_gateway([text, text])
    client = connect(gateway.base_url)
    messages: Any = [{"role": "user", "content": "A town, as JSON"}]
    completion = client.chat.completions.parse(model=MODEL, messages=messages, response_format=Town)
    response = client.responses.parse(model=MODEL, input="Another one, as JSON", text_format=Town)
    assert completion.choices[0].message.parsed == response.output_parsed == Town(name="京都", people=1_460_000)
    assert [each.body["response_format"]["type"] for each in gateway.model.requests] == ["json_schema"] * 2
    assert gateway.count_stored() == [2, 2]


def test_a_stream_reports_usage_on_request(gateway: RunningGateway, connect: Connect) -> None:
    client = connect(gateway.base_url)
    options: Any = {"model": MODEL, "messages": [{"role": "user", "content": "秋は?"}], "stream": True}
    silent = list(client.chat.completions.create(**options))
    assert all(chunk.choices and chunk.usage is None for chunk in silent)
    chunks = list(client.chat.completions.create(**options, stream_options={"include_usage": True}))
    assert (chunks[-1].choices, chunks[-1].usage and chunks[-1].usage.total_tokens > 0) == ([], True)
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_completion_is_read_and_deleted(gateway: RunningGateway, connect: Connect) -> None:
    client = connect(gateway.base_url)
    made = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "Hi"}])
    read = client.chat.completions.retrieve(made.id)
    assert (read.id, read.choices[0].message.content) == (made.id, "You asked: Hi")
    assert client.chat.completions.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.retrieve(made.id)


def test_models_are_listed(gateway: RunningGateway, connect: Connect) -> None:
    client = connect(gateway.base_url)
    assert MODEL in [each.id for each in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_conversation_is_named_in_the_response(start_gateway: StartGateway, connect: Connect) -> None:
    """A client that keeps the name continues by it with what is new alone."""
    gateway = start_gateway([ScriptedReply("Hello."), ScriptedReply("Kyoto.")])
    client = connect(gateway.base_url)
    messages: Any = [{"role": "user", "content": "Hi"}]
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=messages)
    name = raw.headers["X-Conversation-Id"]
    assert raw.parse()._request_id
    headers = {"X-Conversation-Id": name, "X-Conversation-Mode": "append"}
    messages = [{"role": "user", "content": "Name a town."}]
    client.chat.completions.create(model=MODEL, messages=messages, extra_headers=headers)
    (conversation,) = gateway.list_stored()
    assert conversation.texts == ["Hi", "Hello.", "Name a town.", "Kyoto."]
    assert [each["content"] for each in gateway.model.last_request.messages] == ["Hi", "Hello.", "Name a town."]
