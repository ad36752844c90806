"""Read turns with their calls, chain entries, binaries, summaries and prompts."""

from __future__ import annotations

import binascii
from collections.abc import Iterable
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow
from convokit.completion.recovery import is_worker_gone
from convokit.completion.start_point import MessageLike, resolve_seq_flow
from convokit.completion.state import (
    ChatRef,
    KitState,
    check_schema_flow,
    find_conversation_flow,
    find_listed_conversation_flow,
)
from convokit.domain.content import BLOB_SCHEME
from convokit.domain.conversation import ConversationRow
from convokit.domain.history import Run
from convokit.domain.ids import MAX_SEQ, parse_id
from convokit.domain.message import SUMMARY
from convokit.domain.paging import MAX_PAGE, validate_limit
from convokit.domain.stored_records import Call, ChainEntry, RequestWindow, StoredBlob, SummaryRecord, TurnRecord
from convokit.domain.stored_request import DIGEST_BYTES, Manifest
from convokit.domain.turn import CallRow, ToolCallRow, Turn, TurnRow
from convokit.errors import InvalidInput, NotFound
from convokit.history.pages import find_gone_workers_flow, read_conversation_flow
from convokit.store import (
    api_calls,
    blobs,
    chain,
    conversations,
    message_tree,
    messages,
    removal_records,
    summaries,
    tool_calls,
    turn_pages,
    turns,
)
from convokit.store.turn_pages import TurnWithCalls

_BLOB_DIGEST_BYTES = 32


def read_turn_flow(kit: KitState, chat: ChatRef, turn: Turn | UUID | str) -> Flow[TurnRecord]:
    """Return a turn with its calls and tool runs. Raises: InvalidInput, NotFound."""
    turn_id = turn.id if isinstance(turn, Turn) else parse_id(turn, "turn")
    conversation = yield from find_conversation_flow(kit, chat)
    row, calls, runs = yield from read_flow(_read_turn, conversation.id, turn_id)
    gone = yield from find_gone_workers_flow(kit, conversation.id, [row])
    return TurnRecord.from_rows(conversation.id, row, calls, runs, worker="gone" if row.id in gone else None)


def find_turn_flow(kit: KitState, turn: Turn | UUID | str) -> Flow[TurnRecord]:
    """Return a turn of any of the tenant's conversations. Raises: InvalidInput, NotFound."""
    turn_id = turn.id if isinstance(turn, Turn) else parse_id(turn, "turn")
    yield from check_schema_flow(kit)
    conversation_id = yield from read_flow(conversations.find_id_by_turn, kit.tenant, turn_id)
    if conversation_id is None:
        raise NotFound("turn", turn_id)
    return (yield from read_turn_flow(kit, ChatRef(id=conversation_id, must_exist=True), turn_id))


def _read_turn(
    connection: Connection, conversation_id: UUID, turn_id: UUID
) -> tuple[TurnRow, list[Call], list[ToolCallRow]]:
    row = turns.find(connection, conversation_id, turn_id)
    if row is None:
        raise NotFound("turn", turn_id)
    calls = api_calls.list_calls(connection, conversation_id, turn_id)
    last_seq = row.reply_seq if row.state == "completed" else None
    runs = tool_calls.list_of_turn(connection, conversation_id, turn_id, row.from_seq, last_seq or MAX_SEQ)
    return row, _make_calls(connection, conversation_id, calls), runs


def _make_calls(connection: Connection, conversation_id: UUID, rows: list[CallRow]) -> list[Call]:
    """Convert calls. The windows of all calls take one statement for their passages and summaries."""
    manifests: list[Manifest | None] = []
    sent: set[int] = set()
    for row in rows:
        try:
            manifest = Manifest.from_json(row.manifest)
            sent.update(manifest.list_seqs(MAX_SEQ))
        except ValueError:  # an altered row may hold anything
            manifests.append(None)
        else:
            manifests.append(manifest)
    apart = messages.list_passages_and_summaries(connection, conversation_id, sorted(sent)) if sent else {}
    summary_seqs = {seq for seq, status in apart.items() if status == SUMMARY}
    windows = [
        None if manifest is None else RequestWindow.from_manifest(manifest, apart.keys() - summary_seqs, summary_seqs)
        for manifest in manifests
    ]
    return [Call.from_row(row, window) for row, window in zip(rows, windows, strict=True)]


def read_turn_records_flow(
    kit: KitState, chat: ChatRef, turns_or_ids: Iterable[Turn | UUID | str]
) -> Flow[list[TurnRecord]]:
    """Return turns with their calls, in the order of their start. Raises: InvalidInput, NotFound."""
    given = [each.id if isinstance(each, Turn) else parse_id(each, "turns") for each in turns_or_ids]
    turn_ids = list(dict.fromkeys(given))
    if len(turn_ids) > MAX_PAGE:
        raise InvalidInput("turns", f"has {len(turn_ids):,} turns; the limit is {MAX_PAGE:,}")

    def read(connection: Connection, conversation: ConversationRow) -> tuple[UUID, list[TurnWithCalls]]:
        found = turn_pages.read_with_calls(connection, conversation.id, turn_ids) if turn_ids else []
        missing = set(turn_ids) - {each.row.id for each in found}
        if missing:
            raise NotFound("turn", min(missing))
        return conversation.id, found

    rows = yield from read_conversation_flow(kit, chat, read, is_listing=False)
    assert rows is not None
    conversation_id, found = rows
    return [make_turn_record(kit, conversation_id, each) for each in found]


