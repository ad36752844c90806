"""Test forged removals, malformed refs and contradicting rows (invariant I6), and the limits of the chain."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, insert, select, update

from convokit.domain import hashchain as chains
from convokit.domain.message import MessageRow
from convokit.errors import ChainBroken
from convokit.store import messages
from convokit.store.schema import branch, completion, conversation, entry, message, removal, summary, tool_call, turn
from tests.audit.histories import Histories, extend, record, remove
from tests.audit.tampering import (
    Row,
    find_broken,
    make_update,
    open_rolled_back,
    read_rows,
    rewrite_chain,
    verify_after,
)

FRESH = UUID("00000000-0000-7000-8000-00000000000f")


def _emptied(conversation_id: UUID, seq: int) -> Any:
    nothing = dict.fromkeys(("content", "parts", "tool_calls", "name", "refusal", "extra", "salt"))
    return make_update(message, {"conversation_id": conversation_id, "seq": seq}, status="redacted", **nothing)


def test_forged_redactions_are_found(histories: Histories) -> None:
    """A redacted row needs its entry and its removal record, and must be empty."""

    def recorded_only(connection: Connection) -> None:
        _emptied(histories.rich, 1)(connection)
        number = rows_in(connection, conversation, histories.rich)["last_entry"] + 1
        values = {"ref": "message:1", "author": None, "reason": None, "salt": b"s" * 16, "created_at": 1}
        connection.execute(insert(removal), {"conversation_id": histories.rich, "number": number, **values})

    def entered_only(connection: Connection) -> None:
        _emptied(histories.rich, 1)(connection)
        extend(connection, histories.rich, "redaction", "message:1", b"c" * 32)

    def another(connection: Connection) -> None:
        _emptied(histories.rich, 1)(connection)
        remove(connection, histories.rich, "message:2")

    def as_erasure(connection: Connection) -> None:
        remove(connection, histories.rich, "message:1")
        link = connection.execute(select(entry).where(entry.c.kind == "redaction")).mappings().first()
        assert link is not None
        connection.execute(update(entry).where(entry.c.kind == "redaction").values(kind="erasure"))

    forged = {
        "emptied": (_emptied(histories.rich, 1), "1"),
        "with a record": (recorded_only, None),
        "with an entry": (entered_only, None),
        "another one's": (another, "1"),
        "of another kind": (as_erasure, None),
        "not emptied": (lambda connection: record(connection, histories.rich, "message:1"), "1"),
        "of a call, not emptied": (
            lambda connection: record(connection, histories.rich, _failed_call(histories)),
            None,
        ),
        "of everything, nothing emptied": (lambda connection: record(connection, histories.rich, "*"), "1"),
        "of what is not there": (lambda connection: record(connection, histories.rich, "message:999"), "message:999"),
        "of nonsense": (lambda connection: record(connection, histories.rich, "message:x"), "message:x"),
    }
    for name, (change, ref) in forged.items():
        found = verify_after(histories.engine, histories.rich, change)
        assert isinstance(found, ChainBroken), name
        assert ref in (None, found.ref), (name, found)
    assert (
        verify_after(
            histories.engine, histories.rich, lambda connection: remove(connection, histories.rich, "message:1")
        )
        is None
    )


def _failed_call(histories: Histories) -> str:
    failed = next(row for row in read_rows(histories.engine, completion, histories.rich) if row["error"])
    return f"completion:{failed['turn_id']}:{failed['number']}"


def rows_in(connection: Connection, table: Any, conversation_id: UUID) -> Row:
    """Return a conversation's own row."""
    return dict(connection.execute(select(table).where(table.c.id == conversation_id)).mappings().one())


