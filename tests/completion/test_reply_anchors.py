"""Test the anchors of turns: written with the messages they belong to, and removed with their text."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest

from convokit import Convokit, NewMessage, Retry, tool
from convokit.errors import ConvokitError, Interrupted, ServerFailed, SettingsError
from tests.history.helpers import change, rows
from tests.support.abandoned_turns import Watched
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, calls, chunk, completion, failure
from tests.transfer.test_export_import import into, out

COUNTS = (
    "SELECT (SELECT count(*) FROM convokit_message), (SELECT count(*) FROM convokit_turn),"
    " (SELECT count(*) FROM convokit_anchor), (SELECT count(*) FROM convokit_conversation)"
)
PAY = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}


def digest_of(text: str) -> bytes:
    return sha256(text.encode()).digest()


def anchor(message: Any) -> bytes:
    """Return a digest of a message's role and text."""
    return digest_of(f"{message['role']}: {message.get('content')}")


def read_anchors(database: str, key: str = "k") -> dict[int, bytes]:
    """Return the digests of a conversation's anchors by seq."""
    query = (
        "SELECT a.seq, a.digest FROM convokit_anchor a JOIN convokit_conversation c ON c.id = a.conversation_id"
        " WHERE c.key = :key AND a.tenant = c.tenant ORDER BY a.seq"
    )
    return {seq: bytes(digest) for seq, digest in rows(database, query, key=key)}


def expect(**texts: str) -> dict[int, bytes]:
    """Return the anchors of messages: `expect(u1="hello", a2="hi")` for a question 1 and a reply 2."""
    roles = {"u": "user", "a": "assistant", "t": "tool"}
    return {int(name[1:]): digest_of(f"{roles[name[0]]}: {text}") for name, text in texts.items()}


WAYS: dict[str, Callable[[Face, Any], Any]] = {
    "send": lambda face, chat: face.settle(chat.send("こんにちは", anchor=anchor)),
    "stream": lambda face, chat: face.collect(chat.stream("こんにちは", anchor=anchor)),
}


@pytest.mark.parametrize("way", WAYS)
def test_question_and_reply_have_anchors(face: Face, kit: Any, database: str, way: str) -> None:
    """In a new conversation and in one that exists. A turn without `anchor` writes none."""
    chat = kit.chat("k")
    WAYS[way](face, chat)
    first = expect(u1="こんにちは", a2="echo: こんにちは")
    assert read_anchors(database) == first
    face.settle(chat.send("no anchor"))
    WAYS[way](face, chat)
    assert read_anchors(database) == first | expect(u5="こんにちは", a6="echo: こんにちは")
    created = "SELECT count(*) FROM convokit_anchor a JOIN convokit_message m ON m.conversation_id = a.conversation_id"
    created += " AND m.seq = a.seq AND m.created_at = a.created_at"
    assert rows(database, created) == [(4,)]


def test_the_function_gets_messages_in_the_shape_of_the_api(face: Face, kit: Any, server: LoopbackServer) -> None:
    seen: list[Any] = []

    def see(message: Any) -> None:
        seen.append(dict(message))

    server.script(completion("答え", refusal=None))
    parts = [{"type": "text", "text": "これは何?"}]
    face.settle(kit.chat("k").send(parts, passages=["a passage"], anchor=see))
    assert seen == [{"role": "user", "content": parts}, {"role": "assistant", "content": "答え"}]


def test_a_message_without_a_digest_has_no_anchor(face: Face, kit: Any, database: str) -> None:
    chat = kit.chat("k")
    face.settle(chat.send("hello", anchor=lambda message: None))
    assert read_anchors(database) == {}
    face.settle(chat.send("hello", anchor=lambda message: anchor(message) if message["role"] == "user" else None))
    assert read_anchors(database) == expect(u3="hello")


@pytest.mark.parametrize("stream", [False, True])
def test_an_anchor_is_in_the_transaction_of_its_message(face: Face, kit: Any, database: str, stream: bool) -> None:
    """Before and after each writing transaction of a turn, as many anchors as messages are committed."""
    face.settle(kit.chat("k").send("warm up", anchor=anchor))
    store, found = kit._runtime._store, []
    counts = "SELECT (SELECT count(*) FROM convokit_message), (SELECT count(*) FROM convokit_anchor)"

    def before(write: bool) -> None:
        found.extend(rows(database, counts) if write else [])

    kit._runtime._store = Watched(store, before)
    try:
        way = "stream" if stream else "send"
        WAYS[way](face, kit.chat("k"))
    finally:
        kit._runtime._store = store
    assert {tuple(each) for each in [*found, *rows(database, counts)]} == {(2, 2), (3, 3), (4, 4)}


