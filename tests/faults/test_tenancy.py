"""I7: no public callable returns, counts, streams, errs differently for, or writes to another tenant's data.

Held by enumeration: every public method has a scenario here in which tenant B, who has learnt every name A's things have, tries
to reach them. B is run beside A and in a database where A never was, and must not be able to tell the two apart.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import bindparam, or_, select

from convokit import AsyncChat, AsyncConvokit, Chat, Convokit
from convokit.audit import sql as audit_sql
from convokit.domain.ids import derive_conversation_id
from convokit.domain.stored_request import compute_prompt_digest
from convokit.erasure import residue
from convokit.erasure import sql as erasure_sql
from convokit.errors import ConvokitError
from convokit.history import copies
from convokit.store import (
    anchors,
    blobs,
    conversation_pages,
    conversations,
    keys,
    message_tree,
    migrations,
    search_index,
    search_query,
    snapshot,
    turns,
)
from convokit.store.conversation_pages import ListingFilter
from convokit.store.dialects.protocol import SearchFilter
from convokit.store.engine import WRITE
from convokit.store.schema import conversation, prompt
from convokit.store.schema import turn as turn_table
from convokit.transfer import sql as transfer_sql
from convokit.usage import sql as usage_sql
from tests.faults.tenant_pair import ANCHOR, API_KEY_NAME, KEYS, ONCE, SECRET, SUBJECT, Attack, Pair, Side, paired

pair = paired()
spoilt = paired()
"""For the scenarios that write: what B writes must not change what the others see."""
Calls = Iterator[Callable[[], Any]]
SIGNING = "B's own secret, of enough bytes"


def _everywhere(*tries: Callable[[Side, Any], Any]) -> Attack:
    """Return the attack that tries each of these on every name that A's conversations have."""

    def attack(side: Side) -> Calls:
        for chat in side.chats():
            for attempt in tries:
                yield lambda chat=chat, attempt=attempt: attempt(side, chat)  # type: ignore[misc]

    return attack


def _on_the_kit(*tries: Callable[[Side], Any]) -> Attack:
    """Return the attack that tries each of these once."""

    def attack(side: Side) -> Calls:
        for attempt in tries:
            yield lambda attempt=attempt: attempt(side)  # type: ignore[misc]

    return attack


def _once(side: Side, chat: Any, text: str, *, stream: bool) -> Any:
    """Use A's idempotency key. Not where A's turn is open: whoever reaches such a turn waits for it."""
    if chat.id == side.known.left:
        return None
    return (chat.stream if stream else chat.send)(text, idempotency_key=ONCE)


def _once_edited(chat: Any, place: Any, *, stream: bool) -> Any:
    """Use A's idempotency key for another version of A's question."""
    return (chat.stream_edit if stream else chat.edit)(place, SECRET, idempotency_key=ONCE)


def _of_messages(*tries: Callable[[Any, Any], Any]) -> Attack:
    """Return the attack that tries A's places, in A's conversations and in B's own."""

    def attack(side: Side) -> Calls:
        for chat in side.chats():
            for place in [*side.known.messages, 1, 2]:
                for attempt in tries:
                    yield lambda chat=chat, place=place, attempt=attempt: attempt(chat, place)  # type: ignore[misc]

    return attack


def _of_turns(*tries: Callable[[Any, Any], Any]) -> Attack:
    """Return the attack that tries A's turns, in A's conversations and in B's own."""

    def attack(side: Side) -> Calls:
        for chat in side.chats():
            for turn in [*dict.fromkeys(side.known.turns), None]:
                for attempt in tries:
                    yield lambda chat=chat, turn=turn, attempt=attempt: attempt(chat, turn)  # type: ignore[misc]

    return attack


def _exported(side: Side, **options: Any) -> Any:
    """Return what B's export of something holds, without its own time."""
    file = io.StringIO()
    try:
        return [side.face.settle(side.kit.export(file, **options)).conversations, file.getvalue()[200:]]
    except ConvokitError as error:
        return [type(error).__name__, str(error), file.getvalue()[200:]]


