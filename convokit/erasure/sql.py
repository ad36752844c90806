"""Removing text from rows that stay: tombstones, and the removals that say who did it and why.

What is written here changes rows that are immutable otherwise; nothing else does. A removal's row and the chain's entry for it
come in the same transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    true,
    tuple_,
    update,
)

from convokit.domain.message import PASSAGE, SUMMARY
from convokit.domain.removal import EVERYTHING
from convokit.store.removal_records import PAGE
from convokit.store.schema import blob, branch, chunk, completion, conversation, message, removal, summary, tool_call
from convokit.store.schema import turn as turns

_WORDS = ("content", "parts", "tool_calls", "name", "refusal", "extra", "salt")
"""What a tombstone has lost."""
_NOT_FROM_PARAMS = ("params", "prompt", "tools")
"""What a manifest holds that may be somebody's words, or the unsalted digest of them."""
_TOMBSTONE = (
    update(message)
    .where(message.c.conversation_id == bindparam("b_id"), message.c.status != "redacted")
    .values(
        status="redacted",
        tokens=case((message.c.status.in_((PASSAGE, SUMMARY)), 0), else_=message.c.tokens),  # no path counted them
        **dict.fromkeys(_WORDS),
    )
)
_FIRST_QUESTION = select(turns.c.question_seq).where(
    turns.c.conversation_id == bindparam("id"), turns.c.id == bindparam("turn")
)
_CALLS = (
    select(
        completion.c.turn_id,
        completion.c.number,
        completion.c.manifest,
        completion.c.body_salt.is_not(None).label("salted"),
        completion.c.error.is_not(None).label("failed"),
        or_(completion.c.details.is_not(None), completion.c.error.is_not(None)).label("told"),
    )
    .join(turns, (turns.c.conversation_id == completion.c.conversation_id) & (turns.c.id == completion.c.turn_id))
    .where(completion.c.conversation_id == bindparam("id"), turns.c.question_seq >= bindparam("first"))
    .order_by(completion.c.turn_id, completion.c.number)
    .limit(PAGE)
)
_ONE_CALL = (
    completion.c.conversation_id == bindparam("b_id"),
    completion.c.turn_id == bindparam("b_turn"),
    completion.c.number == bindparam("b_number"),
)
_UNSALT = update(completion).where(*_ONE_CALL).values(body_salt=None)
_STRIP = update(completion).where(*_ONE_CALL).values(details=None, error=None, salt=None)
_BARE = update(completion).where(*_ONE_CALL).values(manifest=bindparam("new_manifest"))
_SAYS_MORE = {
    "message": or_(
        message.c.status != "redacted", *(message.c[name].is_not(None) for name in _WORDS if name != "salt")
    ),
    "completion": or_(completion.c.details.is_not(None), completion.c.error.is_not(None)),
    "turn": turns.c.error.is_not(None),
    "tool_call": or_(tool_call.c.name != "", tool_call.c.error.is_not(None)),
}


def open_branches(connection: Connection, conversation_id: UUID) -> list[int]:
    """Return the branches on which a turn is open."""
    query = select(turns.c.claim).where(turns.c.conversation_id == conversation_id, turns.c.claim.is_not(None))
    return [int(found or 0) for found in connection.execute(query).scalars()]


def first_question(connection: Connection, conversation_id: UUID, turn_id: UUID) -> int | None:
    """Return the seq of a turn's question."""
    found: int | None = connection.execute(
        _FIRST_QUESTION, {"id": conversation_id, "turn": turn_id}
    ).scalar_one_or_none()
    return found


def calls(connection: Connection, conversation_id: UUID, first: int) -> Iterator[Any]:
    """Yield the API calls of the turns whose question is `first` or later: turn_id, number, manifest, salted, failed, told."""
    query = _CALLS
    while rows := connection.execute(query, {"id": conversation_id, "first": first}).all():
        yield from rows
        query = _CALLS.where(tuple_(completion.c.turn_id, completion.c.number) > tuple(rows[-1][:2]))


def summaries_over(connection: Connection, conversation_id: UUID, seq: int) -> list[tuple[int, int]]:
    """Return number and message of the summaries that a message went into."""
    query = select(summary.c.number, summary.c.message_seq).where(
        summary.c.conversation_id == conversation_id, summary.c.from_seq <= seq, summary.c.to_seq >= seq
    )
    return [(row[0], row[1]) for row in connection.execute(query)]


def drop_summaries(connection: Connection, conversation_id: UUID, numbers: Collection[int]) -> None:
    """Delete summaries whose messages were emptied."""
    if numbers:
        mine = (summary.c.conversation_id == conversation_id, summary.c.number.in_(numbers))
        connection.execute(delete(summary).where(*mine))


