"""Verifying a conversation's chain against its rows.

Every entry is linked to the one before it, and commits to a row as it was when it became final. So an altered, missing,
inserted or reordered row shows, with the first place that differs; what the chain does not name itself (turns, tool calls,
binaries, prompts …) must agree with what it names. `coverage.COVERAGE` says it of every column. What it cannot show alone is a
history that was cut off or rewritten whole by someone who can write every table: that needs a head kept elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit import references as audit_references
from convokit.audit import sql
from convokit.audit.column_coverage import EMPTIED, EMPTIED_CALL
from convokit.audit.references import check_rest
from convokit.audit.removal_checks import Removals
from convokit.domain import hashchain as chains
from convokit.domain.content import blob_references
from convokit.domain.conversation import CheckpointHead, ConversationRow, Verified
from convokit.domain.message import MessageRow
from convokit.domain.turn import CallRow
from convokit.errors import ChainBroken
from convokit.store import api_calls, chain, conversations


def verify(
    connection: Connection, tenant: str, conversation_id: UUID, known: CheckpointHead | None = None
) -> Verified | None:
    """Return what was found whole, or None when there is no such conversation. Raises: ChainBroken.

    `known` is what a checkpoint knows of it: the chain must still hold that entry with that hash.
    """
    row = conversations.find(connection, tenant, conversation_id)
    return None if row is None else Walk(connection, row, known).walk()


@dataclass(slots=True, repr=False)
class Walk:
    """A walk along one conversation's chain: what has been seen so far."""

    connection: Connection
    row: ConversationRow
    known: CheckpointHead | None
    last: int = 0
    """The last entry that was checked."""
    seq: int = 0
    """The last message that was checked."""
    run_start: int = 0
    calls: int = 0
    imported: bool = False
    blobs: dict[bytes, int] = field(default_factory=dict)
    """Every binary that a message refers to, and the first entry that does."""
    prompts: set[bytes] = field(default_factory=set)
    """Prompts found whole: those of this page and the one before."""

    def walk(self) -> Verified:
        """Check everything. Raises: ChainBroken."""
        row = self.row
        removals = Removals(self.connection, row.id)
        previous = chains.genesis_hash(row.id)
        for page in chain.read_entry_pages(self.connection, row.id):
            rows, calls = self._messages_of(page), self._calls_of(page)
            for entry in page:
                self._check_link(entry, previous)
                previous = bytes(entry.hash)
                if entry.kind == "message":
                    self._check_message(entry, rows, removals)
                elif entry.kind == "completion":
                    self._check_call(entry, calls, removals)
                elif entry.kind == "import":
                    self._check_import(entry)
                else:
                    removals.check(entry, self.seq)
                self._check_known(entry)
            self._check_prompts(page, calls, removals)
        audit_references.check_identity(self.connection, row, imported=self.imported)
        self._check_end(previous, removals)
        checked = check_rest(self.connection, row, self.last, self.blobs, imported=self.imported)
        return Verified(
            conversation_id=row.id,
            entries=self.last,
            rows=self.seq + self.calls + removals.count,
            messages=self.seq,
            calls=self.calls,
            removals=removals.count,
            tool_calls=checked.tool_calls,
            blobs=len(self.blobs),
            head=previous.hex(),
        )

    def _broken(self, entry: chains.Entry, problem: str) -> NoReturn:
        raise ChainBroken(self.row.id, entry.number, entry.ref, problem)

    def _messages_of(self, page: list[chains.Entry]) -> list[MessageRow]:
        """Return the messages that the page's entries name, last first: the chain names them in the order of seq."""
        count = sum(entry.kind == "message" for entry in page)
        return sql.messages(self.connection, self.row.id, self.seq, count)[::-1] if count else []

    def _calls_of(self, page: list[chains.Entry]) -> dict[int, CallRow]:
        """Return the API calls that the page's entries name, by the entry's number."""
        keys = {entry.number: audit_references.call_key(entry.ref) for entry in page if entry.kind == "completion"}
        found = sql.calls(self.connection, self.row.id, [key for key in keys.values() if key is not None])
        return {number: found[key] for number, key in keys.items() if key in found}

    def _check_link(self, entry: chains.Entry, previous: bytes) -> None:
        self.last += 1
        if entry.number != self.last:
            problem = f"entry {self.last} is missing (next is {entry.number})"
            if entry.number < self.last:
                problem = f"entry {entry.number} is none: they are numbered from 1"
            raise ChainBroken(self.row.id, self.last, entry.ref, problem)
        linked = chains.compute_entry_hash(previous, entry.number, entry.kind, entry.ref, bytes(entry.commitment))
        if linked != bytes(entry.hash):
            self._broken(entry, "the entry was altered, or one before it")

    def _check_message(self, entry: chains.Entry, rows: list[MessageRow], removals: Removals) -> None:
        self.seq += 1
        found = rows.pop() if rows else None
        if entry.ref != str(self.seq):
            self._broken(entry, f"message {self.seq} was to be entered next")
        if found is None or found.seq > self.seq:
            self._broken(entry, f"message {entry.ref} is missing")
        if found.seq < self.seq:
            problem = f"message {found.seq} was never entered"
            raise ChainBroken(self.row.id, entry.number, str(found.seq), problem)
        removed = removals.explain("message", entry)
        if found.status == "redacted":
            self._check_redacted(entry, found, removed=removed)
        elif removed:
            self._broken(entry, f"message {entry.ref} was removed by entry {removed}, and is there again")
        elif found.salt is None:
            self._broken(entry, f"message {entry.ref} lost its salt, and no removal says why")
        elif found.hash_input().commitment != bytes(entry.commitment):
            self._broken(entry, f"message {entry.ref} is not what was written")
        self._check_place(entry, found)
        for digest in blob_references(found.parts, found.extra):
            self.blobs.setdefault(digest, entry.number)

    def _check_redacted(self, entry: chains.Entry, found: MessageRow, *, removed: int) -> None:
        if not removed:
            self._broken(entry, f"message {entry.ref} was emptied, and no removal says why")
        left = [name for name in EMPTIED if getattr(found, name) is not None]
        if left:
            self._broken(entry, f"message {entry.ref} is marked as removed, and still has its {', '.join(left)}")

    def _check_place(self, entry: chains.Entry, found: MessageRow) -> None:
        """Check what the commitment covers too, but a redacted message has none any more."""
        if found.parent_seq is not None and not 0 < found.parent_seq < found.seq:
            self._broken(entry, f"message {entry.ref} follows {found.parent_seq}, which is not before it")
        follows = found.parent_seq is not None and found.parent_seq == found.seq - 1
        self.run_start = self.run_start if follows else found.seq
        if found.run_start_seq != self.run_start:
            problem = (
                f"the path to message {entry.ref} has no gap from {self.run_start}, not from {found.run_start_seq}"
            )
            self._broken(entry, problem)

    def _check_call(self, entry: chains.Entry, calls: dict[int, CallRow], removals: Removals) -> None:
        found = calls.get(entry.number)
        if found is None:
            self._broken(entry, f"completion {entry.ref} is missing")
        self.calls += 1
        removed = removals.explain("completion", entry)
        left = [name for name in EMPTIED_CALL if getattr(found, name) is not None and name != "salt"]
        if removed and left:
            self._broken(
                entry, f"completion {entry.ref} was removed from by entry {removed}, and has its {', '.join(left)}"
            )
        if found.salt is None:
            if not removed:
                self._broken(entry, f"completion {entry.ref} lost its salt, and no removal says why")
        elif found.hash_input().commitment != bytes(entry.commitment):
            self._broken(entry, f"completion {entry.ref} is not what was written")

    def _check_import(self, entry: chains.Entry) -> None:
        if not audit_references.is_import(entry.ref) or chains.compute_commitment(b"", [entry.ref]) != bytes(
            entry.commitment
        ):
            self._broken(entry, "names no chain that was copied or restored")
        self.imported = self.imported or not self.seq  # what follows came from there

    def _check_known(self, entry: chains.Entry) -> None:
        known = self.known
        if known is not None and entry.number == known.entries and bytes(entry.hash).hex() != known.head:
            self._broken(entry, f"is not the entry that the checkpoint of {known.of} knows: the history was rewritten")

    def _check_prompts(self, page: list[chains.Entry], calls: dict[int, CallRow], removals: Removals) -> None:
        """Check the prompts and tool sets that the page's calls were made with."""
        named: dict[bytes, tuple[chains.Entry, bool]] = {}
        for entry in page:
            if entry.kind == "completion":
                removed = bool(removals.explain("completion", entry))
                for digest in audit_references.prompts_of(calls[entry.number].manifest):
                    before = named.get(digest)
                    named[digest] = (entry, removed) if before is None or before[1] else before
        unseen = [digest for digest in named if digest not in self.prompts]
        found = sql.prompts(self.connection, self.row.tenant, unseen)
        for digest in unseen:
            entry, removed = named[digest]
            name, body = f"prompt:{digest.hex()}", found.get(digest)
            if body is not None and audit_references.prompt_digest(body) != digest:
                raise ChainBroken(self.row.id, entry.number, name, "the prompt is not what was sent")
            if body is None and not removed:
                raise ChainBroken(self.row.id, entry.number, name, "the prompt is missing, and no removal says why")
        self.prompts = {digest for digest in named if digest in self.prompts or digest in found}

    def _check_end(self, previous: bytes, removals: Removals) -> None:
        row, last = self.row, self.last
        known = self.known
        if known is not None and known.entries > last:
            problem = (
                f"the chain ends at entry {last}, the checkpoint of {known.of} knows {known.entries}: it was cut off"
            )
            raise ChainBroken(row.id, last, "head", problem)
        if last != row.last_entry or previous != bytes(row.chain_hash):
            problem = f"the chain ends at entry {last}, the conversation says {row.last_entry}"
            if last == row.last_entry:
                problem = "the chain does not end with the hash that the conversation says"
            raise ChainBroken(row.id, last, "head", problem)
        for extra in sql.messages(self.connection, row.id, self.seq, 1):
            raise ChainBroken(row.id, last, str(extra.seq), f"message {extra.seq} was never entered")
        for extra in sql.messages(self.connection, row.id, -(2**31), 1):
            if extra.seq < 1:
                raise ChainBroken(row.id, last, str(extra.seq), f"message {extra.seq} was never entered")
        if row.last_seq != self.seq:
            raise ChainBroken(row.id, last, "last_seq", f"last_seq is {row.last_seq}, {self.seq} messages are stored")
        if api_calls.count_ended_calls(self.connection, row.id) != self.calls:
            stray = sql.never_entered(self.connection, row.id)
            name = "completions" if stray is None else f"{stray[0]}:{stray[1]}"
            problem = "a completion is entered twice" if stray is None else f"completion {name} was never entered"
            raise ChainBroken(row.id, last, name, problem)
        removals.check_end(last)