def _exports(side: Side) -> Calls:
    """Try to export A's conversations: all there are, by key, by id, by the person they belong to."""
    for form in ("markdown", "openai"):
        yield lambda form=form: _exported(side, format=form)  # type: ignore[misc]
        yield lambda form=form: _exported(side, format=form, subject=SUBJECT)  # type: ignore[misc]
    for key in KEYS:
        yield lambda key=key: _exported(side, key=key)  # type: ignore[misc]
    for each in side.known.ids:
        yield lambda each=each: _exported(side, conversations=[each])  # type: ignore[misc]


def _imports(side: Side) -> Calls:
    """Import under A's keys: what comes in is B's own."""
    for key in KEYS:
        given = json.dumps([{"role": "user", "content": "of B"}])
        yield lambda key=key, given=given: side.kit.import_(io.StringIO(given), format="messages", key=key)  # type: ignore[misc]
        yield lambda key=key: side.kit.chat(key).messages()  # type: ignore[misc]


ATTACKS: dict[str, Attack] = {
    "Convokit.migrate": _on_the_kit(lambda side: side.kit.migrate()),
    "Convokit.read_only": _on_the_kit(lambda side: side.kit.read_only),
    "Convokit.chat": _everywhere(lambda side, chat: repr(chat)),
    "Convokit.conversations": _on_the_kit(
        lambda side: side.kit.conversations(),
        lambda side: side.kit.conversations(subject=SUBJECT),
        lambda side: side.kit.conversations(before=side.known.cursor),
        lambda side: side.kit.conversations(subject=SUBJECT, before=side.known.cursor, limit=1),
        lambda side: side.kit.conversations(open=True),
        lambda side: side.kit.conversations(archived=False),
        *(lambda side, key=key: side.kit.conversations(prefix=key[:1]) for key in KEYS),
    ),
    "Convokit.conversation": _on_the_kit(
        *(lambda side, key=key: side.kit.conversation(key) for key in KEYS),
        *(lambda side, at=at: side.kit.conversation(id=side.known.ids[at]) for at in range(len(KEYS))),
    ),
    "Convokit.turn": lambda side: (partial(side.kit.turn, turn) for turn in dict.fromkeys(side.known.turns)),
    "Convokit.export": _exports,
    "Convokit.import_": _imports,
    "Convokit.usage": _on_the_kit(
        lambda side: side.kit.usage(by="conversation"),
        lambda side: side.kit.usage(by="model", subject=SUBJECT),
        *(lambda side, key=key: side.kit.usage(key=key) for key in KEYS),
        *(lambda side, key=key: side.kit.usage(conversations=[key]) for key in KEYS),
        *(lambda side, at=at: side.kit.usage(conversations=[side.known.ids[at]]) for at in range(len(KEYS))),
    ),
    "Convokit.search": _on_the_kit(
        *(
            lambda side, word=word: side.kit.search(word)
            for word in ("secret", '"the secret of A"', "echo", 'secret" OR "x', "_ OR secret", "秘密")
        ),
        lambda side: side.kit.search("secret", subject=SUBJECT),
        lambda side: side.kit.search("secret", metadata={"of": SECRET}),
        lambda side: side.kit.search("secret", before=side.known.found),
        *(lambda side, key=key: side.kit.search("secret", key=key) for key in KEYS),
        *(lambda side, at=at: side.kit.search("secret", id=side.known.ids[at]) for at in range(len(KEYS))),
    ),
    "Convokit.reindex": _on_the_kit(lambda side: side.kit.reindex()),
    "Convokit.verify": _on_the_kit(
        lambda side: side.kit.verify(),
        lambda side: side.kit.verify(against=side.face.settle(side.kit.checkpoint(key=SIGNING)), key=SIGNING),
    ),
    "Convokit.checkpoint": _on_the_kit(
        lambda side: side.face.settle(side.kit.checkpoint(key=SIGNING)).text.splitlines()[1:-1]  # without its time
    ),
    "Convokit.recover": _on_the_kit(lambda side: side.kit.recover()),
    "Convokit.erase": _on_the_kit(
        lambda side: side.kit.erase(subject=SUBJECT, dry_run=True),
        lambda side: side.kit.erase(older_than=timedelta(0), dry_run=True),
        lambda side: side.kit.purge(dry_run=True),
        lambda side: side.kit.erase(subject=SUBJECT),
        lambda side: side.kit.erase(older_than=timedelta(0)),
    ),
    "Convokit.purge": _on_the_kit(
        lambda side: side.kit.erase(older_than=timedelta(0)),
        lambda side: side.kit.purge(),
    ),
    "Convokit.close": _on_the_kit(lambda side: None),  # closes B's own connections: the fixture does
    "Chat.id": _everywhere(lambda side, chat: chat.id),
    "Chat.key": _everywhere(lambda side, chat: chat.key),
    "Chat.messages": _of_messages(
        lambda chat, place: chat.messages(before=place),
        lambda chat, place: chat.messages(),
        lambda chat, place: chat.messages(after=place),
        lambda chat, place: chat.messages(around=place, limit=None),
    ),
    "Chat.history": _of_messages(
        lambda chat, place: chat.history(),
        lambda chat, place: chat.history(before=place),
        lambda chat, place: chat.history(after=place),
        lambda chat, place: chat.history(around=place),
    ),
    "Chat.runs": _of_messages(lambda chat, place: chat.runs(), lambda chat, place: chat.runs(before=place)),
    "Chat.turn_records": _of_turns(lambda chat, turn: chat.turn_records([] if turn is None else [turn])),
    "Chat.removals": _everywhere(lambda side, chat: chat.removals(), lambda side, chat: chat.removals(before=99)),
    "Chat.window": _of_turns(lambda chat, turn: chat.window(turn), lambda chat, turn: chat.window(turn, call=1)),
    "Chat.turn": _of_turns(lambda chat, turn: chat.turn(turn)),
    "Chat.entries": _everywhere(lambda side, chat: chat.entries(), lambda side, chat: chat.entries(before=3)),
    "Chat.blob": _everywhere(lambda side, chat: chat.blob("0" * 64)),
    "Chat.summaries": _everywhere(lambda side, chat: chat.summaries()),
    "Chat.prompt": _everywhere(
        lambda side, chat: chat.prompt("0" * 32), lambda side, chat: chat.prompt(compute_prompt_digest(SECRET).hex())
    ),
    "Chat.verify": _everywhere(
        lambda side, chat: chat.verify(),
        lambda side, chat: chat.verify(against=side.face.settle(side.kit.checkpoint(key=SIGNING)), key=SIGNING),
    ),
    "Chat.context": _everywhere(lambda side, chat: chat.context(), lambda side, chat: chat.context(SECRET)),
    "Chat.replay": _of_turns(lambda chat, turn: chat.replay(turn), lambda chat, turn: chat.replay(turn, call=1)),
    "Chat.diff": _of_turns(
        lambda chat, turn: chat.diff(turn, turn) if turn else None,
        lambda chat, turn: chat.diff(turn, chat.id) if turn and chat.id else None,
    ),
    "Convokit.tenant": _on_the_kit(
        lambda side: side.kit.tenant("rival").conversations(),
        *(
            lambda side, name=name: side.kit.tenant(name).conversations()
            for name in ("ACME", "acme ", "%", "acme' OR 1=1 --")
        ),
    ),
    "Chat.follow": _of_turns(lambda chat, turn: chat.follow(turn), lambda chat, turn: chat.follow(turn, after=3)),
    "Chat.cancel": _of_turns(lambda chat, turn: chat.cancel(turn)),
    "Chat.redact": _of_messages(
        lambda chat, place: chat.redact(place, dry_run=True),
        lambda chat, place: chat.redact(place),
    ),
    "Chat.erase": _everywhere(
        lambda side, chat: chat.erase(dry_run=True),
        lambda side, chat: chat.send(SECRET),
        lambda side, chat: chat.erase(),
    ),
    "Chat.turns": _of_turns(lambda chat, turn: chat.turns(before=turn), lambda chat, turn: chat.turns()),
    "Chat.update": _everywhere(
        lambda side, chat: chat.update(title=SECRET, subject=SUBJECT, metadata={"of": SECRET}),
        lambda side, chat: chat.update(title=None, archived=True),
    ),
    "Chat.update_turn": _of_turns(lambda chat, turn: chat.update_turn(turn, metadata={"of": SECRET})),
    "Chat.pin": _of_messages(lambda chat, place: chat.pin(place)),
    "Chat.unpin": _of_messages(lambda chat, place: chat.unpin(place)),
    "Chat.open_calls": _everywhere(lambda side, chat: chat.open_calls()),
    "Chat.append": _of_messages(
        lambda chat, place: chat.append([{"role": "user", "content": SECRET}], after=place),
        lambda chat, place: chat.append([{"role": "user", "content": SECRET}], expect=place),
        lambda chat, place: chat.append([], after=place),
    ),
    "Chat.children": _of_messages(lambda chat, place: chat.children(place), lambda chat, place: chat.children()),
    "Chat.branch": _everywhere(lambda side, chat: chat.branch),
    "Chat.fork": _of_messages(
        lambda chat, place: chat.fork(place),
        lambda chat, place: chat.fork(place, name="of A"),
        lambda chat, place: chat.fork(),
    ),
    "Chat.checkout": _of_messages(lambda chat, place: chat.checkout(place)),
    "Chat.copy": _of_messages(lambda chat, place: chat.copy("of B", message=place), lambda chat, place: chat.copy()),
    "Chat.branches": _everywhere(
        lambda side, chat: chat.branches(),
        lambda side, chat: side.kit.chat(id=chat.id, branch=1).messages() if chat.id else None,
        lambda side, chat: side.kit.chat(id=chat.id, branch="tried").messages() if chat.id else None,
    ),
    "Chat.leaves": _everywhere(lambda side, chat: chat.leaves()),
    "Chat.siblings": _of_messages(lambda chat, place: chat.siblings(place)),
    "Chat.log": _of_messages(lambda chat, place: chat.log(before=place), lambda chat, place: chat.log()),
    "Chat.regenerate": _of_messages(
        lambda chat, place: chat.regenerate(place), lambda chat, place: chat.regenerate(on_busy="supersede")
    ),
    "Chat.stream_regenerate": _of_messages(
        lambda chat, place: chat.stream_regenerate(place), lambda chat, place: chat.stream_regenerate()
    ),
    "Chat.edit": _of_messages(
        lambda chat, place: chat.edit(place, SECRET), lambda chat, place: _once_edited(chat, place, stream=False)
    ),
    "Chat.stream_edit": _of_messages(
        lambda chat, place: chat.stream_edit(place, SECRET), lambda chat, place: _once_edited(chat, place, stream=True)
    ),
    "Chat.resume": _everywhere(lambda side, chat: chat.resume(), lambda side, chat: chat.resume(on_busy="supersede")),
    "Chat.send": _everywhere(
        lambda side, chat: _once(side, chat, SECRET, stream=False),
        lambda side, chat: _once(side, chat, "another", stream=False),
        lambda side, chat: chat.send(SECRET),
        lambda side, chat: chat.send("another", on_busy="supersede"),
        lambda side, chat: chat.send("another", after=1),
        lambda side, chat: chat.send("another", expect=2),
    ),
    "Chat.stream": _everywhere(
        lambda side, chat: _once(side, chat, SECRET, stream=True),
        lambda side, chat: _once(side, chat, "another", stream=True),
        lambda side, chat: chat.stream("another", on_busy="supersede"),
    ),
}
WRITING = {
    "Chat.send",
    "Chat.stream",
    "Chat.append",
    "Chat.update",
    "Chat.update_turn",
    "Chat.redact",
    "Chat.erase",
    "Convokit.erase",
    "Convokit.purge",
    "Convokit.import_",
}