def entomb(connection: Connection, conversation_id: UUID, seqs: Collection[int] | None) -> int:
    """Empty messages (all with None), leaving tombstones. Return how many still held something."""
    statement = _TOMBSTONE if seqs is None else _TOMBSTONE.where(message.c.seq.in_(seqs))
    return int(connection.execute(statement, {"b_id": conversation_id}).rowcount)


def unsalt(connection: Connection, conversation_id: UUID, found: Sequence[tuple[UUID, int]]) -> None:
    """Delete the salts of these calls' body digests."""
    _each(connection, _UNSALT, conversation_id, found)


def strip(connection: Connection, conversation_id: UUID, found: Sequence[tuple[UUID, int]]) -> None:
    """Delete what these calls' servers said beyond the reply, and the salt that the row was entered with."""
    _each(connection, _STRIP, conversation_id, found)


def _each(connection: Connection, statement: Any, conversation_id: UUID, found: Sequence[tuple[UUID, int]]) -> None:
    if found:
        connection.execute(
            statement, [{"b_id": conversation_id, "b_turn": turn_id, "b_number": number} for turn_id, number in found]
        )


def counts_beside(
    connection: Connection,
    conversation_id: UUID,
    seqs: Collection[int],
    turn_ids: Collection[UUID],
    asking: Collection[UUID],
) -> dict[str, int]:
    """Return how many rows of other tables go with messages: of the turns they belong to, and of those that they asked."""
    rules = {
        "chunk": (chunk, chunk.c.turn_id.in_(turn_ids)),
        "tool_call": (tool_call, and_(tool_call.c.message_seq.in_(seqs), _SAYS_MORE["tool_call"])),
        "turn": (turns, and_(turns.c.id.in_(turn_ids), _SAYS_MORE["turn"])),
        "salt": (turns, and_(turns.c.id.in_(asking), turns.c.fingerprint_salt.is_not(None))),
    }
    return _counted(connection, conversation_id, rules)


def _counted(
    connection: Connection, conversation_id: UUID, rules: Mapping[str, tuple[Table[Any], ColumnElement[bool]]]
) -> dict[str, int]:
    query = [
        select(func.count())
        .select_from(table)
        .where(table.c.conversation_id == conversation_id, rule)
        .scalar_subquery()
        .label(name)
        for name, (table, rule) in rules.items()
    ]
    return {name: int(count) for name, count in connection.execute(select(*query)).one()._mapping.items()}


def quiet(
    connection: Connection,
    conversation_id: UUID,
    seqs: Collection[int],
    turn_ids: Collection[UUID],
    asking: Collection[UUID],
    failing: Collection[UUID],
) -> None:
    """Remove what `counts_beside` counts, and the errors that the turns `failing` ended with."""
    mine = turns.c.conversation_id == conversation_id
    connection.execute(delete(chunk).where(chunk.c.conversation_id == conversation_id, chunk.c.turn_id.in_(turn_ids)))
    asked = (tool_call.c.conversation_id == conversation_id, tool_call.c.message_seq.in_(seqs))
    connection.execute(update(tool_call).where(*asked).values(name="", error=None))
    quieted = update(turns).where(mine, turns.c.id == bindparam("b_turn")).values(error=None)
    if failing:
        connection.execute(quieted, [{"b_turn": turn_id} for turn_id in failing])
    connection.execute(update(turns).where(mine, turns.c.id.in_(asking)).values(fingerprint_salt=None))


def unused(
    connection: Connection, conversation_id: UUID, digests: Collection[bytes], but: Collection[int]
) -> list[bytes]:
    """Return those binaries that no message refers to, `but` these."""

    def refers(digest: bytes) -> ColumnElement[bool]:
        named = f"blob:{digest.hex()}"
        return or_(message.c.parts.contains(named), message.c.extra.contains(named))

    others = select(message.c.seq).where(message.c.conversation_id == conversation_id, message.c.seq.not_in(but))
    return [each for each in digests if connection.execute(others.where(refers(each)).limit(1)).first() is None]


def drop_blobs(connection: Connection, conversation_id: UUID, digests: Collection[bytes]) -> int:
    """Delete binaries."""
    if not digests:
        return 0
    mine = (blob.c.conversation_id == conversation_id, blob.c.digest.in_(digests))
    return int(connection.execute(delete(blob).where(*mine)).rowcount)


