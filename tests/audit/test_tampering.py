"""I6: whatever is changed, inserted, deleted or reordered behind the library's back, `verify` finds it and says where."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection

from convokit.audit.column_coverage import COVERAGE
from convokit.errors import ChainBroken
from convokit.store.schema import (
    blob,
    branch,
    chunk,
    completion,
    conversation,
    entry,
    message,
    metadata,
    removal,
    summary,
    tool_call,
    turn,
)
from tests.audit.histories import Histories
from tests.audit.tampering import (
    TABLES,
    Row,
    after,
    changing,
    deleting,
    inserting,
    other_values,
    proven,
    rows,
    swapping,
    undone,
    verdict,
)
from tests.support.selection import Effort

OWNED = [name for name, table in TABLES.items() if "conversation_id" in table.c]
FRESH = UUID("00000000-0000-7000-8000-00000000000f")


def _places(table: str, row: Row) -> tuple[str, ...]:
    """Return how the name begins under which a change of this row is told, whatever of it was changed."""
    name = table.removeprefix("convokit_")
    match name:
        case "message":
            return (str(row["seq"]),)
        case "completion":
            return (f"{row['turn_id']}:{row['number']}",)
        case "conversation":
            return ("head", "last_seq", "key")
        case "entry":
            return ("head",)
        case _:
            return (f"{name}:",)


def _said(table: str, row: Row, error: ChainBroken | str | None, ofs: dict[UUID, set[str]]) -> str | None:
    """Return what is wrong with a verdict, None when it names the place."""
    if error is None:
        return "not found"
    if isinstance(error, str):
        return None
    exact = table in ("convokit_message", "convokit_completion")
    if any(error.ref == each if exact else error.ref.startswith(each) for each in _places(table, row)):
        return None
    if table == "convokit_entry" and (error.entry == row["number"] or "numbered from 1" in str(error)):
        return None
    if table == "convokit_removal" and ("remov" in str(error) or error.entry == row["number"]):
        return None
    if table in ("convokit_turn", "convokit_tool_call"):  # or what has to agree with it is told, its messages and calls
        turn_id = row["id" if table == "convokit_turn" else "turn_id"]
        return None if error.ref in ofs.get(turn_id, set()) else f"named {error.ref!r}: {error}"
    return f"named {error.ref!r}: {error}"


def _of_turns(told: Histories, conversation_id: UUID) -> dict[UUID, set[str]]:
    """Return, for each turn, the names of its messages and API calls."""
    names: dict[UUID, set[str]] = {}
    for each in rows(told.engine, message, conversation_id):
        names.setdefault(each["turn_id"], set()).add(str(each["seq"]))
    for each in rows(told.engine, completion, conversation_id):
        names.setdefault(each["turn_id"], set()).add(f"{each['turn_id']}:{each['number']}")
    return names


def test_every_column_is_declared() -> None:
    """A new column is covered, checked or open, with the reason beside it: nobody forgets to say which."""
    for name, table in metadata.tables.items():
        declared = COVERAGE[name]
        assert declared.columns == {column.name for column in table.columns}, name
        assert len(declared.columns) == len(declared.proven) + len(declared.checked) + len(declared.open), name
        assert all(declared.open.values())


def test_nothing_is_found_where_nothing_was_changed(told: Histories) -> None:
    """What was written whole is found whole, lawful removals and an open turn included."""
    with undone(told.engine) as connection:
        for each in (told.rich, told.erased, told.open, told.empty):
            assert verdict(connection, each) is None
    kinds = {row["kind"] for each in (told.rich, told.erased) for row in rows(told.engine, entry, each)}
    assert kinds == {"message", "completion", "redaction", "erasure", "import"}
    statuses = {row["status"] for each in (told.rich, told.erased) for row in rows(told.engine, message, each)}
    assert statuses == {"complete", "partial", "passage", "redacted"}
    empty = [name for name in OWNED if not any(rows(told.engine, TABLES[name], each) for each in _all(told))]
    assert not empty


def _all(told: Histories) -> tuple[UUID, ...]:
    return (told.rich, told.erased, told.open)


@pytest.mark.once
@pytest.mark.parametrize("table", [name for name in TABLES if COVERAGE[name].proven])
def test_every_proven_column_of_every_row(told: Histories, table: str, effort: Effort) -> None:
    """One value changed in one row, whatever to: found, and the place is named. A change the database refuses is none."""
    missed, tried = [], 0
    for conversation_id in _all(told):
        ids = [row["id"] for row in rows(told.engine, turn, conversation_id)]
        ofs = _of_turns(told, conversation_id)
        for row in _rows_of(told, table, conversation_id):
            for name in proven(TABLES[table], row):
                column = TABLES[table].c[name]
                values = other_values(column, row[name], told.empty, ids)
                for value in values if effort != "quick" else values[tried % (len(values) or 1) :][:1]:
                    error = after(told.engine, conversation_id, changing(TABLES[table], row, **{name: value}))
                    tried += error != "refused"
                    said = _said(table, row, error, ofs)
                    if said is not None:
                        missed.append(f"{name} {row[name]!r} -> {value!r}: {said}")
    assert not missed, f"{len(missed)} of {tried}, the first: {missed[:5]}"
    assert tried


def _rows_of(told: Histories, table: str, conversation_id: UUID) -> list[Row]:
    """Return a table's rows, of prompts those that this conversation names."""
    found = rows(told.engine, TABLES[table], conversation_id)
    if table != "convokit_prompt":
        return found
    manifests = "".join(row["manifest"] for row in rows(told.engine, completion, conversation_id) if row["salt"])
    return [row for row in found if bytes(row["digest"]).hex() in manifests]


