"""Read, empty and delete the rows that hold removed text.

Only this module changes rows that are otherwise immutable. The caller writes the removal row and the chain entry in the same
transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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

# A redacted row loses these columns.
_TEXT_COLUMNS = ("content", "parts", "tool_calls", "name", "refusal", "extra", "kind", "item", "salt")
# These manifest keys hold a user's text or an unsalted digest of it.
_TEXT_KEYS = ("params", "prompt", "tools")
_BLANK_MESSAGES = (
    update(message)
    .where(message.c.conversation_id == bindparam("b_id"), message.c.status != "redacted")
    .values(
        status="redacted",
        # `path_tokens` never includes passages and summaries; a count of 0 marks such a row once its status is gone.
        tokens=case((message.c.status.in_((PASSAGE, SUMMARY)), 0), else_=message.c.tokens),
        **dict.fromkeys(_TEXT_COLUMNS),
    )
)
_QUESTION_SEQ = select(turns.c.question_seq).where(
    turns.c.conversation_id == bindparam("id"), turns.c.id == bindparam("turn")
)
_CALLS = (
    select(
        completion.c.turn_id,
        completion.c.number,
        completion.c.manifest,
        completion.c.body_salt.is_not(None).label("has_body_salt"),
        completion.c.error.is_not(None).label("has_error"),
        or_(completion.c.details.is_not(None), completion.c.error.is_not(None)).label("has_details"),
    )
    .join(turns, (turns.c.conversation_id == bindparam("id")) & (turns.c.id == completion.c.turn_id))
    .where(
        completion.c.conversation_id == bindparam("id"),
        func.coalesce(turns.c.after_seq, turns.c.question_seq) >= bindparam("first"),
    )
    .order_by(completion.c.turn_id, completion.c.number)
    .limit(PAGE)
)
_ONE_CALL = (
    completion.c.conversation_id == bindparam("b_id"),
    completion.c.turn_id == bindparam("b_turn"),
    completion.c.number == bindparam("b_number"),
)
_CLEAR_BODY_SALT = update(completion).where(*_ONE_CALL).values(body_salt=None)
_CLEAR_DETAILS = update(completion).where(*_ONE_CALL).values(details=None, error=None, salt=None)
_STRIP_MANIFEST = update(completion).where(*_ONE_CALL).values(manifest=bindparam("new_manifest"))
_HAS_TEXT = {
    "message": or_(
        message.c.status != "redacted", *(message.c[name].is_not(None) for name in _TEXT_COLUMNS if name != "salt")
    ),
    "completion": or_(completion.c.details.is_not(None), completion.c.error.is_not(None)),
    "turn": or_(turns.c.error.is_not(None), turns.c.metadata.is_not(None)),
    "tool_call": or_(tool_call.c.name != "", tool_call.c.error.is_not(None)),
}
CallKey = tuple[UUID, int]
"""The turn and the number of an API call."""


def list_open_branches(connection: Connection, conversation_id: UUID) -> list[int]:
    """Return the numbers of the branches with an open turn."""
    query = select(turns.c.claim).where(turns.c.conversation_id == conversation_id, turns.c.claim.is_not(None))
    return [int(claim or 0) for claim in connection.execute(query).scalars()]


def find_question_seq(connection: Connection, conversation_id: UUID, turn_id: UUID) -> int | None:
    values = {"id": conversation_id, "turn": turn_id}
    seq: int | None = connection.execute(_QUESTION_SEQ, values).scalar_one_or_none()
    return seq


def read_call_pages(connection: Connection, conversation_id: UUID, first_seq: int) -> Iterator[Sequence[Any]]:
    """Yield pages of the API calls of turns that started behind a message with a seq of at least `first_seq`.

    A row has `turn_id`, `number`, `manifest`, `has_body_salt`, `has_error` and `has_details` (details or an error).
    """
    query = _CALLS
    while rows := connection.execute(query, {"id": conversation_id, "first": first_seq}).all():
        yield rows
        query = _CALLS.where(tuple_(completion.c.turn_id, completion.c.number) > tuple(rows[-1][:2]))


def find_summaries_over(connection: Connection, conversation_id: UUID, seq: int) -> list[tuple[int, int]]:
    """Return the number and message seq of each summary that covers a message."""
    query = select(summary.c.number, summary.c.message_seq).where(
        summary.c.conversation_id == conversation_id, summary.c.from_seq <= seq, summary.c.to_seq >= seq
    )
    return [(row[0], row[1]) for row in connection.execute(query)]


def find_unused_blobs(
    connection: Connection, conversation_id: UUID, digests: Collection[bytes], removed_seqs: Collection[int]
) -> list[bytes]:
    """Return the binaries that only the removed messages refer to."""

    def refers_to(digest: bytes) -> ColumnElement[bool]:
        reference = f"blob:{digest.hex()}"
        return or_(message.c.parts.contains(reference), message.c.extra.contains(reference))

    others = select(message.c.seq).where(
        message.c.conversation_id == conversation_id, message.c.seq.not_in(removed_seqs)
    )
    return [
        digest for digest in digests if connection.execute(others.where(refers_to(digest)).limit(1)).first() is None
    ]


def delete_summaries(connection: Connection, conversation_id: UUID, numbers: Collection[int]) -> None:
    if numbers:
        keys = (summary.c.conversation_id == conversation_id, summary.c.number.in_(numbers))
        connection.execute(delete(summary).where(*keys))


def delete_blobs(connection: Connection, conversation_id: UUID, digests: Collection[bytes]) -> None:
    if digests:
        keys = (blob.c.conversation_id == conversation_id, blob.c.digest.in_(digests))
        connection.execute(delete(blob).where(*keys))


def blank_messages(connection: Connection, conversation_id: UUID, seqs: Collection[int] | None) -> None:
    """Turn messages (all with None) into redacted rows without text."""
    statement = _BLANK_MESSAGES if seqs is None else _BLANK_MESSAGES.where(message.c.seq.in_(seqs))
    connection.execute(statement, {"b_id": conversation_id})


def clear_body_salts(connection: Connection, conversation_id: UUID, calls: Sequence[CallKey]) -> None:
    """Delete the salts of the request body digests, so that nobody can guess short text from a digest."""
    _update_calls(connection, _CLEAR_BODY_SALT, conversation_id, calls)


def clear_call_details(connection: Connection, conversation_id: UUID, calls: Sequence[CallKey]) -> None:
    """Delete the error and details of API calls, and the salt of their chain entries."""
    _update_calls(connection, _CLEAR_DETAILS, conversation_id, calls)


def _update_calls(connection: Connection, statement: Any, conversation_id: UUID, calls: Sequence[CallKey]) -> None:
    if calls:
        values = [{"b_id": conversation_id, "b_turn": turn_id, "b_number": number} for turn_id, number in calls]
        connection.execute(statement, values)


def strip_manifests(connection: Connection, conversation_id: UUID, calls: Sequence[Any]) -> None:
    """Delete the user's text from the manifests of rows of `read_call_pages`. The seqs that were sent stay."""
    values = []
    for call in calls:
        manifest = json.loads(call.manifest)
        stripped = {name: value for name, value in manifest.items() if name not in _TEXT_KEYS}
        if stripped != manifest:
            text = json.dumps(stripped, ensure_ascii=False, separators=(",", ":"))
            key = {"b_id": conversation_id, "b_turn": call.turn_id, "b_number": call.number}
            values.append({**key, "new_manifest": text})
    if values:
        connection.execute(_STRIP_MANIFEST, values)


