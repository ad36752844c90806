"""What was lawfully removed, while a chain is walked.

A removal row claims that a row was emptied; its entry in the chain, which comes later than the row's own, proves the claim. So
the claims are read first, and by the walk's end each has been proven by its entry.
"""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import Connection

from convokit.audit import references, sql
from convokit.domain import hashchain as chains
from convokit.errors import ChainBroken

EVERYTHING = "*"


class Removals:
    """The removals of one conversation. Held: one number for each since its last erasure, which covers all before it."""

    def __init__(self, connection: Connection, conversation_id: UUID) -> None:
        self._connection = connection
        self._conversation_id = conversation_id
        self._named: dict[str, int] = {}
        self._erasure = 0
        self._claims = sql.removals(connection, conversation_id)
        self.count = 0
        for row in sql.removals(connection, conversation_id):
            if row.ref == EVERYTHING:
                self._erasure, self._named = row.number, {}
            else:
                self._named.setdefault(row.ref, row.number)

    def explain(self, kind: str, entry: chains.Entry) -> int:
        """Return the number of a removal that covers a row, 0 where there is none."""
        named = self._named.get(f"{kind}:{entry.ref}", 0)
        if named > entry.number:
            return named
        return self._erasure if self._erasure > entry.number else 0

    def check(self, entry: chains.Entry, messages: int) -> None:
        """Check a removal's entry, behind so many `messages`, against its row. Raises: ChainBroken."""
        problem = None
        row = next(self._claims, None)
        kind = "erasure" if entry.ref == EVERYTHING else "redaction"
        if entry.kind != kind:
            problem = f"{entry.ref!r} is not what an entry of kind {entry.kind} names"
        elif not references.is_removal(entry.ref, messages):
            problem = f"{entry.ref!r} names nothing that was there to be removed"
        elif row is None or row.number > entry.number:
            problem = f"the record of {entry.kind} {entry.number} is missing"
        elif row.number < entry.number:
            problem = f"the record of removal {row.number} was never entered"
        elif row.ref != entry.ref or chains.compute_commitment(bytes(row.salt), row.covered()) != bytes(
            entry.commitment
        ):
            problem = f"the record of {entry.kind} {entry.number} is not what was written"
        if problem is not None:
            raise ChainBroken(self._conversation_id, entry.number, entry.ref, problem)
        self.count += 1

    def check_end(self, last: int) -> None:
        """Check that every claim was entered. Raises: ChainBroken."""
        for row in self._claims:
            problem = f"the record of removal {row.number} was never entered"
            raise ChainBroken(self._conversation_id, last, f"removal:{row.number}", problem)