def counts(connection: Connection, conversation_id: UUID) -> dict[str, int]:
    """Return how many rows of each table an erasure of the conversation empties or deletes."""
    rules: dict[str, tuple[Table[Any], ColumnElement[bool]]] = {
        "message": (message, message.c.status != "redacted"),
        "completion": (completion, _SAYS_MORE["completion"]),
        "salt": (completion, completion.c.body_salt.is_not(None)),
        "fingerprint": (turns, turns.c.fingerprint_salt.is_not(None)),
        "turn": (turns, _SAYS_MORE["turn"]),
        "tool_call": (tool_call, _SAYS_MORE["tool_call"]),
        **{name: (table, true()) for name, table in (("chunk", chunk), ("blob", blob), ("summary", summary))},
    }
    found = _counted(connection, conversation_id, rules)
    found["salt"] += found.pop("fingerprint")
    return found


def erase(connection: Connection, conversation_id: UUID) -> None:
    """Empty every row of a conversation but its own, its entries and its removals. Its manifests are `bare`d apart."""
    mine = {table: table.c.conversation_id == conversation_id for table in (completion, turns, tool_call, branch)}
    entomb(connection, conversation_id, None)
    nothing = dict.fromkeys(("details", "error", "salt", "body_salt"))
    connection.execute(update(completion).where(mine[completion]).values(nothing))
    connection.execute(update(turns).where(mine[turns]).values(error=None, fingerprint_salt=None, owner=None))
    connection.execute(update(tool_call).where(mine[tool_call]).values(name="", error=None))
    connection.execute(update(branch).where(mine[branch]).values(name=None, head_seq=None))
    connection.execute(update(conversation).where(conversation.c.id == conversation_id).values(head_seq=None))
    for table in (chunk, blob, summary):
        connection.execute(delete(table).where(table.c.conversation_id == conversation_id))


def bare(connection: Connection, conversation_id: UUID, found: Sequence[tuple[UUID, int, str]]) -> None:
    """Take out of manifests what may be somebody's words; which messages were sent stays."""
    values = []
    for turn_id, number, manifest in found:
        said = json.loads(manifest)
        kept = {name: value for name, value in said.items() if name not in _NOT_FROM_PARAMS}
        if kept != said:
            text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
            values.append({"b_id": conversation_id, "b_turn": turn_id, "b_number": number, "new_manifest": text})
    if values:
        connection.execute(_BARE, values)


def remaining(connection: Connection, conversation_id: UUID, seqs: Collection[int] | None) -> int:
    """Return how many rows still hold something of these messages, or of the whole conversation with None."""
    query = select(func.count()).select_from(message).where(message.c.conversation_id == conversation_id)
    query = query.where(_SAYS_MORE["message"])
    if seqs is not None:
        return int(connection.execute(query.where(message.c.seq.in_(seqs))).scalar_one())
    return int(connection.execute(query).scalar_one()) + sum(counts(connection, conversation_id).values())


def selected(
    connection: Connection,
    tenant: str,
    *,
    subject: str | None,
    before: int | None,
    erased: bool,
    after: tuple[int, UUID] | None,
    limit: int,
) -> list[tuple[int, UUID]]:
    """Return the tenant's conversations of a subject, last used before a time, erased or not: the longest unused first."""
    query = _selected(tenant, subject=subject, before=before, erased=erased)
    place = (conversation.c.updated_at, conversation.c.id)
    if after is not None:
        query = query.where(tuple_(*place) > after)
    rows: Any = connection.execute(query.with_only_columns(*place).order_by(*place).limit(limit))
    return [(updated_at, conversation_id) for updated_at, conversation_id in rows]


def count_selected(
    connection: Connection, tenant: str, *, subject: str | None, before: int | None, erased: bool
) -> int:
    """Return how many conversations `selected` will find."""
    query = _selected(tenant, subject=subject, before=before, erased=erased)
    return int(connection.execute(query.with_only_columns(func.count())).scalar_one())


def _selected(tenant: str, *, subject: str | None, before: int | None, erased: bool) -> Any:
    its_last = (
        select(removal.c.number)
        .where(
            removal.c.conversation_id == conversation.c.id,
            removal.c.number == conversation.c.last_entry,
            removal.c.ref == EVERYTHING,
        )
        .exists()
    )
    query = select(conversation.c.id).where(conversation.c.tenant == tenant, its_last if erased else ~its_last)
    if subject is not None:
        query = query.where(conversation.c.subject == subject)
    return query if before is None else query.where(conversation.c.updated_at < before)


def purge(connection: Connection, tenant: str, conversation_id: UUID) -> bool:
    """Delete a conversation's row, and with it every row below it."""
    mine = (conversation.c.id == conversation_id, conversation.c.tenant == tenant)
    return connection.execute(delete(conversation).where(*mine)).rowcount == 1
