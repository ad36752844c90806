"""Define what the model saw in a past call."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from convokit.domain.reply import Usage

SentReason = Literal["window", "pinned", "passage", "summary"]
LeftOutReason = Literal[
    "before_window", "summarized", "passage_of_other_turn", "partial_left_out", "late", "redacted", "note", "unknown"
]


class PastPart(BaseModel):
    """One message of the path of a call.

    `reason` says why it was sent:

    - "window": it is in the window
    - "pinned": it is from before the window, and was pinned
    - "passage": a retrieved text of this turn's question
    - "summary": a rolling summary of earlier messages

    or why it was not sent:

    - "before_window": the window started behind it
    - "summarized": the same, and a summary was sent in its place: the part whose reason is "summary"
    - "passage_of_other_turn": passages are sent with their own question only
    - "partial_left_out": it broke off, and the policy left such replies out
    - "late": the reply came after its turn was over, so no request has it
    - "redacted": it is redacted now, so nothing more is known
    - "note": another program's instruction, which is never sent
    - "unknown": the stored rows do not tell
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    seq: int
    role: str
    status: str
    tokens: int
    """Tokens of the message as they were counted when it was stored."""
    included: bool
    reason: SentReason | LeftOutReason
    excerpt: str
    """The beginning of its text as it is now, at most 60 characters."""
    stands_for: tuple[int, int] | None = None
    """The seqs of the first and the last message that a summary was sent for. None: the part is no summary."""


class PastWindow(BaseModel):
    """What the model saw in one API call, and why the rest of the path stayed out, from stored rows."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    turn_id: UUID
    call: int
    model: str
    """The requested model."""
    start: int | None
    """The seq at which the window started. None: the call sent no message, or it made a summary."""
    parts: list[PastPart]
    """Messages of the path in order: those that were sent, all between them, and at most 50 before them.

    Of the path, the newest `limit` messages before the reply are read. Of earlier ones, only pins and summaries are here.
    """
    has_earlier: bool
    """Whether the path has messages before those that were read."""
    sent_messages: int
    """The number of messages that were sent. It is larger than that in `parts` if the window has more than `limit`."""
    sent_tokens: int
    """Tokens of the messages that were sent, as they were counted when they were stored."""
    is_summary_request: bool = False
    """Whether the call had the messages summarized. They were sent as one text."""
    prompt: str | None = None
    """The digest of the developer prompt: `chat.prompt(digest)` returns its text."""
    tools: str | None = None
    """The digest of the tools."""
    prompt_tokens: int | None = None
    """Tokens of the developer prompt, counted now. None: there was none, or it was erased."""
    tools_tokens: int | None = None
    stable_tokens: int = 0
    """Tokens at the beginning of the request that the next request repeats, as they were counted."""
    usage: Usage = Usage()
    """What the server reported of the call, or what was estimated."""
    counted_tokens: int | None = None
    """Tokens of the whole request as they were counted before it was sent. None: they are stored with a reply only."""
    reply_limit: int | None = None
    """The largest reply that the request allowed, in tokens. None: it set no limit."""
    context_tokens: int | None = None
    """The size of the model's window as this kit knows it now. None: it does not know it. It is not stored with a call."""

    @property
    def factor(self) -> float | None:
        """The prompt tokens that the server reported, divided by `counted_tokens`. None: one of them is not known."""
        reported = self.usage.prompt_tokens if self.usage.source == "reported" else None
        return reported / self.counted_tokens if reported and self.counted_tokens else None
