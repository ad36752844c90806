"""Summaries: what a model wrote of the messages that a window left behind.

The text is a message like any other, stored before it is ever sent; this row says which messages it stands for.
"""

from __future__ import annotations

from dataclasses import dataclass

from convokit.domain.message import MessageRow


@dataclass(slots=True)
class SummaryRow:
    """A row of the summary table. It stands for all that lies on the path from `from_seq` to `to_seq`, both included."""

    from_seq: int
    to_seq: int
    created_at: int
    number: int = 0
    message_seq: int = 0


@dataclass(frozen=True, slots=True)
class StoredSummary:
    """A summary with the message that holds its text."""

    row: SummaryRow
    message: MessageRow
