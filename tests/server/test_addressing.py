"""Where requests go: the rows of the table in docs/explanation/addressing.md."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from convokit import Retry
from convokit.testing import ScriptedError
from convokit.testing.script import ScriptItem
from tests.server.conversation_client import ConversationClient, user
from tests.support.gateway import MODEL, RunningGateway, running_gateway

pytestmark = pytest.mark.once
NAMED = pytest.mark.parametrize("thread", ["chat 1", None], ids=["named", "unnamed"])


@pytest.fixture
def gateway(sqlite_file: str) -> Iterator[RunningGateway]:
    with running_gateway(sqlite_file) as running:
        yield running


@NAMED
def test_twenty_turns_are_forty_messages(gateway: RunningGateway, thread: str | None) -> None:
    """Rows 5, 8 and 12: each turn is appended, and only what is new is written. The request holds the client's messages."""
    client = ConversationClient(gateway, thread)
    history = client.talk(*(f"question {number}" for number in range(20)), system="Be brief.")
    assert client.only.count == 40
    assert client.only.texts == [message["content"] for message in history]
    sent = gateway.model.requests[-1].messages
    assert [message["content"] for message in sent] == ["Be brief.", *(each["content"] for each in history[:-1])]


@NAMED
def test_instructions_belong_to_the_call(gateway: RunningGateway, thread: str | None) -> None:
    """A system prompt that names the time is no part of the history, and no setting of the conversation."""
    client = ConversationClient(gateway, thread)
    history = [user("one")]
    first = client.send([{"role": "system", "content": "It is 9:00."}, *history])
    history += [first.message, user("two")]
    second = client.send([{"role": "developer", "content": "It is 9:01."}, *history])
    third = client.send([*history, second.message, {"role": "system", "content": "It is 9:02."}, user("three")])
    assert [first.place, second.place, third.place] == ["new", "append", "append"]
    assert client.only.roles == ["user", "assistant"] * 3
    prompts = [request.messages[0]["content"] for request in gateway.model.requests]
    assert prompts == ["It is 9:00.", "It is 9:01.", "It is 9:02."]


@NAMED
def test_regenerate(gateway: RunningGateway, thread: str | None) -> None:
    """Row 7: the same history again brings another reply beside the first one. A chat goes on from either."""
    client = ConversationClient(gateway, thread)
    history = client.talk("one", "two")
    again = client.send(history[:-1])
    assert again.place == "regenerate"
    assert (client.only.count, len(client.only.path)) == (5, 4)
    assert client.send([*history, user("three")]).place in ("append", "branch")
    assert (client.only.count, client.only.texts[-2]) == (7, "three")


@NAMED
def test_edited_question(gateway: RunningGateway, thread: str | None) -> None:
    """Row 9: an earlier question in other words starts a branch, and the main branch follows it. Nothing is overwritten."""
    client = ConversationClient(gateway, thread)
    history = client.talk("one", "two", "three")
    edited = client.send([*history[:2], user("zwei")])
    assert edited.place == "branch"
    assert client.only.texts == ["one", "echo: one", "zwei", "echo: zwei"]
    assert client.only.count == 8
    back = client.send([*history, user("four")])
    assert back.place == "branch"
    assert client.only.texts == [*(message["content"] for message in history), "four", "echo: four"]


@NAMED
def test_edited_reply(gateway: RunningGateway, thread: str | None) -> None:
    """Row 9: a reply that the client changed lies beside the stored one, which stays as it is."""
    client = ConversationClient(gateway, thread)
    history = client.talk("one", "two")
    changed = [*history[:1], {"role": "assistant", "content": "forged"}, user("next")]
    answer = client.send(changed)
    if thread is None:  # one opening question names no conversation
        assert (answer.place, len(client.stored)) == ("new", 2)
        return
    assert answer.place == "branch"
    with gateway.kit() as kit:
        log = [message.text for message in kit.chat(thread).log()]
    assert log == ["one", "echo: one", "two", "echo: two", "forged", "next", "echo: next"]


def test_edited_first_question(gateway: RunningGateway) -> None:
    """Row 11, then row 9: it starts a branch at the root, which becomes the main branch when the client continues it."""
    client = ConversationClient(gateway, "k")
    client.talk("one", "two")
    edited = client.send([user("eins")])
    assert edited.place == "detached"
    assert client.only.texts == ["one", "echo: one", "two", "echo: two"]
    goes_on = client.send([user("eins"), edited.message, user("zwei")])
    assert goes_on.place == "branch"
    assert client.only.texts == ["eins", "echo: eins", "zwei", "echo: zwei"]


