"""Values that the writes of a turn take and return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from convokit.domain.content import Blob
from convokit.domain.conversation import ConversationRow, SummaryRow
from convokit.domain.message import MessageRow
from convokit.domain.turn import CallRow, IdempotencyKey, ToolCallRow, TurnRow


class Conflict(Exception):  # not a user's error: read again and try once more
    """Someone else moved the conversation since it was read. Nothing was written."""


@dataclass(slots=True, repr=False)
class TurnStart:
    """What `begin` writes. `created` says that the conversation itself is new."""

    conversation: ConversationRow
    created: bool
    branch: int
    question: MessageRow
    completion: CallRow
    owner: str
    lease_us: int
    at: int
    prompts: Sequence[tuple[bytes, str]] = ()
    blobs: Sequence[Blob] = ()
    key: IdempotencyKey | None = None
    described: bool = False
    """Whether the conversation's own settings, subject or title changed."""
    passages: Sequence[MessageRow] = ()
    """What was retrieved for the question: the path leads through them to it."""
    head: int | None = None
    """Where the branch's head was when it was read."""
    follows: MessageRow | None = None
    """What the reply follows, where the question is there already: nothing is asked then, and the branch ends here again."""
    place: Callable[[ConversationRow], None] | None = None
    """Puts what is asked behind the last message of the conversation as it is now. None where it cannot be moved."""


@dataclass(slots=True, repr=False)
class TurnReopen:
    """What `reopen` writes."""

    conversation: ConversationRow
    turn: TurnRow
    completion: CallRow
    owner: str
    lease_us: int
    prompts: Sequence[tuple[bytes, str]] = ()


@dataclass(slots=True, repr=False)
class TurnEnd:
    """What `settle` writes: `rows` builds the replies once the seq before them is known."""

    conversation: ConversationRow
    branch: int
    turn_id: UUID
    epoch: int
    state: str
    rows: Callable[[ConversationRow], list[MessageRow]]
    completion: CallRow | None
    at: int
    error: str | None = None
    first_token_at: int | None = None
    takeover: bool = False
    moves_head: bool = True
    """False where later messages follow the question already: the reply is then a branch of its own."""
    pieces: bool = True
    """Whether pieces of the reply may have been stored on its way."""
    tools_from_seq: int | None = None
    """Where the turn's tool calls begin, when some may have been cut off while they ran."""
    blobs: Sequence[Blob] = ()


@dataclass(slots=True, repr=False)
class TurnUpdate:
    """What `record` writes while the turn stays open: how a call ended, the messages that came of it, the call that follows."""

    conversation: ConversationRow
    branch: int
    turn_id: UUID
    epoch: int
    lease_us: int
    at: int
    rows: Callable[[ConversationRow], list[MessageRow]] = lambda row: []
    ended: CallRow | None = None
    following: CallRow | None = None
    tool_calls: Sequence[ToolCallRow] = ()
    """Tool calls that are about to run."""
    ran: Sequence[ToolCallRow] = ()
    """Tool calls that ran."""
    moves_head: bool = True
    prompts: Sequence[tuple[bytes, str]] = ()
    summary: SummaryRow | None = None
    """What the one message of `rows` stands for, when it is a summary."""
    blobs: Sequence[Blob] = ()

    @property
    def completion(self) -> CallRow | None:
        """The call whose outcome is entered into the chain."""
        return self.ended


@dataclass(slots=True, repr=False)
class Written:
    """What `settle` wrote."""

    conversation: ConversationRow
    rows: list[MessageRow]
