"""API calls shown again, and what tells two of them apart."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from convokit.domain.turn import Reply, Turn

ReplayStatus = Literal["exact", "redacted", "mismatch"]
Reason = Literal[
    "identical",
    "continued",
    "model",
    "tools",
    "response_format",
    "developer_prompt",
    "profile",
    "window",
    "selection",
    "redacted",
    "partial",
    "passages",
    "audio",
    "branch",
    "altered",
    "parameter",
]
"""Why two requests differ: each is explained at `Diff.reason`."""


class Replay(BaseModel):
    """One API call's request, put together again from what is stored.

    `status` is "exact" when the bytes are the ones that were sent, by their salted digest; "redacted" when something of the
    request was removed since, so that it cannot be compared; "mismatch" when the rows no longer give what was sent.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    status: ReplayStatus
    turn_id: UUID
    call: int
    """The call's number within its turn, from 1; one whose reply came late has 1,000 more."""
    model: str
    """The model that was asked for."""
    started_at: datetime
    """When the call was made, UTC."""
    body: bytes | None = Field(default=None, repr=False)
    """The exact bytes of the request's body; None unless `status` is "exact"."""
    messages: list[dict[str, Any]] = Field(default_factory=list, repr=False)
    """The messages of the body. Where one was redacted, its content says so."""
    parameters: dict[str, Any] = Field(default_factory=dict, repr=False)
    """Everything else of the body, tools and all, but for the model."""
    problem: str | None = None
    """What was removed, or what differs; None when exact."""


class Diff(BaseModel):
    """Where request `b` first differs from request `a`, and why a server's prompt cache cannot serve `b` from there on.

    `reason` is what changed, in the order in which it reaches the prompt: `model`; `tools` and `response_format`, which servers
    put before the messages; `developer_prompt`; `profile` (how the server is spoken to); then the first message that differs:
    `window` (its start moved), `selection` (a pin, or a strategy: a single message came or went), `redacted`, `partial` (the
    policy about replies that broke off), `passages` (they go with their own turn only), `audio` (a spoken reply expired and is
    sent in words), `branch` (another path), `altered` (none of these). `continued` says that one has all messages of the other,
    and more; `parameter` that the messages begin alike and a parameter differs, which leaves the prompt as it is. `identical`
    requests are the same.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    reason: Reason
    why: str
    """The reason in a sentence for people."""
    turns: tuple[UUID, UUID]
    calls: tuple[int, int]
    place: str | None = None
    """What differs first: `model`, `tools`, `messages[3].content`, a parameter's name; None when nothing does."""
    index: int | None = None
    """The index of the first message that differs, if one does."""
    a: str | None = None
    """What `a` has there, shortened to where it differs; None: nothing."""
    b: str | None = None
    common_messages: int = 0
    """How many messages both begin with."""
    common_tokens: int = 0
    """What of the prompt both begin with, tools included, in tokens as they are counted here; 0 where tools, schema or model
    differ."""


TurnLike = Turn | Reply | Replay | UUID | str
"""What names a turn: what came of it, or its id."""