def test_title_request(gateway: RunningGateway) -> None:
    """Row 11: a request of the client's own under the same name leaves the conversation as it is."""
    client = ConversationClient(gateway, "k")
    history = client.talk("one", "two")
    for _ in range(2):
        title = client.send([user("### Task:\nGenerate a concise title for: one, two")])
        assert title.place in ("detached", "regenerate")
    assert client.only.texts == [message["content"] for message in history]
    assert client.send([*history, user("three")]).place == "append"


def test_side_request_with_the_whole_history(gateway: RunningGateway) -> None:
    """Rows 8 and 9: it becomes the end of the branch, and the next real question takes the branch back."""
    client = ConversationClient(gateway, "k")
    history = client.talk("one", "two")
    client.send([*history, user("Suggest three follow-up questions.")])
    assert client.send([*history, user("three")]).place == "branch"
    assert client.only.texts == [*(message["content"] for message in history), "three", "echo: three"]


def test_client_that_sends_its_last_messages(gateway: RunningGateway) -> None:
    """Row 10: a window of the client is the end of the stored path. The request holds the window and nothing else."""
    client = ConversationClient(gateway, "k")
    history = client.talk(*(f"question {number}" for number in range(6)))
    answer = client.send([*history[-4:], user("next")])
    assert answer.place == "window"
    assert client.only.count == 14
    assert [each["content"] for each in gateway.model.requests[-1].messages] == [
        *(message["content"] for message in history[-4:]),
        "next",
    ]


@NAMED
def test_a_repeat_of_the_sdk_returns_the_reply(gateway: RunningGateway, thread: str | None) -> None:
    """Rows 6 and 13: a request that the SDK sends again is not a second turn, at the first question either."""
    client = ConversationClient(gateway, thread)
    first = client.send([user("one")])
    again = client.send([user("one")], retry=1)
    assert (again.place, again.body["id"]) == ("attach", first.body["id"])
    history = [user("one"), first.message, user("two")]
    second = client.send(history)
    assert client.send(history, retry=2).body["id"] == second.body["id"]
    assert (client.only.count, len(gateway.model.requests)) == (4, 2)


def test_one_opening_question_names_no_conversation(gateway: RunningGateway) -> None:
    """Row 14: two people who say hello are in two conversations, and each goes on in its own."""
    client = ConversationClient(gateway)
    first, second = client.send([user("hello")]), client.send([user("hello")])
    assert first.conversation != second.conversation
    assert [conversation.count for conversation in client.stored] == [2, 2]


def test_the_id_of_an_unnamed_conversation_names_it(gateway: RunningGateway) -> None:
    """The response's header has it. A client goes on by the header, or by `/c/<name>/v1`."""
    first = ConversationClient(gateway).send([user("one")])
    assert first.conversation.startswith("conv_")
    named = ConversationClient(gateway, first.conversation)
    assert named.send([user("one"), first.message, user("two")]).place == "append"
    url = f"{gateway.root_url}/c/{first.conversation}/v1/chat/completions"
    body = {"model": MODEL, "messages": [user("three")]}
    answer = httpx.post(url, json=body, headers={"x-conversation-mode": "append"})
    assert answer.headers["x-conversation-place"] == "delta"
    assert named.only.count == 6


def test_names_in_japanese_and_in_other_headers(gateway: RunningGateway) -> None:
    """A name is any text, in the URL or in a header, also in the headers of other programs."""
    body = {"model": MODEL, "messages": [user("一")]}
    answer = httpx.post(f"{gateway.root_url}/c/旅行/v1/chat/completions", json=body)
    assert answer.headers["x-conversation-id"] == quote("旅行")
    for header, value in (
        ("x-conversation-id", b"\xe6\x97\x85\xe8\xa1\x8c"),
        ("x-openwebui-chat-id", quote("旅行").encode()),
        ("x-session-id", quote("旅行").encode()),
    ):
        headers = {header.encode(): value}
        again = httpx.post(f"{gateway.base_url}/chat/completions", json=body, headers=headers)
        assert again.headers["x-conversation-place"] == "regenerate", header
    [conversation] = gateway.list_stored()
    assert (conversation.key, conversation.count) == ("旅行", 5)