def _public(one: type) -> list[str]:
    names = [name for name, member in vars(one).items() if inspect.isfunction(member) or isinstance(member, property)]
    return [name for name in names if not name.startswith("_")]


@pytest.mark.parametrize(("one", "other"), [(Convokit, AsyncConvokit), (Chat, AsyncChat)])
def test_every_public_method_has_a_scenario(one: type, other: type) -> None:
    """A method without a scenario may reach across tenants unseen: whoever adds it adds how B would attack A through it."""
    for face in (one, other):
        missing = [name for name in _public(face) if f"{one.__name__}.{name}" not in ATTACKS]
        assert not missing, f"add to ATTACKS how tenant B tries to reach A's data through {face.__name__}.{missing}"
    stale = [
        name for name in ATTACKS if name.startswith(f"{one.__name__}.") and name.partition(".")[2] not in _public(one)
    ]
    assert not stale, f"ATTACKS has scenarios for what is gone: {stale}"


@pytest.mark.once
@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in WRITING])
def test_b_cannot_tell_whether_a_is_there(pair: Pair, name: str) -> None:
    """Beside A and alone, B gets the same values, errors and counts, sends the same to the model, and changes no row of A's."""
    found = pair.differences(ATTACKS[name])
    assert not found, f"{len(found)} outcomes differ through {name}, the first: {found[0]}"


