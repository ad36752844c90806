"""Check the removals of a conversation against their entries in the chain.

A removal row claims that rows were redacted. The claims are read before the chain. The walk reaches the entry of a removal
after the entries of the rows that it redacted; that entry proves the claim.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection

from convokit.audit import references, sql
from convokit.domain.hashchain import Entry
from convokit.domain.removal import EVERYTHING, RemovalRow
from convokit.errors import ChainBroken


class RemovalChecker:
    """Knows the claimed removals of one conversation, and checks them in the order of their entries.

    An erasure covers all entries before it. So memory holds one number for each single redaction since the last erasure.
    """

    def __init__(self, connection: Connection, conversation_id: UUID) -> None:
        self._conversation_id = conversation_id
        self._redactions: dict[str, int] = {}
        self.last_erasure = 0
        """The number of the last entry that erased everything, 0 when there is none."""
        self._unchecked = sql.read_removals(connection, conversation_id)
        self.checked_count = 0
        for row in sql.read_removals(connection, conversation_id):
            if row.ref == EVERYTHING:
                self.last_erasure, self._redactions = row.number, {}
            else:
                self._redactions.setdefault(row.ref, row.number)  # the first one emptied the row

    def find_removal(self, entry: Entry) -> int:
        """Return the number of a claimed removal that covers the row of an entry, 0 when there is none."""
        redaction = self._redactions.get(f"{entry.kind}:{entry.ref}", 0)
        if redaction > entry.number:
            return redaction
        return self.last_erasure if self.last_erasure > entry.number else 0

    def check_entry(self, entry: Entry, last_seq: int) -> None:
        """Check the entry of a removal, which follows `last_seq` messages. Raises: ChainBroken."""
        problem = self._find_problem(entry, next(self._unchecked, None), last_seq)
        if problem is not None:
            raise ChainBroken(self._conversation_id, entry.number, entry.ref, problem)
        self.checked_count += 1

    def _find_problem(self, entry: Entry, row: RemovalRow | None, last_seq: int) -> str | None:
        if entry.kind != ("erasure" if entry.ref == EVERYTHING else "redaction"):
            return f"an entry of kind {entry.kind!r} cannot name {entry.ref!r}"
        if not references.is_removal_ref(entry.ref, last_seq):
            return f"{entry.ref!r} names no row that can be removed"
        if row is None or row.number > entry.number:
            return f"the record of {entry.kind} {entry.number} is missing"
        if row.number < entry.number:
            return f"the record of removal {row.number} has no entry in the chain"
        if row.ref != entry.ref or row.hash_input().commitment != bytes(entry.commitment):
            return f"the record of {entry.kind} {entry.number} is not what was written"
        return None

    def check_end(self, last_entry: int) -> None:
        """Check that every claim had its entry. Raises: ChainBroken."""
        for row in self._unchecked:
            problem = f"the record of removal {row.number} has no entry in the chain"
            raise ChainBroken(self._conversation_id, last_entry, f"removal:{row.number}", problem)