def test_a_partial_reply_has_an_anchor(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    """A client that saw the part sends it back. A turn without any reply has the anchor of its question."""
    server.script(Script([chunk({"content": "半分"}), None], headers={"content-type": "text/event-stream"}))
    with pytest.raises(Interrupted):
        face.collect(kit.chat("k").stream("hello", retry=Retry(attempts=1), anchor=anchor))
    assert read_anchors(database) == expect(u1="hello", a2="半分")
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        face.settle(kit.chat("k").send("more", retry=Retry(attempts=1), anchor=anchor))
    assert read_anchors(database) == expect(u1="hello", a2="半分", u3="more")
    reply = face.settle(kit.chat("k").resume(anchor=anchor))
    assert read_anchors(database)[4] == digest_of(f"assistant: {reply.text}")
    face.settle(kit.chat("k").verify())


def test_regenerated_replies_and_edited_questions_have_anchors(face: Face, kit: Any, database: str) -> None:
    """The question keeps its anchor, or none."""
    chat = kit.chat("k")
    face.settle(chat.send("hello", anchor=anchor))
    face.settle(chat.regenerate(anchor=anchor))
    face.collect(chat.stream_regenerate(anchor=anchor))
    found = expect(u1="hello", a2="echo: hello", a3="echo: hello", a4="echo: hello")
    assert read_anchors(database) == found
    face.settle(chat.edit(1, "やあ", anchor=anchor))
    assert read_anchors(database) == found | expect(u5="やあ", a6="echo: やあ")
    face.settle(kit.chat("other").send("hello"))
    face.settle(kit.chat("other").regenerate(anchor=anchor))
    assert read_anchors(database, "other") == expect(a3="echo: hello")


def test_messages_of_the_caller_have_no_anchors(face: Face, kit: Any, database: str) -> None:
    """The question that follows them has."""
    messages = [NewMessage("user", "before"), NewMessage("assistant", "an answer")]
    face.settle(kit.chat("k").send("hello", messages=messages, anchor=anchor))
    assert read_anchors(database) == expect(u3="hello", a4="echo: hello")


def test_a_turn_with_tools_has_the_anchors_of_its_ends(
    face: Face, kit: Any, database: str, server: LoopbackServer
) -> None:
    """The client sees neither the calls that convokit runs nor their results."""

    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    server.script(calls(("c1", "add", '{"a": 1, "b": 2}')))
    face.settle(kit.chat("k").send("1+2?", tools=[add], anchor=anchor))
    assert read_anchors(database) == expect(u1="1+2?", a4="echo: 3")


@pytest.mark.parametrize("streamed", [False, True])
def test_calls_that_the_client_runs_have_anchors(
    face: Face, kit: Any, database: str, server: LoopbackServer, streamed: bool
) -> None:
    """The reply that asks, and the last of the results."""
    chat = kit.chat("k", tools=[PAY])
    server.script(calls(("c1", "pay", "{}"), ("c2", "pay", "{}"), streamed=streamed))
    if streamed:
        face.collect(chat.stream("pay twice", anchor=anchor))
    else:
        face.settle(chat.send("pay twice", anchor=anchor))
    asking = expect(u1="pay twice", a2="None")
    assert read_anchors(database) == asking
    results = {each["id"]: f"paid {each['id']}" for each in face.settle(chat.open_calls())}
    face.settle(chat.send(tool_results=results, anchor=anchor))
    last = list(results.values())[-1]
    assert read_anchors(database) == asking | expect(t4=last, a5=f"echo: {last}")
    face.settle(chat.verify())


@pytest.fixture
def other(kit: Any, face: Face, database: str, server: LoopbackServer) -> Iterator[Any]:
    """A branch of the same conversation in another process."""
    with Convokit(database, model="loop-1", base_url=server.url) as second:
        second.chat("k").send("one")
        yield second.chat("k").fork()


@pytest.mark.parametrize("number", [1, 2])
def test_anchors_move_with_messages_behind_other_branches(
    face: Face, kit: Any, other: Any, database: str, number: int
) -> None:
    """Another branch writes before the first or the second transaction of the turn."""
    chat = kit.chat("k")
    face.settle(chat.messages())
    store, writes = kit._runtime._store, 0

    def before(write: bool) -> None:
        nonlocal writes
        writes += write
        if write and writes == number:
            other.send("in between")

    kit._runtime._store = Watched(store, before)
    try:
        face.settle(chat.send("two", anchor=anchor))
    finally:
        kit._runtime._store = store
    moved = expect(u5="two", a6="echo: two") if number == 1 else expect(u3="two", a6="echo: two")
    assert read_anchors(database) == moved
    last = {message.seq: message.text for message in face.settle(chat.messages())}
    assert [last[seq] for seq in moved] == ["two", "echo: two"]


def test_a_repeat_under_a_key_writes_nothing(face: Face, kit: Any, database: str) -> None:
    """The first call decides about anchors."""
    for given in (None, anchor):
        options = {} if given is None else {"anchor": given}
        face.settle(kit.chat("k").send("hello", idempotency_key="1", **options))
    assert read_anchors(database) == {}


def _fail(message: Any) -> bytes:
    raise ValueError("だめ")


GARBAGE: dict[str, Any] = {
    "an error": _fail,
    "text": lambda message: "text",
    "nothing": lambda message: b"",
    "too long": lambda message: bytes(65),
    "a number": lambda message: 7,
}


@pytest.mark.once
@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("exists", [False, True])
def test_a_bad_anchor_of_the_question_stops_the_turn(
    face: Face, kit: Any, database: str, server: LoopbackServer, name: str, exists: bool
) -> None:
    """Before anything is written or sent."""
    if exists:
        face.settle(kit.chat("k").send("hello"))
    before, sent = rows(database, COUNTS), len(server.requests)
    for call in (
        lambda: face.settle(kit.chat("k").send("more", anchor=GARBAGE[name])),
        lambda: face.collect(kit.chat("k").stream("more", anchor=GARBAGE[name])),
    ):
        with pytest.raises(SettingsError, match=r"^anchor: the function (raised ValueError: だめ|must return 1 to 64)"):
            call()
    assert rows(database, COUNTS) == before
    assert len(server.requests) == sent


@pytest.mark.once
@pytest.mark.parametrize("name", GARBAGE)
def test_a_bad_anchor_of_the_reply_costs_the_anchor_alone(
    face: Face, kit: Any, database: str, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The reply was paid for. A line in the log says why it has no anchor."""

    def mixed(message: Any) -> Any:
        return anchor(message) if message["role"] == "user" else GARBAGE[name](message)

    with caplog.at_level(logging.ERROR, "convokit.completion"):
        reply = face.settle(kit.chat("k").send("hello", anchor=mixed))
    assert reply.text == "echo: hello"
    assert read_anchors(database) == expect(u1="hello")
    (record,) = caplog.records
    problem = "ValueError" if name == "an error" else "SettingsError"
    assert record.message == f"the anchor of a reply cannot be computed, and is not stored ({problem})"
    assert record.exc_info is None, "a traceback contains text"
    assert [message.status for message in face.settle(kit.chat("k").messages())] == ["complete", "complete"]


@pytest.mark.once
def test_a_digest_has_at_most_64_bytes(face: Face, kit: Any, database: str) -> None:
    face.settle(kit.chat("k").send("hello", anchor=lambda message: bytes(64)))
    assert read_anchors(database) == {1: bytes(64), 2: bytes(64)}


@pytest.mark.once
def test_an_anchor_that_is_no_function_is_refused(face: Face, kit: Any, database: str) -> None:
    before = rows(database, COUNTS)
    with pytest.raises(SettingsError, match=r"^anchor: must be a function"):
        face.settle(kit.chat("k").send("hello", anchor=b"digest"))
    assert rows(database, COUNTS) == before


def test_redact_removes_the_anchors_from_that_message_on(face: Face, kit: Any, database: str) -> None:
    """Their digests cover its text. A dry run counts them. Anchors before it, and of other conversations, stay."""
    chat = kit.chat("k")
    for text in ("one", "two", "three"):
        face.settle(chat.send(text, anchor=anchor))
    face.settle(kit.chat("other").send("one", anchor=anchor))
    before = read_anchors(database)
    assert face.settle(chat.redact(3, dry_run=True)).removed["anchor"] == 4
    assert read_anchors(database) == before
    receipt = face.settle(chat.redact(3))
    assert (receipt.removed["anchor"], receipt.remaining, receipt.chain) == (4, 0, "whole")
    assert read_anchors(database) == expect(u1="one", a2="echo: one")
    assert read_anchors(database, "other") == expect(u1="one", a2="echo: one")
    face.settle(chat.send("four", anchor=anchor))
    assert set(read_anchors(database)) == {1, 2, 7, 8}


def test_a_check_after_a_removal_finds_anchors_that_are_left(
    face: Face, kit: Any, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receipt says how many rows still contain removed text: also those of anchors."""
    chat = kit.chat("k")
    face.settle(chat.send("one", anchor=anchor))
    monkeypatch.setattr("convokit.store.anchors.delete_anchors", lambda *given: None)
    assert face.settle(chat.redact(2)).remaining == 1
    assert face.settle(chat.erase()).remaining == 2


def test_erase_and_purge_remove_all_anchors(face: Face, kit: Any, database: str) -> None:
    """Those of all branches. Other conversations keep theirs."""
    chat = kit.chat("k")
    for text in ("one", "two"):
        face.settle(chat.send(text, anchor=anchor))
    face.settle(face.settle(chat.fork(after=2)).send("side", anchor=anchor))
    face.settle(kit.chat("other").send("one", anchor=anchor))
    assert face.settle(chat.erase(dry_run=True)).removed["anchor"] == 6
    assert len(read_anchors(database)) == 6
    receipt = face.settle(chat.erase())
    assert (receipt.removed["anchor"], receipt.remaining, receipt.chain) == (6, 0, "whole")
    assert read_anchors(database) == {}
    # As code that knows no anchors would leave one.
    row = "INSERT INTO convokit_anchor SELECT id, 1, :digest, tenant, 1 FROM convokit_conversation WHERE key = 'k'"
    columns = "(conversation_id, seq, digest, tenant, created_at)"
    change(database, row.replace("convokit_anchor", f"convokit_anchor {columns}", 1), digest=b"left")
    assert read_anchors(database) == {1: b"left"}
    assert face.settle(kit.purge()).removed["conversation"] == 1
    assert rows(database, "SELECT count(*) FROM convokit_anchor") == [(2,)]
    assert len(read_anchors(database, "other")) == 2


def test_exports_restores_and_copies_have_no_anchors(
    face: Face, kit: Any, database: str, twin: str, server: LoopbackServer
) -> None:
    """They say which client knows a history, and belong to no message."""
    marked = b"an anchor of this text"
    face.settle(kit.chat("k").send("hello", anchor=lambda message: marked))
    lines = out(face, kit)
    for form in (marked.decode(), marked.hex(), "YW4gYW5jaG9y"):
        assert form not in "".join(lines)
    restored = face.kit(twin, model="m", base_url=server.url)
    into(face, restored, lines)
    face.settle(restored.chat("k").verify())
    assert rows(twin, "SELECT count(*) FROM convokit_anchor") == [(0,)]
    stranger = face.kit(database, model="m", tenant="stranger")
    into(face, stranger, lines, trusted=False)
    face.settle(kit.chat("k").copy("copy"))
    assert rows(database, "SELECT count(*) FROM convokit_anchor") == [(2,)]
    assert read_anchors(database, "copy") == {}


def test_verify_ignores_anchors(face: Face, kit: Any, database: str) -> None:
    """An anchor is derived from the messages, and may be lost."""
    chat = kit.chat("k")
    face.settle(chat.send("hello", anchor=anchor))
    entries = face.settle(chat.verify()).entries
    change(database, "UPDATE convokit_anchor SET digest = :digest WHERE seq = 1", digest=b"other")
    change(database, "DELETE FROM convokit_anchor WHERE seq = 2")
    assert face.settle(chat.verify()).entries == entries
    face.settle(chat.send("more", anchor=anchor))
    face.settle(kit.verify())


def test_a_read_only_kit_writes_no_anchor(face: Face, kit: Any, database: str, server: LoopbackServer) -> None:
    face.settle(kit.chat("k").send("hello"))
    reader = face.kit(database, model="m", base_url=server.url, read_only=True)
    with pytest.raises(ConvokitError, match="read"):
        face.settle(reader.chat("k").send("more", anchor=anchor))
    assert read_anchors(database) == {}