@pytest.mark.once
@pytest.mark.parametrize("name", sorted(WRITING))
def test_b_cannot_tell_by_writing(spoilt: Pair, name: str) -> None:
    """The same for what writes: what B sends becomes B's own, whatever A has under that name."""
    found = spoilt.differences(ATTACKS[name])
    assert not found, f"{len(found)} outcomes differ through {name}, the first: {found[0]}"


def _blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the tenant out of the statement that finds a conversation."""
    tenant = conversation.c.tenant
    any_tenant = or_(tenant == bindparam("tenant"), tenant != bindparam("tenant"))
    columns = conversations._COLUMNS
    statement = select(*columns).where(conversation.c.id == bindparam("id"), any_tenant)
    monkeypatch.setattr(conversations, "_SELECT_BY_ID", statement)


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", ["Chat.messages", "Chat.context", "Chat.verify"])
def test_a_missing_condition_would_be_seen(pair: Pair, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The scenarios can fail: without the tenant in the statement that finds a conversation, each of these tells A's data."""
    _blind(monkeypatch)
    found = pair.differences(ATTACKS[name])
    assert found
    assert name == "Chat.verify" or any(SECRET in beside for beside, _ in found)


def test_keys_of_two_tenants_are_two_conversations(pair: Pair) -> None:
    """The id of a keyed conversation holds the tenant: no two tenants, however named, share one."""
    with pair.beside.engine.connect() as connection:
        database_id = migrations.check_schema(connection, "this one")
    tenants = ["a", "A", "a ", "a\u0301", "\u00e1", 'a","b', "a\\", "b"]
    keys = ["k", 'b","k', "", "\\k"]
    made = {derive_conversation_id(database_id, tenant, key) for tenant in tenants for key in keys}
    assert len(made) == len(tenants) * len(keys)


