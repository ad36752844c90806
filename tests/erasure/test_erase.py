"""Erase a conversation, all conversations of a subject, or old ones; purge erased ones."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from convokit import Convokit
from convokit.domain.removal import Receipt
from convokit.errors import ConversationBusy, InvalidInput, NotFound, Redacted
from convokit.store.schema import conversation, entry, message, metadata, prompt, removal
from tests.support import canaries
from tests.support.canaries import EVERYTHING, change, everywhere, in_rows
from tests.support.faces import Face
from tests.support.server import LoopbackServer

pytestmark = pytest.mark.once


def _rows(database: str) -> dict[str, int]:
    def count(connection: Any) -> dict[str, int]:
        return {table.name: len(connection.execute(select(table)).all()) for table in metadata.tables.values()}

    found: dict[str, int] = change(database, count)
    return found


def _whole(receipt: Receipt, database: str) -> None:
    assert receipt.remaining == 0
    assert receipt.chain == "whole"
    assert receipt.bytes == ("server" if database.startswith("postgresql") else "gone")
    assert receipt.complete


def test_erase_leaves_no_text_anywhere(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """No column of any table, no byte of the file or its log holds text of the conversation. The chain stays whole."""
    chat = canaries.fill(face, kit, server, database)
    missing = [canary for canary in EVERYTHING if not in_rows(database, canary)]
    assert not missing, "the test would prove nothing of these"
    receipt = face.settle(chat.erase(reason="asked for", author="privacy desk"))
    found = {str(canary)[:20]: everywhere(database, canary) for canary in EVERYTHING}
    assert not {canary: places for canary, places in found.items() if places}
    _whole(receipt, database)
    assert (receipt.conversations, receipt.entries, receipt.removed["message"]) == (1, 1, 14)
    assert receipt.removed["prompt"] == 2
    assert {"blob", "chunk", "completion", "conversation", "salt", "summary", "tool_call", "turn"} < set(
        receipt.removed
    )
    face.settle(chat.verify())


def test_erasure_is_recorded_in_the_chain(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """The last entry is an erasure of everything. Its row records author, reason and time."""
    chat = canaries.fill(face, kit, server, database)
    receipt = face.settle(chat.erase(reason="本人の依頼", author="privacy desk"))

    def last(connection: Any) -> Any:
        row = connection.execute(select(removal)).one()
        return row, connection.execute(select(entry).where(entry.c.number == row.number)).one()

    row, link = change(database, last)
    assert (row.ref, row.author, row.reason) == ("*", "privacy desk", "本人の依頼")
    assert (link.kind, link.ref) == ("erasure", "*")
    assert row.created_at == round(receipt.at.timestamp() * 1_000_000)


def test_erased_conversation_continues_with_an_empty_context(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """The same key continues after the redacted messages."""
    chat = canaries.fill(face, kit, server, database)
    face.settle(chat.erase())
    assert face.settle(chat.messages()) == []
    assert face.settle(chat.turns()) == []
    with pytest.raises(NotFound):
        face.settle(chat.resume())
    with pytest.raises(NotFound):
        face.collect(chat.follow())
    again = kit.chat("k")
    reply = face.settle(again.send("hello"))
    assert (reply.text, reply.message.seq) == ("echo: hello", 16)
    assert [each["content"] for each in server.requests[-1].body["messages"]] == ["hello"]
    assert [each.seq for each in face.settle(again.messages())] == [15, 16]
    face.settle(again.verify())
    second = face.settle(again.erase())
    _whole(second, database)
    assert second.removed["message"] == 2
    assert not in_rows(database, "echo: hello")


def test_erase_can_be_repeated(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """A repeated erasure writes nothing and checks again."""
    chat = canaries.fill(face, kit, server, database)
    face.settle(chat.erase())
    rows = _rows(database)
    receipt = face.settle(chat.erase())
    _whole(receipt, database)
    assert (receipt.entries, receipt.removed) == (0, {})
    assert _rows(database) == rows


def test_dry_run_counts_what_erase_removes(face: Face, kit: Any, server: LoopbackServer, database: str) -> None:
    """A dry run writes nothing."""
    chat = canaries.fill(face, kit, server, database)
    rows, dumped = _rows(database), in_rows(database, "canary")
    tried = face.settle(chat.erase(dry_run=True, reason="x"))
    assert (_rows(database), in_rows(database, "canary")) == (rows, dumped)
    assert (tried.dry_run, tried.entries, tried.remaining, tried.chain) == (True, 0, None, None)
    assert face.settle(chat.erase()).removed == tried.removed


def test_send_with_the_key_of_an_erased_turn_raises_redacted(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """A repeated idempotency key is neither answered again nor reported as a conflict."""
    chat = canaries.fill(face, kit, server, database)
    face.settle(chat.erase())
    requests = len(server.requests)
    for text in (canaries.QUESTION, "something else"):
        with pytest.raises(Redacted) as caught:
            face.settle(chat.send(text, idempotency_key=canaries.ONCE))
        assert caught.value.conversation == str(chat.id)
    assert len(server.requests) == requests


def test_erase_and_redact_refuse_unknown_targets_and_bad_values(face: Face, kit: Any, database: str) -> None:
    """They raise a typed error and write nothing."""
    with pytest.raises(NotFound, match="conversation"):
        face.settle(kit.chat("never").erase())
    with pytest.raises(NotFound, match="conversation"):
        face.settle(kit.chat("never").redact(1))
    face.settle(kit.chat("k").send("hello"))
    rows = _rows(database)
    for call, error in (
        (lambda: kit.chat("k").redact(99), NotFound),
        (lambda: kit.chat("k").redact("not a message"), InvalidInput),
        (lambda: kit.chat("k").erase(reason="nul \x00"), InvalidInput),
        (lambda: kit.chat("k").redact(1, author="\ud800"), InvalidInput),
        (kit.erase, InvalidInput),
        (lambda: kit.erase(older_than=timedelta(days=-1)), InvalidInput),
        (lambda: kit.erase(older_than=90), InvalidInput),
        (lambda: kit.purge(older_than="90d"), InvalidInput),
    ):
        with pytest.raises(error):
            face.settle(call())
    assert _rows(database) == rows


def test_prompt_is_deleted_with_the_last_conversation_that_uses_it(face: Face, kit: Any, database: str) -> None:
    """A prompt of another tenant is never deleted."""
    for key in ("one", "two"):
        face.settle(kit.chat(key, developer_prompt="shared prompt").send("hello"))
    other = kit.tenant("other")
    face.settle(other.chat("three", developer_prompt="shared prompt").send("hello"))
    assert "prompt" not in face.settle(kit.chat("one").erase()).removed
    assert face.settle(kit.chat("two").erase(dry_run=True)).removed["prompt"] == 1
    assert face.settle(kit.chat("two").erase()).removed["prompt"] == 1
    left = change(database, lambda connection: connection.execute(select(prompt.c.tenant)).scalars().all())
    assert left == ["other"]


def test_erase_by_subject(face: Face, kit: Any, database: str) -> None:
    """All conversations of the subject in this tenant, and no others."""
    for name, each in (("default", kit), ("other", kit.tenant("other"))):
        for person in ("alice", "bob"):
            for number in range(3):
                face.settle(each.chat(f"{person} {number}", subject=person).send(f"{name} {person} canary"))
    seen: list[tuple[int, int]] = []
    receipt = face.settle(kit.erase(subject="alice", progress=lambda done, total: seen.append((done, total))))
    assert (receipt.conversations, receipt.skipped) == (3, ())
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    _whole(receipt, database)
    assert everywhere(database, "default alice canary") == []
    for stays in ("default bob canary", "other alice canary", "other bob canary"):
        assert "convokit_message.content" in in_rows(database, stays)
    assert face.settle(kit.conversations(subject="alice")).items == []
    assert face.settle(kit.erase(subject="alice")).conversations == 0


def test_erase_by_age(face: Face, kit: Any, database: str) -> None:
    """Only conversations that were not used since then. A second run finds nothing."""
    for number in range(4):
        face.settle(kit.chat(str(number)).send("hello"))

    def age(connection: Any) -> None:
        old = conversation.c.key.in_(["1", "2"])
        connection.execute(conversation.update().where(old).values(updated_at=conversation.c.updated_at - 10**12))

    change(database, age)
    tried = face.settle(kit.erase(older_than=timedelta(days=7), dry_run=True))
    assert (tried.conversations, tried.dry_run) == (2, True)
    receipt = face.settle(kit.erase(older_than=timedelta(days=7), reason="retention"))
    assert receipt.conversations == 2
    assert receipt.removed == tried.removed
    assert face.settle(kit.erase(older_than=timedelta(days=7))).conversations == 0
    assert [len(face.settle(kit.chat(str(number)).messages())) for number in range(4)] == [2, 0, 0, 2]


def test_purge_deletes_all_rows_of_erased_conversations(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """A conversation that was used after its erasure stays, as do all others."""
    before = _rows(database)
    canaries.fill(face, kit, server, database)
    for key in ("kept", "used again"):
        face.settle(kit.chat(key).send("hello"))
    assert face.settle(kit.purge()).conversations == 0
    face.settle(kit.chat("k").erase())
    face.settle(kit.chat("used again").erase())
    face.settle(kit.chat("used again").send("back"))
    assert face.settle(kit.tenant("other").purge()).conversations == 0
    assert face.settle(kit.purge(older_than=timedelta(days=1))).conversations == 0
    tried = face.settle(kit.purge(dry_run=True))
    receipt = face.settle(kit.purge())
    assert tried.conversations == receipt.conversations == 1
    assert face.settle(kit.chat("k").messages()) == []
    assert len(face.settle(kit.chat("used again").messages())) == 2
    face.settle(kit.chat("kept").verify())
    face.settle(kit.chat("used again").erase())
    face.settle(kit.chat("kept").erase())
    face.settle(kit.purge())
    assert _rows(database) == before


def test_conversations_of_a_subject_are_listed_newest_first(face: Face, kit: Any) -> None:
    """Page by page, without those of other tenants."""
    for number in range(5):
        face.settle(kit.chat(str(number), subject="alice").send("hello"))
        face.settle(kit.tenant("other").chat(str(number), subject="alice").send("hello"))
    face.settle(kit.chat("1").send("again"))
    first = face.settle(kit.conversations(subject="alice", limit=3))
    second = face.settle(kit.conversations(subject="alice", limit=3, before=first.next))
    assert [each.key for each in [*first, *second]] == ["1", "4", "3", "2", "0"]
    assert second.next is None
    assert face.settle(kit.conversations(subject="bob")).items == []


def test_erase_and_redact_refuse_while_a_turn_is_open(
    face: Face, kit: Any, server: LoopbackServer, database: str
) -> None:
    """On any branch. Erasing by subject skips the conversation and names it in the receipt."""
    chat = kit.chat("k", subject="alice")
    face.settle(chat.send("hello"))
    face.settle(kit.chat("other", subject="alice").send("hello"))
    with Convokit(database, model="m", base_url=server.url) as worker:
        events = iter(worker.chat("k").stream("count one two three"))
        next(events)
        for call in (chat.erase, lambda: chat.redact(1), lambda: chat.erase(dry_run=True)):
            with pytest.raises(ConversationBusy):
                face.settle(call())
        receipt = face.settle(kit.erase(subject="alice"))
        assert (receipt.conversations, receipt.skipped, receipt.complete) == (1, (chat.id,), False)
        assert "".join(each.text for each in events) == "echo: count one two three"
    assert face.settle(kit.erase(subject="alice")).skipped == ()
    assert change(database, lambda connection: set(connection.execute(select(message.c.status)).scalars())) == {
        "redacted"
    }
