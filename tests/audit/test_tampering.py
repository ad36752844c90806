"""Test that `verify` finds every changed, inserted, deleted or moved row, and names it (invariant I6)."""

from __future__ import annotations

import itertools
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection

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
from tests.audit.column_coverage import COVERAGE
from tests.audit.histories import Histories
from tests.audit.tampering import (
    TABLES,
    Row,
    find_broken,
    list_other_values,
    list_proven_columns,
    make_copy,
    make_deletion,
    make_swap,
    make_update,
    open_rolled_back,
    read_rows,
    verify_after,
)
from tests.support.selection import Effort, spread

OWNED = [name for name, table in TABLES.items() if "conversation_id" in table.c]
FRESH = UUID("00000000-0000-7000-8000-00000000000f")


def _expected_refs(table: str, row: Row) -> tuple[str, ...]:
    """Return the prefixes of the refs that an error about this row may have."""
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


def _find_fault(table: str, row: Row, error: ChainBroken | str | None, ofs: dict[UUID, set[str]]) -> str | None:
    """Return what is wrong with the result of `verify`, None when it names the row."""
    if error is None:
        return "not found"
    if isinstance(error, str):
        return None
    exact = table in ("convokit_message", "convokit_completion")
    if any(error.ref == each if exact else error.ref.startswith(each) for each in _expected_refs(table, row)):
        return None
    if table == "convokit_entry" and (error.entry == row["number"] or "numbered from 1" in str(error)):
        return None
    if table == "convokit_removal" and ("remov" in str(error) or error.entry == row["number"]):
        return None
    if table in ("convokit_turn", "convokit_tool_call"):  # the error may name a message or call of the turn instead
        turn_id = row["id" if table == "convokit_turn" else "turn_id"]
        return None if error.ref in ofs.get(turn_id, set()) else f"named {error.ref!r}: {error}"
    return f"named {error.ref!r}: {error}"


def _refs_by_turn(histories: Histories, conversation_id: UUID) -> dict[UUID, set[str]]:
    """Return, for each turn, the names of its messages and API calls."""
    names: dict[UUID, set[str]] = {}
    for each in read_rows(histories.engine, message, conversation_id):
        names.setdefault(each["turn_id"], set()).add(str(each["seq"]))
    for each in read_rows(histories.engine, completion, conversation_id):
        names.setdefault(each["turn_id"], set()).add(f"{each['turn_id']}:{each['number']}")
    return names


def test_every_column_has_a_declared_coverage() -> None:
    """A new column must be declared as proven, checked or open; an open column needs a reason."""
    for name, table in metadata.tables.items():
        declared = COVERAGE[name]
        assert declared.columns == {column.name for column in table.columns}, name
        assert len(declared.columns) == len(declared.proven) + len(declared.checked) + len(declared.open), name
        assert all(declared.open.values())


def test_verify_accepts_untouched_histories(histories: Histories) -> None:
    """Histories with lawful removals, an open turn and no messages at all verify."""
    with open_rolled_back(histories.engine) as connection:
        for each in (histories.rich, histories.erased, histories.open, histories.empty):
            assert find_broken(connection, each) is None
    kinds = {
        row["kind"] for each in (histories.rich, histories.erased) for row in read_rows(histories.engine, entry, each)
    }
    assert kinds == {"message", "completion", "redaction", "erasure", "import"}
    statuses = {
        row["status"]
        for each in (histories.rich, histories.erased)
        for row in read_rows(histories.engine, message, each)
    }
    assert statuses == {"complete", "partial", "passage", "redacted"}
    empty = [
        name
        for name in OWNED
        if not any(read_rows(histories.engine, TABLES[name], each) for each in _conversation_ids(histories))
    ]
    assert not empty


def _conversation_ids(histories: Histories) -> tuple[UUID, ...]:
    return (histories.rich, histories.erased, histories.open)


@pytest.mark.once
@pytest.mark.parametrize("table", [name for name in TABLES if COVERAGE[name].proven])
def test_changed_columns_are_found(histories: Histories, table: str, effort: Effort) -> None:
    """Every change of a proven column in any row is found, and the error names the row. The database may refuse the change."""
    missed, tried = [], 0
    for conversation_id in _conversation_ids(histories):
        ids = [row["id"] for row in read_rows(histories.engine, turn, conversation_id)]
        ofs = _refs_by_turn(histories, conversation_id)
        rows = _relevant_rows(histories, table, conversation_id)
        for row in spread(rows, 4) if effort == "quick" else rows:
            for name in list_proven_columns(TABLES[table], row):
                column = TABLES[table].c[name]
                values = list_other_values(column, row[name], histories.empty, ids)
                for value in values if effort != "quick" else values[tried % (len(values) or 1) :][:1]:
                    error = verify_after(
                        histories.engine, conversation_id, make_update(TABLES[table], row, **{name: value})
                    )
                    tried += error != "refused"
                    said = _find_fault(table, row, error, ofs)
                    if said is not None:
                        missed.append(f"{name} {row[name]!r} -> {value!r}: {said}")
    assert not missed, f"{len(missed)} of {tried}, the first: {missed[:5]}"
    assert tried