def count_related_rows(
    connection: Connection,
    conversation_id: UUID,
    seqs: Collection[int],
    turn_ids: Collection[UUID],
    question_turn_ids: Collection[UUID],
) -> dict[str, int]:
    """Return, by table, how many other rows lose text when messages are redacted.

    The messages `seqs` belong to the turns `turn_ids`. The questions of the turns `question_turn_ids` are among them.
    """
    rules = {
        "chunk": (chunk, chunk.c.turn_id.in_(turn_ids)),
        "tool_call": (tool_call, and_(tool_call.c.message_seq.in_(seqs), _HAS_TEXT["tool_call"])),
        "turn": (turns, and_(turns.c.id.in_(turn_ids), _HAS_TEXT["turn"])),
        "salt": (turns, and_(turns.c.id.in_(question_turn_ids), turns.c.fingerprint_salt.is_not(None))),
    }
    return _count_rows(connection, conversation_id, rules)


def clear_related_rows(
    connection: Connection,
    conversation_id: UUID,
    seqs: Collection[int],
    turn_ids: Collection[UUID],
    question_turn_ids: Collection[UUID],
    error_turn_ids: Collection[UUID],
) -> None:
    """Clear the rows that `count_related_rows` counts, and the errors of the turns `error_turn_ids`."""
    of_conversation = turns.c.conversation_id == conversation_id
    connection.execute(delete(chunk).where(chunk.c.conversation_id == conversation_id, chunk.c.turn_id.in_(turn_ids)))
    of_messages = (tool_call.c.conversation_id == conversation_id, tool_call.c.message_seq.in_(seqs))
    connection.execute(update(tool_call).where(*of_messages).values(name="", error=None))
    clear_error = update(turns).where(of_conversation, turns.c.id == bindparam("b_turn")).values(error=None)
    if error_turn_ids:
        connection.execute(clear_error, [{"b_turn": turn_id} for turn_id in error_turn_ids])
    of_questions = turns.c.id.in_(question_turn_ids)
    connection.execute(update(turns).where(of_conversation, of_questions).values(fingerprint_salt=None))
    connection.execute(update(turns).where(of_conversation, turns.c.id.in_(turn_ids)).values(metadata=None))


