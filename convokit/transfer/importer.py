"""Import conversations from the files of other programs.

A `FormatReader` converts each record into a draft. The importer counts its tokens, numbers its messages and builds its chain.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter as Tally
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from sqlalchemy import Connection

from convokit.context.message_draft import MessageDraft
from convokit.domain import hashchain
from convokit.domain.conversation import ConversationRow
from convokit.domain.message import MessageRow, place_rows
from convokit.errors import BadRecord, InvalidInput
from convokit.settings import Limits
from convokit.store import blobs, chain, messages
from convokit.tokens.counter import Counter
from convokit.transfer import sql
from convokit.transfer.drafts import ConversationDraft, validate_label
from convokit.transfer.import_file import ImportFile
from convokit.transfer.models import ImportTarget, RecordResult

# The first line of a record, and its JSON value: or a `BadRecord` if it cannot be read.
Record = tuple[int, Any]


class ImportOptions:
    """The options of one import.

    Without `trusted`, a conversation gets no instructions and no subject of the file. Its key is `key`, or `prefix` and the key
    in the file.
    """

    def __init__(
        self, limits: Limits, *, key: str | None = None, prefix: str | None = None, trusted: bool = False
    ) -> None:
        self.limits = limits
        self.trusted = trusted
        self._key = key
        self._prefix = prefix
        self._is_key_used = False

    def choose_key(self, file_key: object, left_out: Tally[str]) -> str | None:
        """Return the key of the next conversation, which has `file_key` in the file. Raises: InvalidInput, TooLarge."""
        if self._key is not None:
            if self._is_key_used:
                raise InvalidInput("key", "belongs to one conversation, but the file has more; import it without a key")
            self._is_key_used = True
            return self._key
        if file_key is None or file_key == "":
            return None
        if self._prefix is None and not self.trusted:
            left_out["keys"] += 1
            return None
        return self.add_prefix(validate_label("key", file_key, self.limits))

    def add_prefix(self, key: str) -> str:
        """Return a key with the prefix, if there is one. Raises: InvalidInput, TooLarge."""
        return validate_label("key", f"{self._prefix}{key}", self.limits) if self._prefix else key


class FormatReader(ABC):
    """Reads the records of one file format."""

    takes_key = False
    """Whether the caller may name the key of a conversation."""
    rewindable = False
    """Whether the file is read twice. A pipe is copied to a temporary file then."""
    file_names: tuple[str, ...] = ("*.jsonl", "*.json")
    """The names of the files that are read in a folder or ZIP archive, as patterns of fnmatch."""

    def __init__(self, file: ImportFile, options: ImportOptions) -> None:
        self._file = file
        self._options = options
        self._limits = options.limits

    @abstractmethod
    def read_records(self) -> Iterator[Record]:
        """Yield the records of the open file. Raises: BadRecord, TransferFailed."""

    @abstractmethod
    def convert(self, value: Any) -> ConversationDraft:
        """Return the draft of a record. Raises: InvalidInput, TooLarge."""


class Importer:
    """Imports a file record by record. Each record is written in its own transaction."""

    def __init__(self, file: ImportFile, reader: FormatReader, counter: Counter) -> None:
        self._file = file
        self._reader = reader
        self._counter = counter
        self._records: Iterator[Record]
        self._target: ImportTarget
        self._line = 0
        self._draft: ConversationDraft
        self._row: ConversationRow
        self._messages: list[MessageRow]
        self._entries: list[hashchain.Entry]

    def open(self, target: ImportTarget) -> None:
        """Open the file. Raises: TransferFailed."""
        self._target = target
        self._file.open(rewindable=self._reader.rewindable)
        self._records = self._reader.read_records()

    def read_record(self) -> bool:
        """Read the next record. Return whether there is one. Raises: BadRecord, TransferFailed."""
        record = next(self._records, None)
        if record is None:
            return False
        self._line, value = record
        if isinstance(value, BadRecord):
            raise value
        try:
            self._draft = self._reader.convert(value)
        except InvalidInput as error:
            raise self._file.make_error(str(error), self._line) from None
        except RecursionError:
            raise self._file.make_error("is nested too deeply", self._line) from None
        self._messages = _build_messages(self._draft, self._counter, self._target.now_us)
        self._row = _build_conversation(self._draft, self._target, self._messages)
        self._entries = _build_entries(self._row.id, self._draft.origin, self._messages)
        self._row.last_entry, self._row.chain_hash = self._entries[-1].number, self._entries[-1].hash
        return True

    @property
    def unchanged(self) -> RecordResult:
        """The result for a conversation that an earlier import wrote."""
        return RecordResult(self._row.id, unchanged=True)

    def is_imported(self, connection: Connection) -> bool:
        """Return whether an earlier import wrote the conversation that was read. Raises: ConversationExists."""
        return sql.is_imported(connection, self._row, self._draft.origin, self._file.name, self._line)

    def write_record(self, connection: Connection) -> RecordResult:
        """Write the conversation that was read. Raises: ConversationExists."""
        row = self._row
        if not sql.create_conversation(connection, row, self._draft.origin, self._file.name, self._line):
            return self.unchanged
        for first in range(0, len(self._messages), sql.PAGE):
            messages.append(connection, row.id, self._messages[first : first + sql.PAGE])
        for first in range(0, len(self._entries), sql.PAGE):
            chain.append_entries(connection, row.id, self._entries[first : first + sql.PAGE])
        blobs.insert_blobs(connection, row.id, list(self._draft.blobs.values()))
        return RecordResult(row.id, messages=len(self._messages), left_out=self._draft.left_out)


def _build_conversation(draft: ConversationDraft, target: ImportTarget, rows: list[MessageRow]) -> ConversationRow:
    id_ = target.derive_id(draft.key, draft.identity or draft.origin)
    # A time in the future would keep a conversation first in every list, and out of `erase(older_than=...)`.
    created_at = min(target.now_us if draft.created_at is None else draft.created_at, target.now_us)
    settings = None
    if draft.developer_prompt is not None:
        settings = json.dumps({"developer_prompt": draft.developer_prompt}, ensure_ascii=False)
    return ConversationRow(
        id=id_,
        tenant=target.tenant,
        key=draft.key,
        subject=draft.subject,
        title=draft.title,
        metadata=draft.metadata,
        settings=settings,
        head_seq=None if draft.head is None else rows[draft.head].seq,
        last_seq=len(rows),
        last_entry=0,
        chain_hash=hashchain.genesis_hash(id_),
        created_at=created_at,
        # Search by time expects that no message is newer than its conversation, whatever the file says.
        updated_at=max(
            created_at, min(draft.updated_at or created_at, target.now_us), *(row.created_at for row in rows)
        ),
        archived_at=None,
    )


def _build_messages(draft: ConversationDraft, counter: Counter, now_us: int) -> list[MessageRow]:
    rows: list[MessageRow] = []
    for message in draft.messages:
        parent = None if message.parent is None else rows[message.parent]
        row = message.to_row(counter, _choose_time(message, draft, now_us))
        place_rows([row], len(rows), parent)
        row.path_tokens += 0 if parent is None else parent.path_tokens
        rows.append(row)
    return rows


def _choose_time(message: MessageDraft, draft: ConversationDraft, now_us: int) -> int:
    """Return the time of the message or else of its conversation, at the latest now."""
    return min(next(each for each in (message.created_at, draft.created_at, now_us) if each is not None), now_us)


def _build_entries(conversation_id: UUID, origin: str, rows: list[MessageRow]) -> list[hashchain.Entry]:
    first = hashchain.HashInput("import", origin, hashchain.compute_commitment(b"", [origin]))
    inputs = [first, *(row.hash_input() for row in rows)]
    return hashchain.extend_chain(0, hashchain.genesis_hash(conversation_id), inputs)
