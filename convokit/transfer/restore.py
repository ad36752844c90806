"""Reading a lossless export back in.

Under the database, tenant and key it is from, a conversation comes back as it was: ids, rows, hashes. Anywhere else it gets a
chain of its own, whose first entry names the old conversation, where its chain ended and in which hash; messages keep their
places, so everything that refers to one still does. Whatever was read is verified before it is committed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from convokit.audit.verify import verify
from convokit.domain import hashchain as chains
from convokit.domain.content import Blob
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import derive_conversation_id
from convokit.domain.removal import RemovalRow
from convokit.errors import BadRecord, ChainBroken, ConversationExists, InvalidInput
from convokit.store import blobs, chain, conversations
from convokit.transfer import jsonl, row_checks, sql
from convokit.transfer.models import Place, Written
from convokit.transfer.reader import Source

_PROMPT_DIGEST = 16


class Restore:
    """One import of an export. `take` moves to the next conversation, `write` is run in a writing transaction."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._place: Place
        self._same = False
        self._pending: tuple[str, Mapping[str, Any], str] | None = None
        """A line that was read and belongs to what comes next."""
        self._row: ConversationRow
        self._head = ""
        self._damage: BadRecord | None = None

    def begin(self, place: Place) -> None:
        """Open the file and check that it is whole. Raises: TransferFailed, BadRecord."""
        self._place = place
        self.source.open(twice=True)
        head = self._checked_head()
        self._same = head.get("database") == str(place.database_id) and head.get("tenant") == place.tenant
        try:
            self._check_whole()
        except BadRecord as damage:
            self._damage = damage
        self.source.rewind()
        self.source.readline()

    def damage(self) -> BadRecord | None:
        """Return what is wrong with the file as a whole: cut off, or changed since it was written."""
        return self._damage

    def _checked_head(self) -> Mapping[str, Any]:
        try:
            head = json.loads(self.source.readline()).get("convokit")
            version = head.get("version")
        except (ValueError, AttributeError, RecursionError):
            raise self.source.bad("is not an export of convokit (its format is jsonl)", 1) from None
        if version != jsonl.VERSION:
            problem = f"is an export of version {version!r}, this convokit reads {jsonl.VERSION}: update convokit-sql"
            raise self.source.bad(problem, 1)
        found: Mapping[str, Any] = head
        return found

    def _check_whole(self) -> None:
        self.source.rewind()
        digest, last = hashlib.sha256(), ""
        while text := self.source.readline():
            if last:
                digest.update(last.encode("utf-8", "surrogatepass"))
            last = text
        try:
            foot = json.loads(last).get("footer")
        except (ValueError, AttributeError, RecursionError):
            foot = None
        if not isinstance(foot, Mapping) or not last.endswith("\n"):
            raise self.source.bad("the file is cut off: its last line is not a footer")
        if foot.get("sha256") != digest.hexdigest():
            raise self.source.bad("the file was changed since it was written: its digest is another one")

    def take(self) -> bool:
        """Move to the next conversation; False at the file's end. Raises: BadRecord."""
        while (found := self._next()) is not None:
            kind, values, text = found
            if kind != "conversation":
                continue  # the rest of one that was given up
            self._head = text
            try:
                row = jsonl.decoded("conversation", values)
                self._row = ConversationRow(tenant=self._place.tenant, **row)
                row_checks.check_conversation(self._row)
            except InvalidInput as error:
                raise self.source.bad(str(error)) from None
            return True
        return False

    def _next(self) -> tuple[str, Any, str] | None:
        """Return the next line's kind, values and text; None at the footer or the end."""
        found, self._pending = self._pending, None
        if found is not None:
            return found
        text = self.source.readline()
        if not text:
            return None
        try:
            ((kind, values),) = json.loads(text).items()
        except (ValueError, AttributeError, RecursionError):
            raise self.source.bad("is not a line of an export") from None
        return None if kind == "footer" else (kind, values, text)

    def write(self, connection: Connection) -> Written:
        """Write the conversation that was taken. Raises: BadRecord, and nothing of it stays."""
        old, place = self._row, self._place
        line = self.source.line
        same = self._same and (
            old.key is None or derive_conversation_id(place.database_id, place.tenant, old.key) == old.id
        )
        ref = f"{old.id}:{old.last_entry}:{bytes(old.chain_hash).hex()}"
        try:
            id_ = old.id if same else place.conversation_id(old.key, ref)
            row = replace(old, id=id_)
            if self._is_there(connection, row, None if same else ref):
                return Written(None)
            try:
                sql.create(connection, row)
            except IntegrityError:
                raise ConversationExists(self.source.name, taken(row), line) from None
            written = self._below(connection, row, None if same else ref)
            verify(connection, place.tenant, row.id)
        except InvalidInput as error:
            raise self.source.bad(str(error)) from None
        except ChainBroken as error:
            raise self.source.bad(str(error), line) from None
        except IntegrityError:
            raise self.source.bad("two rows have the same key", line) from None
        return Written(written, rechained=not same)

    def _is_there(self, connection: Connection, row: ConversationRow, ref: str | None) -> bool:
        """Whether this very conversation is there already, perhaps gone on since. Raises: ConversationExists."""
        found = is_there(connection, row, ref)
        if found is False:
            raise ConversationExists(self.source.name, taken(row), self.source.line)
        return bool(found)

    def _below(self, connection: Connection, row: ConversationRow, ref: str | None) -> int:
        """Insert everything below a conversation, and return how many messages that were."""
        digest, counted = hashlib.sha256(self._head.encode("utf-8", "surrogatepass")), 1
        checks, links, removals = row_checks.Messages(row), _Links(self._row, row, ref), _Removals(self.source)
        batch: list[dict[str, Any]] = []
        kind = ""
        links.begin(connection)
        while (found := self._next()) is not None and found[0] != "conversation":
            if found[0] != kind or len(batch) >= sql.PAGE:
                links.put(connection, kind, batch)
                kind, batch = found[0], []
            _, values, text = found
            if kind == "end":
                self._check_end(values, digest.hexdigest(), counted)
                removals.end()
                links.end(connection)
                return checks.end()
            digest.update(text.encode("utf-8", "surrogatepass"))
            counted += 1
            if kind == "prompt":
                keep_prompt(connection, row.tenant, values)
            elif kind in sql.CHILDREN:
                decoded = jsonl.decoded(kind, values)
                checks.check(kind, decoded)
                removals.check(kind, decoded)
                batch.append(decoded)
            else:
                raise InvalidInput(str(kind)[:50], "is a kind of line that this version of convokit does not know")
        self._pending = found
        raise InvalidInput("conversation", f"{self._row.id} is cut off: it has no end")

    def _check_end(self, values: Any, digest: str, counted: int) -> None:
        if not isinstance(values, Mapping) or values.get("sha256") != digest or values.get("lines") != counted:
            raise InvalidInput("conversation", f"{self._row.id} was changed since it was written: its digest differs")

    def reached(self) -> tuple[int, int | None]:
        """Return how much of the file is read, and how much there is."""
        return self.source.done, self.source.size

    def close(self) -> None:
        """Let go of the file."""
        self.source.close()