def count_conversation_rows(connection: Connection, conversation_id: UUID) -> dict[str, int]:
    """Return, by table, how many rows `clear_conversation` empties or deletes."""
    rules: dict[str, tuple[Table[Any], ColumnElement[bool]]] = {
        "message": (message, message.c.status != "redacted"),
        "completion": (completion, _HAS_TEXT["completion"]),
        "salt": (completion, completion.c.body_salt.is_not(None)),
        "fingerprint": (turns, turns.c.fingerprint_salt.is_not(None)),
        "turn": (turns, _HAS_TEXT["turn"]),
        "tool_call": (tool_call, _HAS_TEXT["tool_call"]),
        **{name: (table, true()) for name, table in (("chunk", chunk), ("blob", blob), ("summary", summary))},
    }
    counts = _count_rows(connection, conversation_id, rules)
    counts["salt"] += counts.pop("fingerprint")
    return counts


def _count_rows(
    connection: Connection, conversation_id: UUID, rules: Mapping[str, tuple[Table[Any], ColumnElement[bool]]]
) -> dict[str, int]:
    columns = [
        select(func.count())
        .select_from(table)
        .where(table.c.conversation_id == conversation_id, rule)
        .scalar_subquery()
        .label(name)
        for name, (table, rule) in rules.items()
    ]
    return {name: int(count) for name, count in connection.execute(select(*columns)).one()._mapping.items()}


def clear_conversation(connection: Connection, conversation_id: UUID) -> None:
    """Empty or delete every row of a conversation except its chain entries and removals.

    The caller clears the manifests with `strip_manifests`, and the conversation's description and pins.
    """
    of = {table: table.c.conversation_id == conversation_id for table in (completion, turns, tool_call, branch)}
    blank_messages(connection, conversation_id, None)
    no_details = dict.fromkeys(("details", "error", "salt", "body_salt"))
    connection.execute(update(completion).where(of[completion]).values(no_details))
    connection.execute(
        update(turns).where(of[turns]).values(error=None, fingerprint_salt=None, owner=None, metadata=None)
    )
    connection.execute(update(tool_call).where(of[tool_call]).values(name="", error=None))
    connection.execute(update(branch).where(of[branch]).values(name=None, head_seq=None))
    connection.execute(update(conversation).where(conversation.c.id == conversation_id).values(head_seq=None))
    for table in (chunk, blob, summary):
        connection.execute(delete(table).where(table.c.conversation_id == conversation_id))


def count_remaining(connection: Connection, conversation_id: UUID, seqs: Collection[int] | None) -> int:
    """Return how many rows still hold text of these messages (of the whole conversation with None)."""
    query = select(func.count()).select_from(message).where(message.c.conversation_id == conversation_id)
    query = query.where(_HAS_TEXT["message"])
    if seqs is not None:
        return int(connection.execute(query.where(message.c.seq.in_(seqs))).scalar_one())
    others = count_conversation_rows(connection, conversation_id)
    return int(connection.execute(query).scalar_one()) + sum(others.values())


@dataclass(frozen=True, slots=True)
class ConversationFilter:
    """Selects conversations of one tenant, either the erased ones or the others."""

    erased: bool
    subject: str | None = None
    unused_since: int | None = None
    """Microseconds since 1970: only conversations whose last change is older. None: any age."""


def list_matching(
    connection: Connection, tenant: str, which: ConversationFilter, *, after: tuple[int, UUID] | None, limit: int
) -> list[tuple[int, UUID]]:
    """Return `updated_at` and id of the conversations that match, longest unused first.

    `after` is the last item of the page before.
    """
    query = _select_matching(tenant, which)
    cursor = (conversation.c.updated_at, conversation.c.id)
    if after is not None:
        query = query.where(tuple_(*cursor) > after)
    rows: Any = connection.execute(query.with_only_columns(*cursor).order_by(*cursor).limit(limit))
    return [(updated_at, conversation_id) for updated_at, conversation_id in rows]


def count_matching(connection: Connection, tenant: str, which: ConversationFilter) -> int:
    query = _select_matching(tenant, which)
    return int(connection.execute(query.with_only_columns(func.count())).scalar_one())


def _select_matching(tenant: str, which: ConversationFilter) -> Any:
    # A conversation is erased while an erasure is its last chain entry: a later turn makes it a living one again.
    ends_with_erasure = (
        select(removal.c.number)
        .where(
            removal.c.conversation_id == conversation.c.id,
            removal.c.number == conversation.c.last_entry,
            removal.c.ref == EVERYTHING,
        )
        .exists()
    )
    # A title that was given after the erasure is a text that another erasure has to find, and no purge deletes.
    is_bare = and_(*(conversation.c[name].is_(None) for name in ("subject", "title", "metadata")))
    is_erased = and_(ends_with_erasure, is_bare)
    query = select(conversation.c.id).where(conversation.c.tenant == tenant, is_erased if which.erased else ~is_erased)
    if which.subject is not None:
        query = query.where(conversation.c.subject == which.subject)
    return query if which.unused_since is None else query.where(conversation.c.updated_at < which.unused_since)


def delete_conversation(connection: Connection, tenant: str, conversation_id: UUID) -> bool:
    """Delete a conversation's row. Foreign keys delete all rows below it. Return False when there is no such row."""
    keys = (conversation.c.id == conversation_id, conversation.c.tenant == tenant)
    return connection.execute(delete(conversation).where(*keys)).rowcount == 1