def _relevant_rows(histories: Histories, table: str, conversation_id: UUID) -> list[Row]:
    """Return a table's rows, of prompts and their uses those that ended calls of this conversation name."""
    found = read_rows(histories.engine, TABLES[table], conversation_id)
    if table not in ("convokit_prompt", "convokit_prompt_use"):
        return found
    manifests = "".join(
        row["manifest"] for row in read_rows(histories.engine, completion, conversation_id) if row["salt"]
    )
    return [row for row in found if bytes(row["digest"]).hex() in manifests]


@pytest.mark.once
@pytest.mark.parametrize(
    "name", ["message", "completion", "turn", "tool_call", "entry", "prompt", "prompt_use", "blob", "removal"]
)
def test_deleted_rows_are_found(histories: Histories, name: str) -> None:
    """The error names the row."""
    table, missed = TABLES[f"convokit_{name}"], []
    for conversation_id in (histories.rich, histories.erased):
        ofs = _refs_by_turn(histories, conversation_id)
        for row in _relevant_rows(histories, table.name, conversation_id):
            said = _find_fault(
                table.name, row, verify_after(histories.engine, conversation_id, make_deletion(table, row)), ofs
            )
            if said is not None:
                missed.append(f"{row}: {said}")
    assert not missed, f"{len(missed)}, the first: {missed[:3]}"


@pytest.mark.once
def test_inserted_rows_are_found(histories: Histories) -> None:
    """A copy of any row under another key is found."""
    last = read_rows(histories.engine, conversation, histories.rich)[0]
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
        origin = histories.erased if table is removal else histories.rich
        for row in read_rows(histories.engine, table, origin):
            for given in names:
                found = verify_after(histories.engine, origin, make_copy(table, row, **given))
                assert isinstance(found, ChainBroken), (table.name, given, row, found)
    piece = read_rows(histories.engine, chunk, histories.open)[0]
    ended = read_rows(histories.engine, turn, histories.rich)[0]["id"]
    found = verify_after(
        histories.engine, histories.rich, make_copy(chunk, piece, conversation_id=histories.rich, turn_id=ended)
    )
    assert isinstance(found, ChainBroken)
    assert found.ref == f"chunk:{ended}"


@pytest.mark.once
@pytest.mark.parametrize("name", ["message", "completion", "tool_call", "entry", "turn", "blob"])
def test_swapped_rows_are_found(histories: Histories, name: str) -> None:
    """Two rows that exchange all values, with salts and hashes, are found."""
    table = TABLES[f"convokit_{name}"]
    keys = {column.name for column in table.primary_key.columns}
    names = [column.name for column in table.columns if column.name not in keys]
    names = [each for each in names if each not in COVERAGE[table.name].open]
    for conversation_id in (histories.rich, histories.erased):
        found = read_rows(histories.engine, table, conversation_id)
        for one, other in itertools.pairwise(found):
            nothing_left = one.get("salt", b"") is None and other.get("salt", b"") is None
            if nothing_left or all(one[each] == other[each] for each in names):
                continue
            verdict_ = verify_after(histories.engine, conversation_id, make_swap(table, one, other, names))
            assert isinstance(verdict_, ChainBroken), (one, other)


@pytest.mark.once
def test_rows_of_another_conversation_are_found(histories: Histories) -> None:
    """A row that replaces another, with its salt or with its entry as well, is found at that position."""
    there = {row["seq"]: row for row in read_rows(histories.engine, message, histories.open)}
    links = {row["number"]: row for row in read_rows(histories.engine, entry, histories.open)}
    for seq, row in there.items():
        values = {name: value for name, value in row.items() if name != "conversation_id"}
        copied = make_update(message, {"conversation_id": histories.rich, "seq": seq}, **values)
        alone = verify_after(histories.engine, histories.rich, copied)
        assert isinstance(alone, ChainBroken)
        assert (alone.entry, alone.ref) == (seq, str(seq))

        def both(connection: Connection, seq: int = seq, copied: Any = copied) -> None:
            copied(connection)
            link = {name: links[seq][name] for name in ("kind", "ref", "commitment", "hash")}
            make_update(entry, {"conversation_id": histories.rich, "number": seq}, **link)(connection)

        together = verify_after(histories.engine, histories.rich, both)
        assert isinstance(together, ChainBroken)
        assert together.entry == seq