def is_there(connection: Connection, row: ConversationRow, ref: str | None) -> bool | None:
    """Whether the conversation under this id is the one to write, perhaps gone on since; None when there is none."""
    if conversations.find(connection, row.tenant, row.id) is None:
        return None  # or it is another tenant's, which looks the same
    first = sql.entry_at(connection, row.id, 1)
    if ref is not None:
        return first is not None and first[:2] == ("import", ref)
    last = sql.entry_at(connection, row.id, row.last_entry)
    return last is not None and last[2] == bytes(row.chain_hash)


def taken(row: ConversationRow) -> str:
    """Return what is wrong where a conversation is in the way."""
    return f"conversation {row.key or row.id} is there already, and is another one: it is left as it is"


def keep_prompt(connection: Connection, tenant: str, values: Any) -> None:
    """Store a prompt under its digest. Raises: InvalidInput when the digest is that of another text."""
    body, digest = (values.get(name) for name in ("body", "digest")) if isinstance(values, Mapping) else (None, None)
    text = row_checks.checked_text("prompt.body", body)
    found = hashlib.sha256(text.encode("utf-8")).digest()[:_PROMPT_DIGEST]
    if found.hex() != digest:
        raise InvalidInput("prompt.digest", "is not the digest of its text")
    blobs.insert_prompt(connection, tenant, found, text)