def test_append_mode(gateway: RunningGateway) -> None:
    """Row 4: all messages are new, whatever they say. convokit chooses the window."""
    client = ConversationClient(gateway, "k", {"x-conversation-mode": "append"})
    for text in ("one", "two", "two"):
        client.send([user(text)])
    assert client.only.texts == ["one", "echo: one", "two", "echo: two", "two", "echo: two"]
    assert len(gateway.model.requests[-1].messages) == 5
    assert client.send([user("two")], retry=1).place == "attach"
    orphan = client.send([{"role": "tool", "tool_call_id": "call_9", "content": "x"}])
    assert (orphan.status, orphan.body["error"]["param"]) == (400, "messages")
    assert "no open call" in orphan.body["error"]["message"]


def test_histories_match_within_a_user(gateway: RunningGateway) -> None:
    """Row 12: another `user` of the same API key with the same history has a conversation of his own."""
    client = ConversationClient(gateway)
    first = client.send([user("one")], user="anna")
    history = [user("one"), first.message, user("two")]
    assert client.send(history, user="ben").place == "new"
    assert client.send(history, user="anna").place == "append"
    assert sorted(conversation.count for conversation in client.stored) == [4, 4]
    with gateway.kit() as kit:
        assert sorted(str(each.subject) for each in kit.conversations()) == ["anna", "ben"]


def test_a_whole_history_starts_a_conversation(gateway: RunningGateway) -> None:
    """Rows 5 and 14: a client brings a history that nobody has stored. It is written with the first turn."""
    history = [user("one"), {"role": "assistant", "content": "eins"}, user("two")]
    for client in (ConversationClient(gateway), ConversationClient(gateway, "k")):
        assert client.send(history).place == "new"
        assert client.stored[0].texts == ["one", "eins", "two", "echo: two"]


def test_lost_anchors_are_healed(gateway: RunningGateway, sqlite_file: str) -> None:
    """Without its anchors, a named conversation is found by comparing messages, and the next turn writes an anchor."""
    client = ConversationClient(gateway, "k")
    history = client.talk(*(f"question {number}" for number in range(12)))
    with sqlite3.connect(sqlite_file.removeprefix("sqlite:///")) as database:
        assert database.execute("DELETE FROM convokit_anchor").rowcount == 13
    assert client.send([*history, user("next")]).place == "append"
    assert client.only.count == 26


def test_the_last_message_must_be_answerable(gateway: RunningGateway) -> None:
    """A history that ends with a reply, and one of instructions alone, are refused before anything is written."""
    client = ConversationClient(gateway)
    ends = client.send([user("one"), {"role": "assistant", "content": "eins"}])
    assert (ends.status, ends.body["error"]["code"]) == (400, "unsupported_value")
    alone = client.send([{"role": "system", "content": "x"}])
    assert (alone.status, alone.body["error"]["param"]) == (400, "messages")
    assert client.stored == []


@pytest.mark.parametrize("thread", ["k", None], ids=["named", "unnamed"])
def test_a_failed_turn_of_an_idempotency_key_is_made_again(sqlite_file: str, thread: str | None) -> None:
    """Row 1: the key finds its turn. After a failure the call is made again, and the question is not written again."""
    script: list[ScriptItem] = [ScriptedError(500), "late reply"]
    with running_gateway(sqlite_file, script, retry=Retry(attempts=1)) as gateway:
        client = ConversationClient(gateway, thread, {"idempotency-key": "one"})
        assert client.send([user("hello")]).status == 500
        second = client.send([user("hello")])
        assert (second.status, second.text) == (200, "late reply")
        assert client.send([user("hello")]).body["id"] == second.body["id"]
        other = client.send([user("something else")])
        assert (other.status, other.body["error"]["code"]) == (409, "idempotency_key_reuse")
        assert client.only.count == 2


def test_a_deleted_conversation_is_not_continued(gateway: RunningGateway) -> None:
    """Its id is unknown, and its history begins another conversation. Its own name takes it out of the archive."""
    client = ConversationClient(gateway)
    history = client.talk("one", "two")
    deleted = client.send([*history, user("three")]).conversation
    url = f"{gateway.base_url}/conversations/{deleted}"
    assert httpx.delete(url).json()["deleted"] is True
    assert ConversationClient(gateway, deleted).send([*history, user("four")]).status == 404
    again = client.send([*history, user("four")])
    assert (again.place, again.conversation != deleted) == ("new", True)
    assert httpx.get(url).status_code == 404
