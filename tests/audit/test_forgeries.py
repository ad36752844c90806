"""I6: a removal that was forged, names that are none, and rows that contradict each other are found; and what is not found."""

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
from tests.audit.tampering import Row, after, changing, rewritten, rows, undone, verdict

FRESH = UUID("00000000-0000-7000-8000-00000000000f")


def _emptied(conversation_id: UUID, seq: int) -> Any:
    nothing = dict.fromkeys(("content", "parts", "tool_calls", "name", "refusal", "extra", "salt"))
    return changing(message, {"conversation_id": conversation_id, "seq": seq}, status="redacted", **nothing)


def test_forged_redactions(told: Histories) -> None:
    """A row that was emptied is lawful only with its entry and its record, and only if it is empty."""

    def recorded_only(connection: Connection) -> None:
        _emptied(told.rich, 1)(connection)
        number = rows_in(connection, conversation, told.rich)["last_entry"] + 1
        values = {"ref": "message:1", "author": None, "reason": None, "salt": b"s" * 16, "created_at": 1}
        connection.execute(insert(removal), {"conversation_id": told.rich, "number": number, **values})

    def entered_only(connection: Connection) -> None:
        _emptied(told.rich, 1)(connection)
        extend(connection, told.rich, "redaction", "message:1", b"c" * 32)

    def another(connection: Connection) -> None:
        _emptied(told.rich, 1)(connection)
        remove(connection, told.rich, "message:2")

    def as_erasure(connection: Connection) -> None:
        remove(connection, told.rich, "message:1")
        link = connection.execute(select(entry).where(entry.c.kind == "redaction")).mappings().first()
        assert link is not None
        connection.execute(update(entry).where(entry.c.kind == "redaction").values(kind="erasure"))

    forged = {
        "emptied": (_emptied(told.rich, 1), "1"),
        "with a record": (recorded_only, None),
        "with an entry": (entered_only, None),
        "another one's": (another, "1"),
        "of another kind": (as_erasure, None),
        "not emptied": (lambda connection: record(connection, told.rich, "message:1"), "1"),
        "of a call, not emptied": (lambda connection: record(connection, told.rich, _failed_call(told)), None),
        "of everything, nothing emptied": (lambda connection: record(connection, told.rich, "*"), "1"),
        "of what is not there": (lambda connection: record(connection, told.rich, "message:999"), "message:999"),
        "of nonsense": (lambda connection: record(connection, told.rich, "message:x"), "message:x"),
    }
    for name, (change, ref) in forged.items():
        found = after(told.engine, told.rich, change)
        assert isinstance(found, ChainBroken), name
        assert ref in (None, found.ref), (name, found)
    assert after(told.engine, told.rich, lambda connection: remove(connection, told.rich, "message:1")) is None


def _failed_call(told: Histories) -> str:
    failed = next(row for row in rows(told.engine, completion, told.rich) if row["error"])
    return f"completion:{failed['turn_id']}:{failed['number']}"


def rows_in(connection: Connection, table: Any, conversation_id: UUID) -> Row:
    """Return a conversation's own row."""
    return dict(connection.execute(select(table).where(table.c.id == conversation_id)).mappings().one())


MALFORMED = ("", "x", "1:2:3", f"{FRESH}", f"{FRESH}:", f"{FRESH}:0", f"{FRESH}:{10**30}", "\x01:1", "１", "message:１")


@pytest.mark.parametrize("kind", ["message", "completion", "redaction", "erasure", "import", "other"])
def test_a_malformed_name_is_told_as_such(told: Histories, kind: str) -> None:
    """Whoever writes the chain anew with names that are none gets ChainBroken, at that entry, and nothing else."""
    at = rows(told.engine, conversation, told.rich)[0]["last_entry"] + 1
    for ref in MALFORMED:

        def change(connection: Connection, ref: str = ref) -> None:
            extend(connection, told.rich, kind, ref, chains.compute_commitment(b"", [ref]))  # type: ignore[arg-type]

        found = after(told.engine, told.rich, change)
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


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions(told: Histories, name: str) -> None:
    """What is not in the chain must agree with what is: of every row, this change is found."""
    table, values = CONTRADICTIONS[name]
    for row in rows(told.engine, table, told.rich):
        found = after(told.engine, told.rich, changing(table, row, **values))
        assert isinstance(found, ChainBroken), row


@pytest.mark.once
def test_the_outcome_of_a_completed_turn(told: Histories) -> None:
    """A completed turn is completed, and its reply is its reply: no other state and no other message passes."""
    for row in rows(told.engine, turn, told.rich):
        if row["state"] == "completed":
            for state in ("interrupted", "cancelled", "failed", "abandoned", "superseded"):
                assert isinstance(after(told.engine, told.rich, changing(turn, row, state=state)), ChainBroken)
            for seq in [None, *range(1, 30)]:
                if seq != row["reply_seq"]:
                    found = after(told.engine, told.rich, changing(turn, row, reply_seq=seq))
                    assert isinstance(found, ChainBroken), (row, seq)
        else:
            assert isinstance(after(told.engine, told.rich, changing(turn, row, state="completed")), ChainBroken)


def test_what_a_chain_alone_cannot_show(told: Histories) -> None:
    """Whoever can write every table can write another history, whole: only a head kept elsewhere shows that."""

    def rewrite(connection: Connection) -> None:
        rewritten(connection, told.rich)

    assert after(told.engine, told.rich, rewrite) is None


def test_a_history_that_was_brought_here(told: Histories) -> None:
    """Behind an entry that says where they came from, messages stand whole without their turns; changed, they are found."""
    with undone(told.engine) as connection:
        copied = f"{told.rich}:12:{'ab' * 32}"
        extend(connection, told.empty, "import", copied, chains.compute_commitment(b"", [copied]))
        for seq, role in enumerate(("user", "assistant", "tool", "assistant"), 1):
            parent = seq - 1 or None
            row = MessageRow(seq, parent, 1, FRESH, role, "complete", 1, "c", seq, 1, content="x", salt=b"s" * 16)
            messages.append(connection, told.empty, [row])
            extend(connection, told.empty, "message", str(seq), row.hash_input().commitment)
        at_end = update(conversation).where(conversation.c.id == told.empty)
        connection.execute(at_end.values(last_seq=4, head_seq=4))
        assert verdict(connection, told.empty) is None
        changing(message, {"conversation_id": told.empty, "seq": 3}, content="y")(connection)
        found = verdict(connection, told.empty)
        assert found is not None
        assert found.ref == "3"
