"""Import a lossless export.

In the database and tenant of the export, a conversation comes back as it was: ids, rows and hashes. Anywhere else it gets a new
id and a new chain. The first entry of the new chain names the old conversation, its last entry and that entry's hash. Messages
keep their `seq`, so references to them stay valid. Every conversation is verified before it is committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from convokit.audit.references import find_prompt_digests
from convokit.audit.verify import verify_conversation
from convokit.domain import hashchain
from convokit.domain.content import Blob
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.domain.message import MessageRow
from convokit.errors import BadRecord, ChainBroken, InvalidInput
from convokit.store import blobs, chain, messages
from convokit.transfer import format_jsonl, sql
from convokit.transfer.export_lines import ExportLines, check_end
from convokit.transfer.import_file import ImportFile
from convokit.transfer.models import ImportTarget, RecordResult
from convokit.transfer.row_checks import RemovalRowChecker, RowChecker, check_conversation, validate_any_text

_PROMPT_DIGEST_BYTES = 16


class Restorer:
    """Imports a lossless export, one conversation in each transaction."""

    def __init__(self, file: ImportFile) -> None:
        self._file = file
        self._target: ImportTarget
        self._is_same_origin = False
        self._lines = ExportLines(file)
        self._row: ConversationRow
        self._row_text = ""
        self.damage: BadRecord | None = None
        """The error if the file is truncated or was changed. Whole conversations can be imported all the same."""

    def open(self, target: ImportTarget) -> None:
        """Open the file and check its header and digest. Raises: BadRecord, TransferFailed."""
        self._target = target
        self._file.open(rewindable=True)
        header = self._lines.read_header()
        self._is_same_origin = (header.get("database"), header.get("tenant")) == (
            str(target.database_id),
            target.tenant,
        )
        self.damage = self._lines.find_damage()

    def read_record(self) -> bool:
        """Go to the next conversation. Return whether there is one. Raises: BadRecord."""
        while (line := self._lines.read()) is not None:
            kind, values, text = line
            if kind != "conversation":
                continue  # the rest of a conversation that was skipped
            self._row_text = text
            try:
                row = format_jsonl.decode_row("conversation", values)
                self._row = ConversationRow(tenant=self._target.tenant, **row)
                check_conversation(self._row)
            except InvalidInput as error:
                raise self._file.make_error(str(error)) from None
            return True
        return False

    def is_imported(self, connection: Connection) -> bool:
        """Return whether an earlier import wrote the conversation that was read. Raises: BadRecord."""
        row, import_ref = self._place_row()
        return sql.is_imported(connection, row, import_ref, self._file.name, self._file.line)

    @property
    def unchanged(self) -> RecordResult:
        """The result for a conversation that an earlier import wrote."""
        return RecordResult(self._place_row()[0].id, unchanged=True)

    def write_record(self, connection: Connection) -> RecordResult:
        """Write the conversation that was read. Raises: BadRecord; the transaction must be rolled back then."""
        line = self._file.line
        try:
            row, import_ref = self._place_row()
            if not sql.create_conversation(connection, row, import_ref, self._file.name, line):
                return self.unchanged
            count = self._write_rows(connection, row, import_ref)
            verify_conversation(connection, self._target.tenant, row.id)
        except InvalidInput as error:
            raise self._file.make_error(str(error)) from None
        except ChainBroken as error:
            raise self._file.make_error(str(error), line) from None
        except RecursionError:
            raise self._file.make_error("is nested too deeply", line) from None
        except IntegrityError:
            raise self._file.make_error("two rows have the same primary key", line) from None
        return RecordResult(row.id, messages=count, rechained=import_ref is not None)

    def _place_row(self) -> tuple[ConversationRow, str | None]:
        """Return the row as it is written, and the ref of the import entry; None for a conversation that keeps its chain."""
        old, target = self._row, self._target
        # A key is looked up by the id that is derived from it: with an edited key, the conversation cannot keep its id.
        keeps_chain = self._is_same_origin and (
            old.key is None or derive_conversation_id(target.database_id, target.tenant, old.key) == old.id
        )
        if keeps_chain:
            return old, None
        import_ref = f"{old.id}:{old.last_entry}:{bytes(old.chain_hash).hex()}"
        return replace(old, id=target.derive_id(old.key, import_ref)), import_ref

    def _write_rows(self, connection: Connection, row: ConversationRow, import_ref: str | None) -> int:
        """Insert all rows below the conversation. Return the number of messages."""
        digest, line_count = hashlib.sha256(self._row_text.encode("utf-8", "surrogatepass")), 1
        row_checker, removal_checker = RowChecker(row), RemovalRowChecker(self._file)
        writer = _RowWriter(connection, self._row, row, import_ref)
        batch: list[dict[str, Any]] = []
        batch_kind = ""
        while (line := self._lines.read()) is not None:
            kind, values, text = line
            if kind == "conversation":
                break  # lines are missing: the previous conversation has no end
            if batch and (kind != batch_kind or len(batch) >= sql.PAGE):
                writer.insert(batch_kind, batch)
                batch = []
            if kind == "end":
                check_end(self._row.id, values, digest.hexdigest(), line_count)
                removal_checker.finish()
                writer.finish()
                if row_checker.newest > row.updated_at:  # a search by time relies on it
                    sql.set_update_time(connection, row.id, row_checker.newest)
                return row_checker.finish()
            digest.update(text.encode("utf-8", "surrogatepass"))
            line_count += 1
            if kind == "prompt":
                _insert_prompt(connection, row.tenant, values)
            elif kind in sql.CHILD_TABLES:
                decoded = format_jsonl.decode_row(kind, values)
                row_checker.check(kind, decoded)
                removal_checker.check(kind, decoded)
                batch.append(decoded)
                batch_kind = kind
            else:
                raise InvalidInput(str(kind)[:50], "is an unknown kind of line; update convokit-sql")
        if line is not None:
            self._lines.put_back(line)
        raise InvalidInput("conversation", f'{self._row.id} is truncated: it has no line "end"')


def _insert_prompt(connection: Connection, tenant: str, values: Any) -> None:
    body, digest = (values.get(name) for name in ("body", "digest")) if isinstance(values, Mapping) else (None, None)
    text = validate_any_text("prompt.body", body)
    computed = hashlib.sha256(text.encode("utf-8")).digest()[:_PROMPT_DIGEST_BYTES]
    if computed.hex() != digest:
        raise InvalidInput("prompt.digest", "does not match the body")
    blobs.insert_prompt(connection, tenant, computed, text)


class _RowWriter:
    """Inserts the rows of a conversation.

    With an `import_ref`, the conversation gets a new chain. An import entry comes first, so every entry number grows by one.
    """

    def __init__(
        self, connection: Connection, old: ConversationRow, row: ConversationRow, import_ref: str | None
    ) -> None:
        self._connection = connection
        self._old = old
        self._id = row.id
        self._is_rechained = import_ref is not None
        self._old_last, self._old_hash = 0, hashchain.genesis_hash(old.id)
        self._last, self._hash = 0, hashchain.genesis_hash(row.id)
        self._moved_removals: dict[int, bytes] = {}
        """The new commitment of each removal, by its old number."""
        if import_ref is not None:
            commitment = hashchain.compute_commitment(b"", [import_ref])
            self._append_entries([hashchain.HashInput("import", import_ref, commitment)])

    def insert(self, kind: str, rows: Sequence[dict[str, Any]]) -> None:
        """Insert rows of one kind. Raises: ChainBroken, InvalidInput, IntegrityError."""
        if kind == "message":
            messages.append(self._connection, self._id, [MessageRow(**row) for row in rows])
        elif kind == "blob":
            blobs.insert_blobs(self._connection, self._id, [_make_blob(row) for row in rows])
        elif kind == "entry":
            entries = [hashchain.Entry(**row) for row in rows]
            if self._is_rechained:
                self._append_entries(self._convert_entries(entries))
            else:
                chain.append_entries(self._connection, self._id, entries)
        else:
            if self._is_rechained and kind == "removal":
                rows = [self._move_removal(row) for row in rows]
            elif self._is_rechained and kind == "turn":
                rows = [_move_turn(row) for row in rows]
            sql.insert_rows(self._connection, self._id, kind, rows)
            if kind == "completion":
                used = {digest for row in rows for digest in find_prompt_digests(row["manifest"])}
                blobs.insert_uses(self._connection, self._id, sorted(used))

    def _move_removal(self, row: dict[str, Any]) -> dict[str, Any]:
        moved = {**row, "number": row["number"] + 1}
        covered = [moved[name] for name in ("number", "ref", "author", "reason", "created_at")]
        self._moved_removals[row["number"]] = hashchain.compute_commitment(row["salt"], covered)
        return moved

    def _convert_entries(self, entries: Sequence[hashchain.Entry]) -> list[hashchain.HashInput]:
        """Check entries of the old chain, and return the hash inputs of the new one. Raises: ChainBroken."""
        inputs = []
        for entry in entries:
            computed = hashchain.compute_entry_hash(
                self._old_hash, entry.number, entry.kind, entry.ref, entry.commitment
            )
            if computed != entry.hash:
                raise ChainBroken(self._old.id, entry.number, entry.ref, "this entry or one before it was altered")
            self._old_hash = computed
            commitment = self._moved_removals.get(entry.number) or entry.commitment
            inputs.append(hashchain.HashInput(entry.kind, entry.ref, commitment))
        return inputs

    def _append_entries(self, inputs: Sequence[hashchain.HashInput]) -> None:
        entries = hashchain.extend_chain(self._last, self._hash, inputs)
        self._last, self._hash = entries[-1].number, entries[-1].hash
        chain.append_entries(self._connection, self._id, entries)

    def finish(self) -> None:
        """Store the end of the new chain. Raises: ChainBroken if the old one has another end than its conversation says."""
        if not self._is_rechained:
            return
        if self._old_hash != bytes(self._old.chain_hash) or self._last != self._old.last_entry + 1:
            problem = "the chain does not end at the last entry and hash of the conversation's row"
            raise ChainBroken(self._old.id, self._last - 1, "head", problem)
        sql.set_chain_end(self._connection, self._id, self._last, self._hash)


def _move_turn(turn: dict[str, Any]) -> dict[str, Any]:
    after = turn["after_entry"]
    return turn if after is None else {**turn, "after_entry": after + 1}


def _make_blob(row: Mapping[str, Any]) -> Blob:
    blob = Blob.from_bytes(row["media_type"], row["data"])
    if blob.digest != row["digest"]:
        raise InvalidInput("blob.digest", "does not match the data")
    return blob