MALFORMED = ("", "x", "1:2:3", f"{FRESH}", f"{FRESH}:", f"{FRESH}:0", f"{FRESH}:{10**30}", "\x01:1", "１", "message:１")


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("kind", ["message", "completion", "redaction", "erasure", "import", "other"])
def test_malformed_refs_raise_chain_broken(histories: Histories, kind: str) -> None:
    """An entry with a malformed ref raises ChainBroken at that entry, and no other error."""
    at = read_rows(histories.engine, conversation, histories.rich)[0]["last_entry"] + 1
    for ref in MALFORMED:

        def change(connection: Connection, ref: str = ref) -> None:
            extend(connection, histories.rich, kind, ref, chains.compute_commitment(b"", [ref]))  # type: ignore[arg-type]

        found = verify_after(histories.engine, histories.rich, change)
        assert isinstance(found, ChainBroken)
        assert (found.entry, found.ref) == (at, ref)


CONTRADICTIONS: dict[str, tuple[Any, Row]] = {
    "a head that is not there": (conversation, {"head_seq": 10**6}),
    "a head below the first": (conversation, {"head_seq": 0}),
    "a branch that ends nowhere": (branch, {"head_seq": 10**6}),
    "a turn's branch that is missing": (turn, {"branch": 7}),
    "a turn in no state": (turn, {"state": "paused"}),
    "a turn opened again": (turn, {"state": "open"}),
    "a turn that never ended": (turn, {"ended_at": None}),
    "a reply that is a question": (turn, {"reply_seq": 1}),
    "a reply that is not there": (turn, {"reply_seq": 10**6}),
    "a summary of nothing": (summary, {"to_seq": 10**6}),
    "a tool that still runs": (tool_call, {"state": "running"}),
    "a tool of unknown effect": (tool_call, {"state": "unknown"}),
}


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradicting_rows_are_found(histories: Histories, name: str) -> None:
    """A row outside the chain that contradicts a chained row is found."""
    table, values = CONTRADICTIONS[name]
    for row in read_rows(histories.engine, table, histories.rich):
        found = verify_after(histories.engine, histories.rich, make_update(table, row, **values))
        assert isinstance(found, ChainBroken), row


@pytest.mark.once
def test_turn_state_and_reply_are_checked(histories: Histories) -> None:
    """A completed turn accepts no other state and no other reply; another turn cannot become completed."""
    for row in read_rows(histories.engine, turn, histories.rich):
        if row["state"] == "completed":
            for state in ("interrupted", "cancelled", "failed", "abandoned", "superseded"):
                assert isinstance(
                    verify_after(histories.engine, histories.rich, make_update(turn, row, state=state)), ChainBroken
                )
            for seq in [None, *range(1, 30, 3)]:
                if seq != row["reply_seq"]:
                    found = verify_after(histories.engine, histories.rich, make_update(turn, row, reply_seq=seq))
                    assert isinstance(found, ChainBroken), (row, seq)
        else:
            assert isinstance(
                verify_after(histories.engine, histories.rich, make_update(turn, row, state="completed")), ChainBroken
            )


def test_rewritten_chain_passes_without_a_checkpoint(histories: Histories) -> None:
    """Somebody who can write every table can write another valid history. Only a checkpoint shows that."""

    def rewrite(connection: Connection) -> None:
        rewrite_chain(connection, histories.rich)

    assert verify_after(histories.engine, histories.rich, rewrite) is None


def test_imported_messages_need_no_turns(histories: Histories) -> None:
    """Behind an import entry, messages verify without their turns. A changed message is still found."""
    with open_rolled_back(histories.engine) as connection:
        copied = f"{histories.rich}:12:{'ab' * 32}"
        extend(connection, histories.empty, "import", copied, chains.compute_commitment(b"", [copied]))
        for seq, role in enumerate(("user", "assistant", "tool", "assistant"), 1):
            parent = seq - 1 or None
            row = MessageRow(seq, parent, 1, FRESH, role, "complete", 1, "c", seq, 1, content="x", salt=b"s" * 16)
            messages.append(connection, histories.empty, [row])
            extend(connection, histories.empty, "message", str(seq), row.hash_input().commitment)
        at_end = update(conversation).where(conversation.c.id == histories.empty)
        connection.execute(at_end.values(last_seq=4, head_seq=4))
        assert find_broken(connection, histories.empty) is None
        make_update(message, {"conversation_id": histories.empty, "seq": 3}, content="y")(connection)
        found = find_broken(connection, histories.empty)
        assert found is not None
        assert found.ref == "3"