def make_turn_record(kit: KitState, conversation_id: UUID, found: TurnWithCalls) -> TurnRecord:
    """Convert a turn and its calls, without the windows of the calls and without tool runs."""
    calls = [Call.from_row(call, None) for call in found.calls]
    is_gone = found.open_turn is not None and is_worker_gone(kit, found.open_turn)
    return TurnRecord.from_rows(conversation_id, found.row, calls, (), worker="gone" if is_gone else None)


def list_removals_flow(kit: KitState, chat: ChatRef, *, limit: int, before: int | None) -> Flow[list[ChainEntry]]:
    """Return the newest redactions and erasures of the conversation, oldest first."""
    validate_limit(limit)
    end = _validate_number("before", before)

    def read(connection: Connection, conversation: ConversationRow) -> list[ChainEntry]:
        found = removal_records.list_page(connection, conversation.id, end, limit)
        return [ChainEntry.from_entry(conversation.id, entry, removal) for entry, removal in found]

    return (yield from read_conversation_flow(kit, chat, read)) or []


def list_runs_flow(kit: KitState, chat: ChatRef, *, limit: int, before: MessageLike | None) -> Flow[list[Run]]:
    """Return the newest runs of the conversation, oldest first."""
    validate_limit(limit)
    end = MAX_SEQ if before is None else (yield from resolve_seq_flow(kit, chat, before))

    def read(connection: Connection, conversation: ConversationRow) -> list[Run]:
        found = message_tree.list_runs(connection, conversation, end, limit)
        last_seqs = [row.seq - 1 for row, _ in found[1:]] + [min(end - 1, conversation.last_seq)]
        return [Run.from_row(row, parent_seq, last) for (row, parent_seq), last in zip(found, last_seqs, strict=False)]

    return (yield from read_conversation_flow(kit, chat, read)) or []


def list_entries_flow(kit: KitState, chat: ChatRef, *, limit: int, before: int | None) -> Flow[list[ChainEntry]]:
    """Return the newest entries of the conversation's hash chain, oldest first."""
    validate_limit(limit)
    end = _validate_number("before", before)
    conversation = yield from find_listed_conversation_flow(kit, chat)
    return [] if conversation is None else (yield from read_flow(_read_entries, conversation.id, end, limit))


def _read_entries(connection: Connection, conversation_id: UUID, before: int, limit: int) -> list[ChainEntry]:
    entries = chain.list_newest(connection, conversation_id, before, limit)
    removals = {}
    if any(entry.kind in ("redaction", "erasure") for entry in entries):
        numbers = (entries[0].number, entries[-1].number)
        removals = {row.number: row for row in removal_records.list_between(connection, conversation_id, *numbers)}
    return [ChainEntry.from_entry(conversation_id, entry, removals.get(entry.number)) for entry in entries]


def read_blob_flow(kit: KitState, chat: ChatRef, digest: str) -> Flow[StoredBlob]:
    """Return a binary of the conversation. Raises: InvalidInput, NotFound."""
    text = digest.removeprefix(BLOB_SCHEME) if isinstance(digest, str) else digest
    wanted = _parse_digest(text, _BLOB_DIGEST_BYTES, "`blob:<sha256>` from a part of a message")
    conversation = yield from find_conversation_flow(kit, chat)
    found = yield from read_flow(blobs.read_blobs, conversation.id, [wanted])
    if wanted not in found:
        raise NotFound("binary", wanted.hex(), "it is not of this conversation, or its message was redacted")
    return StoredBlob.from_blob(found[wanted])


def list_summaries_flow(kit: KitState, chat: ChatRef, *, limit: int, before: int | None) -> Flow[list[SummaryRecord]]:
    """Return the newest rolling summaries of all paths, oldest first."""
    validate_limit(limit)
    end = _validate_number("before", before)
    conversation = yield from find_listed_conversation_flow(kit, chat)
    return [] if conversation is None else (yield from read_flow(_read_summaries, conversation.id, end, limit))


def _read_summaries(connection: Connection, conversation_id: UUID, before: int, limit: int) -> list[SummaryRecord]:
    rows = summaries.list_newest(connection, conversation_id, before, limit)
    found = messages.read_many(connection, conversation_id, [row.message_seq for row in rows]) if rows else []
    by_seq = {row.seq: row for row in found}
    return [
        SummaryRecord.from_row(conversation_id, row, by_seq[row.message_seq])
        for row in rows
        if row.message_seq in by_seq
    ]


def read_prompt_flow(kit: KitState, digest: str) -> Flow[str]:
    """Return a developer prompt or tool set of the tenant. Raises: InvalidInput, NotFound."""
    wanted = _parse_digest(digest, DIGEST_BYTES, "the `prompt` or `tools` of a call's window")
    yield from check_schema_flow(kit)
    found = yield from read_flow(blobs.find_prompt, kit.tenant, wanted)
    if found is None:
        raise NotFound("prompt", wanted.hex(), "no request of this tenant refers to it any more")
    return found


def _parse_digest(digest: object, size: int, source: str) -> bytes:
    try:
        found = binascii.unhexlify(digest) if isinstance(digest, str) else b""
    except ValueError:
        found = b""
    if len(found) != size:
        raise InvalidInput("digest", f"must be {source} ({2 * size} hexadecimal digits), not {digest!r}")
    return found


def _validate_number(name: str, number: object) -> int:
    """Return the number that a page ends before. Raises: InvalidInput."""
    if number is None:
        return MAX_SEQ
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= MAX_SEQ:
        raise InvalidInput(name, f"must be the `number` of an item, not {number!r}")
    return number