class _Removals:
    """Holds each removal against the entry that commits to it, so that one which was changed is named by its own line."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: dict[int, tuple[int, chains.HashInput]] = {}

    def check(self, kind: str, row: Mapping[str, Any]) -> None:
        """Note a removal, or compare an entry. Raises: BadRecord."""
        if kind == "removal":
            self._open[row["number"]] = self._source.line, RemovalRow(**row).leaf()
        elif kind == "entry":
            line, leaf = self._open.pop(row["number"], (None, None))
            removes = row["kind"] in ("redaction", "erasure")
            if leaf is None and removes:
                raise self._source.bad(f"the record of {row['kind']} {row['number']} is missing")
            if leaf is not None and (leaf.kind, leaf.ref, leaf.commitment) != (
                row["kind"],
                row["ref"],
                row["commitment"],
            ):
                raise self._source.bad(f"removal {row['number']} is not what its entry commits to", line)

    def end(self) -> None:
        """Raise: BadRecord where a removal was never entered."""
        for number, (line, _) in self._open.items():
            raise self._source.bad(f"removal {number} was never entered into the chain", line)


class _Links:
    """Puts rows in their tables; the entries of a conversation from elsewhere are linked anew behind one that says so."""

    def __init__(self, old: ConversationRow, row: ConversationRow, ref: str | None) -> None:
        self._old, self._row, self._ref = old, row, ref
        self._before = chains.genesis_hash(old.id)
        self._last, self._hash = 0, chains.genesis_hash(row.id)
        self._removals: dict[int, bytes] = {}

    def begin(self, connection: Connection) -> None:
        if self._ref is not None:
            self._link(connection, [chains.HashInput("import", self._ref, chains.compute_commitment(b"", [self._ref]))])

    def put(self, connection: Connection, kind: str, rows: Sequence[dict[str, Any]]) -> None:
        if kind == "blob":
            blobs.insert_blobs(connection, self._row.id, [_blob(row) for row in rows])
        elif kind == "entry" and self._ref is not None:
            self._link(connection, [self._checked(row) for row in rows])
        else:
            if kind in ("removal", "turn") and self._ref is not None:
                rows = [(self._moved if kind == "removal" else _later)(row) for row in rows]
            sql.put(connection, self._row.id, kind, rows)

    def _moved(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a removal as it is in the new chain, where every entry stands one further."""
        moved = {**row, "number": row["number"] + 1}
        covered = [moved[name] for name in ("number", "ref", "author", "reason", "created_at")]
        self._removals[row["number"]] = chains.compute_commitment(row["salt"], covered)
        return moved

    def _checked(self, row: dict[str, Any]) -> chains.HashInput:
        """Return an entry of the old chain as one of the new. Raises: ChainBroken where the old chain does not hold."""
        number, kind, ref, committed = (row[name] for name in ("number", "kind", "ref", "commitment"))
        linked = chains.compute_entry_hash(self._before, number, kind, ref, committed)
        if linked != row["hash"]:
            raise ChainBroken(self._old.id, number, ref, "the entry was altered, or one before it")
        self._before = linked
        return chains.HashInput(kind, ref, self._removals.get(number) or bytes(committed))

    def _link(self, connection: Connection, leaves: Sequence[chains.HashInput]) -> None:
        entries = chains.extend_chain(self._last, self._hash, leaves)
        if entries:
            self._last, self._hash = entries[-1].number, entries[-1].hash
            chain.append_entries(connection, self._row.id, entries)

    def end(self, connection: Connection) -> None:
        """Write where the new chain ends. Raises: ChainBroken when the old one does not end where its conversation says."""
        if self._ref is None:
            return
        if self._before != bytes(self._old.chain_hash) or self._last != self._old.last_entry + 1:
            raise ChainBroken(self._old.id, self._last - 1, "head", "the chain does not end where it says")
        sql.settle(connection, self._row.id, self._last, self._hash)


def _later(turn: dict[str, Any]) -> dict[str, Any]:
    """Return a turn as it is where every entry stands one further."""
    after = turn["after_entry"]
    return turn if after is None else {**turn, "after_entry": after + 1}


def _blob(row: Mapping[str, Any]) -> Blob:
    found = Blob.of(row["media_type"], row["data"])
    if found.digest != row["digest"]:
        raise InvalidInput("blob.digest", "is not the digest of its data")
    return found
