"""Nothing of one tenant is reached, changed or revealed by another, whatever ids he knows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.server.in_process import AsgiGateway, describe_refusal, serving
from tests.support.gateway import MODEL

pytestmark = pytest.mark.soak(sample=True)

SECRET = "the canary of tenant a"
IMAGE = "data:image/png;base64,iVBORw0KGgo="
HEX = re.compile("[0-9a-f]{32,64}")
Place = tuple[str, str, dict[str, Any] | None, dict[str, str]]
CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
ASKED = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
INPUT = {"model": MODEL, "input": "hi"}


@pytest.fixture
def guarded(database: str) -> Iterator[AsgiGateway]:
    with serving(database, auth=None) as running:
        yield running


def list_places(conv: str, resp: str, chat: str, msg: str, reply: str) -> list[Place]:
    """Return every place of a request in which an id can stand."""
    items, response = f"/v1/conversations/{conv}/items", f"/v1/responses/{resp}"
    reference = [{"type": "item_reference", "id": reply}, {"role": "user", "content": "hi"}]
    return [
        ("POST", CHAT, ASKED, {"x-conversation-id": conv}),
        ("POST", CHAT, ASKED, {"x-session-id": conv}),
        ("POST", CHAT, {**ASKED, "stream": True}, {"x-conversation-id": conv}),
        ("POST", CHAT, ASKED, {"x-conversation-id": conv, "x-conversation-mode": "append"}),
        ("POST", CHAT, ASKED, {"x-conversation-id": conv, "x-stainless-retry-count": "1"}),
        ("POST", CHAT, ASKED, {"x-conversation-id": conv, "idempotency-key": "once"}),
        ("POST", f"/c/{conv}{CHAT}", ASKED, {}),
        ("POST", f"/c/{conv}{RESPONSES}", INPUT, {}),
        ("GET", f"/v1/chat/completions/{chat}", None, {}),
        ("DELETE", f"/v1/chat/completions/{chat}", None, {}),
        ("GET", f"/v1/conversations/{conv}", None, {}),
        ("POST", f"/v1/conversations/{conv}", {"metadata": {"a": "b"}}, {}),
        ("DELETE", f"/v1/conversations/{conv}", None, {}),
        ("POST", items, {"items": [{"role": "user", "content": "hi"}]}, {}),
        ("GET", items, None, {}),
        ("GET", f"{items}?after={msg}", None, {}),
        ("GET", f"{items}/{msg}", None, {}),
        ("GET", f"{items}/{reply}", None, {}),
        ("DELETE", f"{items}/{msg}", None, {}),
        ("POST", RESPONSES, {**INPUT, "conversation": conv}, {}),
        ("POST", RESPONSES, {**INPUT, "conversation": {"id": conv}, "stream": True}, {}),
        ("POST", RESPONSES, {**INPUT, "conversation": conv, "background": True}, {}),
        ("POST", RESPONSES, INPUT, {"x-conversation-id": conv}),
        ("POST", RESPONSES, {**INPUT, "previous_response_id": resp}, {}),
        ("POST", RESPONSES, {**INPUT, "previous_response_id": chat.replace("chatcmpl-", "resp_")}, {}),
        ("POST", RESPONSES, {"model": MODEL, "input": reference}, {}),
        ("POST", "/v1/responses/input_tokens", {"model": MODEL, "input": reference}, {}),
        ("POST", "/v1/conversations", {"items": reference}, {}),
        ("GET", response, None, {}),
        ("GET", f"{response}?stream=true", None, {}),
        ("GET", f"{response}?stream=true&starting_after=1", None, {}),
        ("DELETE", response, None, {}),
        ("POST", f"{response}/cancel", None, {}),
        ("GET", f"{response}/input_items", None, {}),
        ("GET", f"{response}/input_items?after={msg}", None, {}),
    ]


def make_ids(gateway: AsgiGateway, key: str) -> list[str]:
    """Return the ids of a conversation with a turn of each API: `conv_`, `resp_`, `chatcmpl-`, a message and a reply."""
    content = [{"type": "input_text", "text": SECRET}, {"type": "input_image", "image_url": IMAGE}]
    answer = gateway.send("POST", RESPONSES, {**INPUT, "input": [{"role": "user", "content": content}]}, key=key)
    conv, resp = answer.headers["x-conversation-id"], answer.json()["id"]
    chat = gateway.ask(SECRET, "well", SECRET, key=key).json()["id"]
    items = gateway.send("GET", f"/v1/conversations/{conv}/items?order=asc", key=key).json()["data"]
    return [conv, resp, chat, items[0]["id"], items[1]["id"]]


def change_digits(name: str) -> str:
    """Return an id of the same form that nothing has."""
    digits, others = "0123456789abcdef", "123456789abcdef0"
    return HEX.sub(lambda found: found[0].translate(str.maketrans(digits, others)), name)


def read_all(gateway: AsgiGateway, key: str, ids: list[str]) -> list[Any]:
    """Return what the owner sees."""
    conv, resp, chat, _, reply = ids
    paths = [f"conversations/{conv}", f"conversations/{conv}/items", f"responses/{resp}", f"chat/completions/{chat}"]
    paths += [f"conversations/{conv}/items/{reply}", f"responses/{resp}/input_items"]
    answers = [gateway.send("GET", f"/v1/{path}", key=key) for path in paths]
    assert all(answer.status_code == 200 for answer in answers)
    return [answer.json() for answer in answers]


def test_ids_of_another_tenant_do_not_exist(guarded: AsgiGateway) -> None:
    """In each place, the answer is that for an id that nobody has, word for word but for the id."""
    owner, thief = guarded.make_key("a"), guarded.make_key("b")
    ids = make_ids(guarded, owner)
    before, calls = read_all(guarded, owner, ids), len(guarded.model.requests)
    missing = [change_digits(each) for each in ids]
    assert all(len(a) == len(b) and a != b for a, b in zip(ids, missing, strict=True))
    for place, nowhere in zip(list_places(*ids), list_places(*missing), strict=True):
        answers = []
        for method, path, body, headers in (place, nowhere):
            answer = guarded.send(method, path, body, key=thief, headers=headers)
            answers.append((answer.status_code, HEX.sub("digits", answer.text)))
        assert answers[0] == answers[1], place
        assert answers[0][0] in (400, 404), place
        assert SECRET not in answers[0][1]
    assert len(guarded.model.requests) == calls
    assert read_all(guarded, owner, ids) == before
    assert guarded.send("GET", "/convokit/v1/conversations", key=thief).json()["data"] == []


def test_an_owner_reaches_each_place(guarded: AsgiGateway) -> None:
    """The test above would hold for a gateway that finds nothing."""
    owner = guarded.make_key("a")
    found = 0
    for number in range(len(list_places("", "", "", "", ""))):
        method, path, body, headers = list_places(*make_ids(guarded, owner))[number]
        answer = guarded.send(method, path, body, key=owner, headers=headers)
        found += answer.status_code == 200
        assert answer.status_code == 200 or (method, path) == ("POST", "/v1/conversations"), (path, body, answer.text)
    assert found > 30


@pytest.mark.once
def test_a_child_belongs_to_its_parent(guarded: AsgiGateway) -> None:
    """An item of another conversation of the same tenant is not found in this one."""
    key = guarded.make_key("a")
    one, other = make_ids(guarded, key), make_ids(guarded, key)
    for method, path in (
        ("GET", f"/v1/conversations/{one[0]}/items/{other[3]}"),
        ("GET", f"/v1/conversations/{one[0]}/items/{other[4]}"),
        ("DELETE", f"/v1/conversations/{one[0]}/items/{other[3]}"),
        ("GET", f"/v1/conversations/{one[0]}/items?after={other[3]}"),
        ("GET", f"/v1/responses/{one[1]}/input_items?after={other[3]}"),
    ):
        answer = guarded.send(method, path, key=key)
        assert (answer.status_code, describe_refusal(answer)[2]) == (404, "not_found"), path


def test_ids_with_large_numbers_are_not_found(guarded: AsgiGateway) -> None:
    """A number that no column holds is one that no message has."""
    key = guarded.make_key("a")
    conv = make_ids(guarded, key)[0]
    for seq in ("0", "2147483648", "9999999999"):
        name = f"msg_{conv.removeprefix('conv_')}_{seq}"
        assert guarded.send("GET", f"/v1/conversations/{conv}/items/{name}", key=key).status_code == 404
        assert guarded.send("GET", f"/v1/conversations/{conv}/items?after={name}", key=key).status_code == 404


@pytest.mark.once
def test_names_of_conversations_belong_to_the_tenant(guarded: AsgiGateway) -> None:
    """The same X-Conversation-Id of two tenants is two conversations. Two keys of one tenant share it."""
    a, a_too, b = guarded.make_key("a"), guarded.make_key("a"), guarded.make_key("b")
    name = {"x-conversation-id": "shared"}
    guarded.ask("one", key=a, headers=name)
    assert guarded.ask("one", "echo: one", "two", key=a_too, headers=name).headers["x-conversation-place"] == "append"
    assert guarded.ask("one", "echo: one", "two", key=b, headers=name).headers["x-conversation-place"] == "new"
    counts = [len(guarded.send("GET", "/convokit/v1/conversations", key=key).json()["data"]) for key in (a, a_too, b)]
    assert counts == [1, 1, 1]


@pytest.mark.once
def test_histories_are_matched_within_a_tenant_a_key_and_a_person(guarded: AsgiGateway) -> None:
    a, a_too, b = guarded.make_key("a"), guarded.make_key("a"), guarded.make_key("b")
    history = ("one", "echo: one", "two")
    first = guarded.ask("one", key=a, user="ann").headers["x-conversation-id"]

    def place(key: str, **more: Any) -> tuple[str, bool]:
        headers = guarded.ask(*history, key=key, **more).headers
        return headers["x-conversation-place"], headers["x-conversation-id"] == first

    assert place(b, user="ann") == ("new", False)
    assert place(a_too, user="ann") == ("new", False)
    assert place(a, user="bob") == ("new", False)
    assert place(a) == ("new", False)
    assert place(a, safety_identifier="x", user="ann") == ("new", False)
    assert place(a, user="ann") == ("append", True)


@pytest.mark.once
def test_idempotency_keys_belong_to_a_key(guarded: AsgiGateway) -> None:
    """One caller's Idempotency-Key does not return another one's reply."""
    a, a_too, b = guarded.make_key("a"), guarded.make_key("a"), guarded.make_key("b")
    ids = [guarded.ask("one", key=key, headers={"idempotency-key": "k"}).json()["id"] for key in (a, a, a_too, b)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


@pytest.mark.once
def test_a_digest_does_not_reveal_a_binary(guarded: AsgiGateway) -> None:
    """Stored content refers to binaries by `blob:<digest>`. A client that sends such a reference gets no binary by it."""
    a, b = guarded.make_key("a"), guarded.make_key("b")
    make_ids(guarded, a)
    digest = hashlib.sha256(b"image/png\x00\x89PNG\r\n\x1a\n").hexdigest()
    for key in (a, b):
        item = {"role": "user", "content": [{"type": "input_image", "image_url": f"blob:{digest}"}]}
        answer = guarded.send("POST", RESPONSES, {"model": MODEL, "input": [item]}, key=key)
        assert "iVBOR" not in str(guarded.model.last_request.body) or answer.status_code == 400
        made = guarded.send("POST", "/v1/conversations", {"items": [item]}, key=key)
        assert made.status_code == 400
