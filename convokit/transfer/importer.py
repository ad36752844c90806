"""Conversations from other kinds of file: their messages become rows, counted, placed and entered into a chain of their own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from convokit.domain import hashchain as chains
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow
from convokit.domain.text import dump_json
from convokit.errors import BadRecord, ConversationExists, InvalidInput
from convokit.store import blobs
from convokit.tokens.counter import Counter, count_message
from convokit.transfer import sql
from convokit.transfer.models import Draft, Incoming, Place, Written
from convokit.transfer.reader import Source
from convokit.transfer.restore import is_there, taken

Values = Iterator[tuple[int, Any]]
"""The records of a file, each with the line it begins in; a `BadRecord` in place of one that cannot be read."""


class Foreign:
    """One import. `take` reads a record and makes its rows, `write` is run in a writing transaction."""

    def __init__(
        self,
        source: Source,
        values: Callable[[Source], Values],
        converted: Callable[[Any], Incoming],
        counter: Counter,
    ) -> None:
        self._source = source
        self._read = values
        self._converted = converted
        self._counter = counter
        self._values: Values
        self._place: Place
        self._line = 0
        self._row: ConversationRow
        self._messages: list[MessageRow]
        self._incoming: Incoming

    def begin(self, place: Place) -> None:
        """Open the file. Raises: TransferFailed."""
        self._place = place
        self._source.open()
        self._values = self._read(self._source)

    def damage(self) -> BadRecord | None:
        """Return nothing: such a file does not say how long it is."""
        return None

    def take(self) -> bool:
        """Read the next record; False at the file's end. Raises: BadRecord."""
        found = next(self._values, None)
        if found is None:
            return False
        self._line, value = found
        if isinstance(value, BadRecord):
            raise value
        try:
            self._incoming = self._converted(value)
        except InvalidInput as error:
            raise self._source.bad(str(error), self._line) from None
        except RecursionError:
            raise self._source.bad("is nested too deeply", self._line) from None
        self._messages = _rows(self._incoming, self._counter, self._place.at)
        self._row = _conversation(self._incoming, self._place, self._messages)
        return True

    def write(self, connection: Connection) -> Written:
        """Write the conversation that was taken. Raises: ConversationExists, and nothing of it stays."""
        row, ref = self._row, self._incoming.origin
        found = is_there(connection, row, ref)
        if found:
            return Written(None)
        entries = _entries(row.id, ref, self._messages)
        row.last_entry, row.chain_hash = entries[-1].number, entries[-1].hash
        try:
            if found is False:
                raise ConversationExists(self._source.name, taken(row), self._line)
            sql.create(connection, row)
        except IntegrityError:
            raise ConversationExists(self._source.name, taken(row), self._line) from None
        for first in range(0, len(self._messages), sql.PAGE):
            sql.add_messages(connection, row.id, self._messages[first : first + sql.PAGE])
        for first in range(0, len(entries), sql.PAGE):
            sql.add_entries(connection, row.id, entries[first : first + sql.PAGE])
        blobs.insert_blobs(connection, row.id, list(self._incoming.blobs.values()))
        return Written(len(self._messages))

    def reached(self) -> tuple[int, int | None]:
        """Return how much of the file is read, and how much there is."""
        return self._source.done, self._source.size

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()


def _conversation(incoming: Incoming, place: Place, rows: list[MessageRow]) -> ConversationRow:
    id_ = place.conversation_id(incoming.key, incoming.origin)
    created = incoming.created_at if incoming.created_at is not None else place.at
    settings = None
    if incoming.developer_prompt is not None:
        settings = json.dumps({"developer_prompt": incoming.developer_prompt}, ensure_ascii=False)
    return ConversationRow(
        id=id_,
        tenant=place.tenant,
        key=incoming.key,
        subject=incoming.subject,
        title=incoming.title,
        metadata=incoming.metadata,
        settings=settings,
        head_seq=None if incoming.head is None else rows[incoming.head].seq,
        last_seq=len(rows),
        last_entry=0,
        chain_hash=chains.genesis_hash(id_),
        created_at=created,
        updated_at=max(created, incoming.updated_at or created, *(row.created_at for row in rows)),
        archived_at=None,
    )


def _rows(incoming: Incoming, counter: Counter, at: int) -> list[MessageRow]:
    """Return the drafts as rows: a message's place is its number among them."""
    rows: list[MessageRow] = []
    for seq, draft in enumerate(incoming.drafts, 1):
        parent = None if draft.parent is None else rows[draft.parent]
        tokens = count_message(counter, draft.shape())
        rows.append(
            MessageRow(
                seq=seq,
                parent_seq=None if parent is None else parent.seq,
                run_start_seq=parent.run_start_seq if parent is not None and parent.seq == seq - 1 else seq,
                turn_id=None,
                role=draft.role,
                status="complete",
                tokens=tokens,
                counter=counter.name,
                path_tokens=tokens + (0 if parent is None else parent.path_tokens),
                created_at=_time(draft, incoming, at),
                content=draft.content,
                parts=None if draft.parts is None else dump_json(draft.parts),
                tool_calls=None if draft.tool_calls is None else dump_json(draft.tool_calls),
                tool_call_id=draft.tool_call_id,
                name=draft.name,
                refusal=draft.refusal,
                salt=chains.new_salt(),
            )
        )
    return rows


def _time(draft: Draft, incoming: Incoming, at: int) -> int:
    return next(each for each in (draft.created_at, incoming.created_at, at) if each is not None)


def _entries(conversation_id: UUID, ref: str, rows: list[MessageRow]) -> list[chains.Entry]:
    first = chains.HashInput("import", ref, chains.compute_commitment(b"", [ref]))
    return chains.extend_chain(0, chains.genesis_hash(conversation_id), [first, *(row.hash_input() for row in rows)])