TENANT = {
    "store.conversations.find": lambda connection, wanted: conversations.find(connection, "rival", wanted),
    "store.conversations.lock_and_find": lambda connection, wanted: conversations.lock_and_find(
        connection, "rival", wanted
    ),
    "store.conversations.find_by_key": lambda connection, wanted: [
        conversations.find_by_key(connection, "rival", key) for key in ("nobody's", SECRET)
    ],
    "store.conversations.list_recent": lambda connection, wanted: conversations.list_recent(
        connection, "rival", subject=None, limit=1000, before=None
    ),
    "store.conversation_pages.find_with_preview": lambda connection, wanted: conversation_pages.find_with_preview(
        connection, "rival", wanted
    ),
    "store.conversation_pages.list_with_previews": lambda connection, wanted: [
        conversation_pages.list_with_previews(connection, "rival", each, limit=1000)
        for each in (ListingFilter(), ListingFilter(open=True), ListingFilter(prefix="n"), ListingFilter(ids=[wanted]))
    ],
    "store.conversation_pages.list_matches": lambda connection, wanted: conversation_pages.list_matches(
        connection, "rival", select(conversation.c.id.label("conversation_id")).subquery(), []
    ),
    "store.search_query.list_by_title": lambda connection, wanted: search_query.list_by_title(
        connection, "rival", SearchFilter(["secret"]), lambda title: True, since=None, until=None, limit=1000
    ),
    "store.conversations.derive_ids": lambda connection, wanted: [
        conversations.find(connection, "rival", each)
        for each in conversations.derive_ids(connection, "rival", ["nobody's", SECRET]).values()
    ],
    "store.conversations.filter_existing": lambda connection, wanted: conversations.filter_existing(
        connection, "rival", [wanted]
    ),
    "store.conversations.find_id_by_turn": lambda connection, wanted: any(
        conversations.find_id_by_turn(connection, "rival", turn_id)
        for turn_id in connection.execute(select(turn_table.c.id)).scalars()
    ),
    "store.turns.find_by_idempotency_key": lambda connection, wanted: turns.find_by_idempotency_key(
        connection, "rival", wanted, sha256(ONCE.encode()).digest()
    ),
    "store.turns.list_open": lambda connection, wanted: turns.list_open(connection, "rival"),
    "store.snapshot.read_open_calls": lambda connection, wanted: snapshot.read_open_calls(
        connection, "rival", wanted, 0
    ),
    "store.snapshot.read_snapshot": lambda connection, wanted: snapshot.read_snapshot(
        connection, "rival", wanted, 0, lambda row, rows: 0
    ),
    "usage.sql.sum_calls": lambda connection, wanted: list(
        usage_sql.sum_calls(connection, "rival", conversation_ids=[wanted], by_conversation=True)
    ),
    "store.blobs.find_prompt": lambda connection, wanted: any(
        blobs.find_prompt(connection, "rival", digest)
        for digest in connection.execute(select(prompt.c.digest)).scalars()
    ),
    "store.conversation_pages.find_listed": lambda connection, wanted: conversation_pages.find_listed(
        connection, "rival", wanted
    ),
    "store.conversation_pages.find_listed_branch": lambda connection, wanted: [
        conversation_pages.find_listed_branch(connection, "rival", wanted, given) for given in (0, 1, 2, "of A")
    ],
    "store.message_tree.find_branch_number": lambda connection, wanted: [
        number
        for given in (1, 2, "of A")
        if (number := message_tree.find_branch_number(connection, "rival", wanted, given)) is not None
    ],
    "store.blobs.find_prompts": lambda connection, wanted: blobs.find_prompts(
        connection, "rival", list(connection.execute(select(prompt.c.digest)).scalars())
    ),
    "store.blobs.insert_prompt": None,
    "store.blobs.insert_prompts": None,
    "erasure.sql.list_matching": lambda connection, wanted: erasure_sql.list_matching(
        connection, "rival", erasure_sql.ConversationFilter(erased=False), after=None, limit=1000
    ),
    "erasure.sql.count_matching": lambda connection, wanted: erasure_sql.count_matching(
        connection, "rival", erasure_sql.ConversationFilter(erased=False)
    ),
    "erasure.sql.delete_conversation": lambda connection, wanted: erasure_sql.delete_conversation(
        connection, "nobody", wanted
    ),
    "erasure.residue.count_unused_prompts": lambda connection, wanted: residue.count_unused_prompts(
        connection, "rival", None, {}
    ),
    "erasure.residue.delete_unused_prompts": lambda connection, wanted: residue.delete_unused_prompts(
        connection, "nobody", None
    ),
    "transfer.sql.list_conversation_ids": lambda connection, wanted: transfer_sql.list_conversation_ids(
        connection, "rival", subject=SUBJECT, after=None, limit=1000
    ),
    "transfer.sql.count_messages": lambda connection, wanted: transfer_sql.count_messages(
        connection, "rival", subject=SUBJECT
    ),
    "store.search_query.find_candidates": lambda connection, wanted: [
        search_query.find_candidates(
            connection, "rival", SearchFilter(keys=["secret"], conversation_id=each), limit=1000
        )
        for each in (None, wanted)
    ],
    "store.search_query.find_sort_key": lambda connection, wanted: search_query.find_sort_key(
        connection, "rival", (wanted, 1)
    ),
    "store.anchors.find_conversations": lambda connection, wanted: anchors.find_conversations(
        connection, "rival", [ANCHOR]
    ),
    "store.anchors.find_conversation": lambda connection, wanted: anchors.find_conversation(
        connection, "rival", wanted, [ANCHOR]
    ),
    "store.keys.list_keys": lambda connection, wanted: keys.list_keys(connection, "rival"),
    "store.keys.find_key_by_name": lambda connection, wanted: keys.find_key_by_name(connection, "rival", API_KEY_NAME),
    "store.keys.revoke_key": lambda connection, wanted: keys.revoke_key(connection, "rival", API_KEY_NAME, 1),
    "history.copies.find_copy": lambda connection, wanted: copies.find_copy(connection, "rival", wanted, wanted, 0),
    "store.search_index.index_missing": lambda connection, wanted: search_index.index_missing(
        connection, "rival", None
    ),
    "audit.sql.count_conversations": lambda connection, wanted: audit_sql.count_conversations(connection, "rival"),
    "audit.sql.read_heads": lambda connection, wanted: [
        each.conversation_id for each in audit_sql.read_heads(connection, "rival", UUID(int=0), 1000)
    ],
    "audit.sql.read_prompts": lambda connection, wanted: audit_sql.read_prompts(
        connection, "rival", connection.execute(select(prompt.c.digest)).scalars()
    ),
}
"""Functions that are told the tenant, and what B gets through them for A's conversation."""
ROW = {
    "store.message_tree.read_head",
    "store.conversations.create",
    "store.conversations.advance",
    "store.message_tree.set_head",
    "store.message_tree.list_branches",
    "store.message_tree.list_leaves",
    "store.message_tree.list_runs",
    "store.path_through.find_path_through",
    "store.path_through.read_around",
    "store.conversation_pages.find_erasure",
    "history.copies.write_copy",
    "store.conversations.update_description",
    "store.turn_end.update_metadata",
    "store.anchors.insert_anchor",
    "store.conversations.fill_description",
    "transfer.sql.is_imported",
    "store.search_index.add_title",
    "store.search_index.add_missing_title",
    "store.turn_start.find_stored_number",
    "store.turn_pages.read_turns_page",
    "store.write_batch.advance",
    "store.write_batch.write",
    "store.conversations.set_pins",
    "audit.consistency.check_consistency",
    "transfer.sql.create_conversation",
    "erasure.residue.sample_messages",
    "erasure.residue.sample_conversation",
}
"""Functions that are given a conversation as it was found: the row holds its tenant, and `find` is where it came from."""
NO_TENANT = {
    "audit.sql.read_database_id",
    "store.dialects.postgresql_replication.read_replication",
    "store.fast_execute.fast_connection",
    "store.fast_execute.plain_connection",
    "store.pipeline.pipeline",
    "store.search_index.is_indexing",
    "store.search_index.optimize",
    "store.search_query.read_messages_by_ref",
    "store.removal_records.find_erasures",
    *(f"store.keys.{name}" for name in ("insert_key", "find_key", "has_keys", "take_permits")),
    *(f"store.migrations.{name}" for name in ("upgrade", "read_revision", "check_schema")),
    *(
        f"store.distribution.{name}"
        for name in (
            "read_cluster",
            "count_shards",
            "describe_cluster",
            "plan_distribution",
            "run_plan",
            "distribute_new_tables",
        )
    ),
    "store.turns.count_open_turns",
    "store.indexes.list_differences",
    "store.turns.list_tenants_with_open_turns",
    *(f"erasure.residue.{name}" for name in ("are_in_other_rows", "find_database_file")),
    "usage.sql.list_tenants",
}
"""Functions about a whole database, for its owner.

`read_messages_by_ref` and `find_erasures` read what `find_candidates` and `list_recent` have found. `find_key` and
`take_permits` take the digest of an API key, which only its owner knows.
"""


