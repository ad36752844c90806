"""Verify the hash chain of a conversation against its rows.

Every entry is linked to the entry before it, and commits to the final state of a row. So a row that was changed, deleted,
inserted or moved is found, with the first entry that differs. Rows without an entry (turns, tool calls, binaries,
prompts) must agree with the rows that have one. `docs/explanation/audit.md` lists what is proven of every column.

Not found: a history that somebody who can write every table cut off or wrote again. A checkpoint shows that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn
from uuid import UUID

from sqlalchemy import Connection

from convokit.audit import consistency, references, sql
from convokit.audit.branch_heads import check_heads
from convokit.audit.removal_checks import RemovalChecker
from convokit.domain import hashchain
from convokit.domain.content import find_blob_references
from convokit.domain.conversation import ConversationRow
from convokit.domain.hashchain import Entry
from convokit.domain.message import MessageRow
from convokit.domain.stored_request import compute_prompt_digest
from convokit.domain.turn import CallRow
from convokit.domain.verification import CheckpointHead, Verified
from convokit.errors import ChainBroken
from convokit.store import api_calls, chain, conversations

# The columns that a redaction sets to NULL. The salt goes too, so that nobody can guess a short text from the commitment.
CLEARED_MESSAGE_COLUMNS = ("content", "parts", "tool_calls", "name", "refusal", "extra", "kind", "item", "salt")
CLEARED_CALL_COLUMNS = ("details", "error", "salt")


def verify_conversation(
    connection: Connection,
    tenant: str,
    conversation_id: UUID,
    known: CheckpointHead | None = None,
    *,
    progress: Callable[[int, int], object] | None = None,
) -> Verified | None:
    """Verify all rows of a conversation; return None when the conversation does not exist. Raises: ChainBroken.

    `known` is its head in a checkpoint: the chain must still have that entry, with that hash. The result lists the branches
    whose heads moved away from those in the checkpoint. `progress` is called after each page of entries, with the number of
    entries that were checked and the number of all.
    """
    row = conversations.find(connection, tenant, conversation_id)
    return None if row is None else ChainVerifier(connection, row, known, progress).verify()


@dataclass(slots=True, repr=False)
class ChainVerifier:
    """Walks along the chain of one conversation, a page of entries at a time. The fields say how far it is."""

    connection: Connection
    row: ConversationRow
    known: CheckpointHead | None
    progress: Callable[[int, int], object] | None = None
    last_entry: int = 0
    last_seq: int = 0
    run_start: int = 0
    """The `run_start_seq` that the last message has: its path has no gap in the seqs from there on."""
    calls: int = 0
    imported: bool = False
    """Whether the chain starts with the entry of a copy or an import."""
    referring: dict[bytes, int] = field(default_factory=dict)
    """The digest of every binary that a message refers to, and the first entry whose message does."""
    checked_prompts: set[bytes] = field(default_factory=set)
    """Digests of the prompts that this page and the page before name: most calls name the same ones."""

    def verify(self) -> Verified:
        """Check everything. Raises: ChainBroken."""
        row = self.row
        removals = RemovalChecker(self.connection, row.id)
        previous = hashchain.genesis_hash(row.id)
        for page in chain.read_entry_pages(self.connection, row.id):
            messages, calls = self._read_messages(page), self._read_calls(page)
            for entry in page:
                self._check_link(entry, previous)
                previous = bytes(entry.hash)  # some drivers return a memoryview
                if entry.kind == "message":
                    self._check_message(entry, messages, removals)
                elif entry.kind == "completion":
                    self._check_call(entry, calls, removals)
                elif entry.kind == "import":
                    self._check_import(entry)
                else:
                    removals.check_entry(entry, self.last_seq)
                self._check_known(entry)
            self._check_prompts(page, calls, removals)
            if self.progress is not None:  # an altered row may state another number of entries
                self.progress(self.last_entry, max(row.last_entry, self.last_entry))
        # The checks below report a row by its entry, so they need a chain that is known to be whole.
        references.check_identity(self.connection, row, imported=self.imported)
        self._check_end(previous, removals)
        references.check_blobs(self.connection, row, self.last_entry, self.referring)
        tool_calls = references.check_tool_calls(self.connection, row, self.last_entry)
        consistency.check_consistency(self.connection, row, self.last_entry, imported=self.imported)
        # An erasure empties all branches. The chain has its entry, so the heads of an earlier checkpoint say nothing.
        erased = self.known is not None and removals.last_erasure > self.known.entries
        heads = check_heads(self.connection, row, None if erased else self.known)
        return Verified(
            conversation_id=row.id,
            entries=self.last_entry,
            rows=self.last_seq + self.calls + removals.checked_count,
            messages=self.last_seq,
            calls=self.calls,
            removals=removals.checked_count,
            tool_calls=tool_calls,
            blobs=len(self.referring),
            head=previous.hex(),
            **heads._asdict(),
        )

    def _raise_broken(self, entry: Entry, problem: str) -> NoReturn:
        raise ChainBroken(self.row.id, entry.number, entry.ref, problem)

    def _read_messages(self, page: list[Entry]) -> list[MessageRow]:
        """Return the messages that the page's entries name, last first: entries name messages in the order of seq."""
        count = sum(entry.kind == "message" for entry in page)
        return sql.read_messages(self.connection, self.row.id, self.last_seq, count)[::-1] if count else []

    def _read_calls(self, page: list[Entry]) -> dict[int, CallRow]:
        """Return the API calls that the page's entries name, by the number of the entry."""
        keys = {entry.number: references.parse_call_ref(entry.ref) for entry in page if entry.kind == "completion"}
        calls = sql.read_calls(self.connection, self.row.id, [key for key in keys.values() if key is not None])
        return {number: calls[key] for number, key in keys.items() if key in calls}

    def _check_link(self, entry: Entry, previous: bytes) -> None:
        self.last_entry += 1
        if entry.number != self.last_entry:
            problem = f"entry {self.last_entry} is missing (next is {entry.number})"
            if entry.number < self.last_entry:
                problem = f"unexpected entry number {entry.number}: entries are numbered from 1"
            raise ChainBroken(self.row.id, self.last_entry, entry.ref, problem)
        commitment = bytes(entry.commitment)
        linked = hashchain.compute_entry_hash(previous, entry.number, entry.kind, entry.ref, commitment)
        if linked != bytes(entry.hash):
            self._raise_broken(entry, "this entry or the one before it was altered")

    def _check_message(self, entry: Entry, rows: list[MessageRow], removals: RemovalChecker) -> None:
        self.last_seq += 1
        row = rows.pop() if rows else None
        if entry.ref != str(self.last_seq):
            self._raise_broken(entry, f"the entry should name message {self.last_seq}")
        if row is None or row.seq > self.last_seq:
            self._raise_broken(entry, f"message {entry.ref} is missing")
        if row.seq < self.last_seq:
            raise ChainBroken(self.row.id, entry.number, str(row.seq), f"message {row.seq} has no entry in the chain")
        removal = removals.find_removal(entry)
        if row.status == "redacted":
            self._check_redacted(entry, row, removal=removal)
        elif removal:
            self._raise_broken(entry, f"message {entry.ref} was removed by entry {removal}, and has its text again")
        elif row.salt is None:
            self._raise_broken(entry, f"message {entry.ref} has no salt, and no removal explains it")
        elif row.hash_input().commitment != bytes(entry.commitment):
            self._raise_broken(entry, f"message {entry.ref} is not what was written")
        self._check_position(entry, row)
        if row.parts is not None or row.extra is not None:
            for digest in find_blob_references(row.parts, row.extra):
                self.referring.setdefault(digest, entry.number)

    def _check_redacted(self, entry: Entry, row: MessageRow, *, removal: int) -> None:
        if not removal:
            self._raise_broken(entry, f"message {entry.ref} is marked as redacted, and no removal explains it")
        left = [name for name in CLEARED_MESSAGE_COLUMNS if getattr(row, name) is not None]
        if left:
            self._raise_broken(entry, f"message {entry.ref} was removed, and still has its {', '.join(left)}")

    def _check_position(self, entry: Entry, row: MessageRow) -> None:
        # The commitment covers these columns as well, but a redacted message has lost the salt of its commitment.
        if row.parent_seq is not None and not 0 < row.parent_seq < row.seq:
            self._raise_broken(entry, f"message {entry.ref} follows {row.parent_seq}, which is not before it")
        follows = row.parent_seq is not None and row.parent_seq == row.seq - 1
        self.run_start = self.run_start if follows else row.seq
        if row.run_start_seq != self.run_start:
            problem = f"run_start_seq of message {entry.ref} is {row.run_start_seq}, expected {self.run_start}"
            self._raise_broken(entry, problem)

    def _check_call(self, entry: Entry, calls: dict[int, CallRow], removals: RemovalChecker) -> None:
        row = calls.get(entry.number)
        if row is None:
            self._raise_broken(entry, f"API call {entry.ref} is missing")
        self.calls += 1
        removal = removals.find_removal(entry)
        # A removed call may keep its salt: then its commitment is checked below.
        left = [name for name in CLEARED_CALL_COLUMNS if getattr(row, name) is not None and name != "salt"]
        if removal and left:
            problem = f"API call {entry.ref} was redacted by entry {removal}, and still has its {', '.join(left)}"
            self._raise_broken(entry, problem)
        if row.salt is None:
            if not removal:
                self._raise_broken(entry, f"API call {entry.ref} has no salt, and no removal explains it")
        elif row.hash_input().commitment != bytes(entry.commitment):
            self._raise_broken(entry, f"API call {entry.ref} is not what was written")

    def _check_import(self, entry: Entry) -> None:
        commitment = hashchain.compute_commitment(b"", [entry.ref])
        if not references.is_import_ref(entry.ref) or commitment != bytes(entry.commitment):
            self._raise_broken(entry, "the entry names no chain that was copied or imported")
        self.imported = self.imported or not self.last_seq  # behind a message, it says nothing of those before

    def _check_known(self, entry: Entry) -> None:
        known = self.known
        if known is not None and entry.number == known.entries and bytes(entry.hash).hex() != known.head:
            problem = (
                f"the checkpoint of {known.checkpoint_created_at} has another hash here: the history was rewritten"
            )
            self._raise_broken(entry, problem)

    def _check_prompts(self, page: list[Entry], calls: dict[int, CallRow], removals: RemovalChecker) -> None:
        """Check the developer prompts and tool sets that the page's calls name."""
        named: dict[bytes, tuple[Entry, bool]] = {}
        for entry in page:
            if entry.kind == "completion":
                removed = bool(removals.find_removal(entry))
                for digest in references.find_prompt_digests(calls[entry.number].manifest):
                    first = named.get(digest)
                    # A prompt may be missing only if a removal covers every call on the page that names it.
                    named[digest] = (entry, removed) if first is None or first[1] else first
        unchecked = [digest for digest in named if digest not in self.checked_prompts]
        bodies = sql.read_prompts(self.connection, self.row.tenant, unchecked)
        uses = sql.read_prompt_uses(self.connection, self.row.id, unchecked)
        for digest in unchecked:
            entry, removed = named[digest]
            name, body = f"prompt:{digest.hex()}", bodies.get(digest)
            if body is not None and compute_prompt_digest(body) != digest:
                raise ChainBroken(self.row.id, entry.number, name, "the prompt does not match its digest")
            if body is None and not removed:
                raise ChainBroken(self.row.id, entry.number, name, "the prompt is missing, and no removal explains it")
            if digest not in uses:
                problem = "the row that says that this conversation uses the prompt is missing"
                raise ChainBroken(self.row.id, entry.number, f"prompt_use:{digest.hex()}", problem)
        self.checked_prompts = {digest for digest in named if digest in self.checked_prompts or digest in bodies}

    def _check_end(self, previous: bytes, removals: RemovalChecker) -> None:
        """Check that the chain ends where the conversation says, and that no row is left over."""
        row, last = self.row, self.last_entry
        known = self.known
        if known is not None and known.entries > last:
            time = known.checkpoint_created_at
            problem = f"the chain has {last} entries, {known.entries} in the checkpoint of {time}: its end was cut off"
            raise ChainBroken(row.id, last, "head", problem)
        if last != row.last_entry:
            problem = f"the chain ends with entry {last}, the conversation's last_entry is {row.last_entry}"
            raise ChainBroken(row.id, last, "head", problem)
        if previous != bytes(row.chain_hash):
            raise ChainBroken(row.id, last, "head", "the hash of the last entry is not the conversation's chain_hash")
        # A message behind the last one, or before the first one, has no entry.
        for extra in sql.read_messages(self.connection, row.id, self.last_seq, 1):
            raise ChainBroken(row.id, last, str(extra.seq), f"message {extra.seq} has no entry in the chain")
        for extra in sql.read_messages(self.connection, row.id, sql.LOWEST_INT, 1):
            if extra.seq < 1:
                raise ChainBroken(row.id, last, str(extra.seq), f"message {extra.seq} has no entry in the chain")
        if row.last_seq != self.last_seq:
            problem = f"the conversation's last_seq is {row.last_seq}, it has {self.last_seq} messages"
            raise ChainBroken(row.id, last, "last_seq", problem)
        if api_calls.count_ended_calls(self.connection, row.id) != self.calls:
            ref = sql.find_unchained_call(self.connection, row.id)
            problem = "an API call has two entries" if ref is None else f"API call {ref} has no entry in the chain"
            raise ChainBroken(row.id, last, "completions" if ref is None else ref, problem)
        removals.check_end(last)