@pytest.mark.once
@pytest.mark.parametrize("name", ["message", "completion", "turn", "tool_call", "entry", "prompt", "blob", "removal"])
def test_every_row_deleted(told: Histories, name: str) -> None:
    """One row deleted: found, and the place is named."""
    table, missed = TABLES[f"convokit_{name}"], []
    for conversation_id in (told.rich, told.erased):
        ofs = _of_turns(told, conversation_id)
        for row in _rows_of(told, table.name, conversation_id):
            said = _said(table.name, row, after(told.engine, conversation_id, deleting(table, row)), ofs)
            if said is not None:
                missed.append(f"{row}: {said}")
    assert not missed, f"{len(missed)}, the first: {missed[:3]}"


@pytest.mark.once
def test_every_row_inserted(told: Histories) -> None:
    """A copy of any row under another name: found, whichever row it is a copy of."""
    last = rows(told.engine, conversation, told.rich)[0]
    ways: list[tuple[Any, list[Row]]] = [
        (message, [{"seq": last["last_seq"] + 1}, {"seq": 0}, {"seq": -5}, {"seq": 10**6}]),
        (completion, [{"number": 50}, {"number": 1001}, {"turn_id": FRESH}]),
        (turn, [{"id": FRESH, "claim": None, "idempotency_hash": None}]),
        (tool_call, [{"position": 9}, {"position": -1}, {"message_seq": 1}, {"message_seq": 10**6}]),
        (entry, [{"number": last["last_entry"] + 1}, {"number": 0}, {"number": -1}]),
        (blob, [{"digest": b"x" * 32}, {"digest": b""}]),
        (removal, [{"number": 1}, {"number": 0}, {"number": 10**6}]),
        (branch, [{"number": 9, "name": None, "head_seq": 10**6}, {"number": -1, "name": None}]),
        (summary, [{"number": 9, "message_seq": 10**6}, {"number": 9, "from_seq": 3}]),
    ]
    for table, names in ways:
        origin = told.erased if table is removal else told.rich
        for row in rows(told.engine, table, origin):
            for given in names:
                found = after(told.engine, origin, inserting(table, row, **given))
                assert isinstance(found, ChainBroken), (table.name, given, row, found)
    piece = rows(told.engine, chunk, told.open)[0]
    ended = rows(told.engine, turn, told.rich)[0]["id"]
    found = after(told.engine, told.rich, inserting(chunk, piece, conversation_id=told.rich, turn_id=ended))
    assert isinstance(found, ChainBroken)
    assert found.ref == f"chunk:{ended}"


@pytest.mark.once
@pytest.mark.parametrize("name", ["message", "completion", "tool_call", "entry", "turn", "blob"])
def test_every_two_neighbours_swapped(told: Histories, name: str) -> None:
    """Two rows that change places, salts and hashes and all: found."""
    table = TABLES[f"convokit_{name}"]
    keys = {column.name for column in table.primary_key.columns}
    names = [column.name for column in table.columns if column.name not in keys]
    names = [each for each in names if each not in COVERAGE[table.name].open]
    for conversation_id in (told.rich, told.erased):
        found = rows(told.engine, table, conversation_id)
        for one, other in itertools.pairwise(found):
            nothing_left = one.get("salt", b"") is None and other.get("salt", b"") is None
            if nothing_left or all(one[each] == other[each] for each in names):
                continue
            verdict_ = after(told.engine, conversation_id, swapping(table, one, other, names))
            assert isinstance(verdict_, ChainBroken), (one, other)


@pytest.mark.once
def test_rows_copied_from_another_conversation(told: Histories) -> None:
    """A row of another conversation in this one's place, with its salt, or with its entry too: found at that place."""
    there = {row["seq"]: row for row in rows(told.engine, message, told.open)}
    links = {row["number"]: row for row in rows(told.engine, entry, told.open)}
    for seq, row in there.items():
        values = {name: value for name, value in row.items() if name != "conversation_id"}
        copied = changing(message, {"conversation_id": told.rich, "seq": seq}, **values)
        alone = after(told.engine, told.rich, copied)
        assert isinstance(alone, ChainBroken)
        assert (alone.entry, alone.ref) == (seq, str(seq))

        def both(connection: Connection, seq: int = seq, copied: Any = copied) -> None:
            copied(connection)
            link = {name: links[seq][name] for name in ("kind", "ref", "commitment", "hash")}
            changing(entry, {"conversation_id": told.rich, "number": seq}, **link)(connection)

        together = after(told.engine, told.rich, both)
        assert isinstance(together, ChainBroken)
        assert together.entry == seq