LISTINGS = {"store.conversations.list_recent", "store.conversation_pages.list_with_previews"}
"""Functions that list B's own conversations, under the same names."""


def _store_functions(checkout: Path) -> dict[str, Callable[..., Any]]:
    """Return every public function over a connection, documented or not."""
    found: dict[str, Callable[..., Any]] = {}
    for path in sorted((checkout / "convokit").rglob("[!_]*.py")):
        place = ".".join(path.relative_to(checkout / "convokit").with_suffix("").parts)
        if not place.startswith("store.") and not place.endswith(
            (".sql", ".residue", ".consistency", "history.copies")
        ):
            continue
        module = importlib.import_module(f"convokit.{place}")
        for name, member in vars(module).items():
            if not inspect.isfunction(member) or name[0] == "_" or member.__module__ != module.__name__:
                continue
            if "connection" in inspect.signature(member).parameters:
                found[f"{place}.{name}"] = member
    return found


def test_every_function_of_the_store_says_whom_it_trusts(checkout: Path) -> None:
    """A function of the store takes the tenant, or a row or id that came from `find`; a new one must be sorted here."""
    found = _store_functions(checkout)
    assert len(found) > 30
    for name, function in found.items():
        parameters = inspect.signature(function).parameters
        sorted_here = name in TENANT or name in ROW or name in NO_TENANT or "conversation_id" in parameters
        assert sorted_here, f"{name}: say in this test how it knows the tenant, and how B would attack A through it"
        assert ("tenant" in parameters) == (name in TENANT), f"{name} takes a tenant: add B's attack to TENANT"
    page = (checkout / "docs" / "how-to" / "host-application.md").read_text("utf-8")
    assert "take a conversation's id and trust it" in page


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", [name for name, call in TENANT.items() if call is not None])
def test_the_store_tells_b_nothing_of_a(pair: Pair, name: str) -> None:
    """A function that is told the tenant gives B the same beside A as alone."""
    call: Any = TENANT[name]
    outcomes = []
    for side in (pair.beside, pair.alone):
        with side.engine.execution_options(**{WRITE: True}).connect() as connection:
            outcomes.append([repr(call(connection, each)) for each in pair.beside.known.ids])
    named = [re.sub(r"UUID\('[^']*'\)|\b\d{9,}\b|b'[^']*'|b\"[^\"]*\"|<[^>]*>", "", repr(each)) for each in outcomes]
    assert named[0] == named[1]
    assert SECRET not in named[0] or name in LISTINGS


def test_a_can_reach_its_own(pair: Pair) -> None:
    """The names that B tries are true ones: with them, A reads its secret."""
    side = pair.beside
    with Convokit(side.database, model="m", tenant="acme", base_url=side.server.url) as kit:
        for key in KEYS:
            assert kit.chat(key).messages()[0].text == SECRET
        for each in side.known.ids:
            assert kit.chat(id=each).messages()[0].text == SECRET
        assert len(kit.conversations(subject=SUBJECT)) == len(KEYS)
