"""What a request was made of, by reference: stored with every API call, so that the request can be put together again.

Messages are named by their seq, developer prompt and tools by a digest, and whatever else the bytes depend on is here as it is.
Headers are not: they may carry secrets, and are recorded nowhere.

API calls shown again, and what tells two of them apart.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from convokit.domain.params import RequestParams
from convokit.domain.profiles import Profile
from convokit.domain.text import dump_json
from convokit.domain.turn import Reply, Turn

DIGEST_BYTES = 16
_WORDS = {
    "partial": ("include", "mark", "leave_out"),
    "mode": ("drop", "strict", "pass"),
    "unsupported": ("raise", "placeholder"),
}
"""Settings that are written down where they are not the first of these."""
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


def compute_prompt_digest(text: str) -> bytes:
    """Return what a developer prompt or tool set is stored under."""
    return hashlib.sha256(text.encode("utf-8")).digest()[:DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a request was made of. `window` holds the seqs that were sent, as closed ranges in order."""

    renderer: int
    """The version of the code that made the bytes."""
    window: list[list[int]]
    profile: Profile
    start: int | None = None
    """Where the window began, where single messages from before it were sent too."""
    prompt: bytes | None = None
    tools: bytes | None = None
    params: RequestParams = field(default_factory=RequestParams, repr=False)
    partial: Literal["include", "mark", "leave_out"] = "include"
    mode: Literal["drop", "strict", "pass"] = "drop"
    unsupported: Literal["raise", "placeholder"] = "raise"
    stream: bool = False
    stable: int = 0
    """`Report.stable_tokens`."""
    transcript: bool = False
    """Whether the messages were sent as one text: it is the call that sums them up."""
    at: float | None = None
    """When it was made (Unix time), where a spoken reply was among its messages: such a reply is named until it expires."""

    def seqs(self, last: int) -> list[int]:
        """Return the seqs that were sent. Raises: ValueError for one that is not among a conversation's first `last`."""
        if any(not 1 <= first <= end <= last for first, end in self.window):
            raise ValueError("it names messages that are not there")
        return [seq for first, end in self.window for seq in range(first, end + 1)]

    def shifted(self, after: int, by: int) -> Manifest:
        """Return the manifest of the same request, its messages behind seq `after` moved back by `by`."""
        window: list[list[int]] = []
        for first, last in self.window:
            if first <= after < last:
                window += [[first, after], [after + 1 + by, last + by]]
            else:
                window.append([first, last] if last <= after else [first + by, last + by])
        start = self.start if self.start is None or self.start <= after else self.start + by
        return replace(self, window=window, start=start)

    def to_json(self) -> str:
        """Return it as it is stored."""
        values: dict[str, Any] = {"v": self.renderer, "window": self.window}
        for name in ("start", "at"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        for name in ("prompt", "tools"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name).hex()
        if self.params:
            values["params"] = self.params
        values["profile"] = self.profile.described
        for name, words in _WORDS.items():
            if getattr(self, name) != words[0]:
                values[name] = getattr(self, name)
        for name in ("stream", "stable", "transcript"):
            if getattr(self, name):
                values[name] = getattr(self, name)
        return dump_json(values)

    @classmethod
    def of(cls, stored: str) -> Manifest:
        """Return what is stored. Raises: ValueError when it is none."""
        try:
            values: dict[str, Any] = json.loads(stored)
            words = {name: values.get(name, known[0]) for name, known in _WORDS.items()}
            if any(word not in _WORDS[name] for name, word in words.items()):
                raise ValueError("it holds a word that is not known")
            return cls(
                renderer=int(values["v"]),
                window=[[int(first), int(last)] for first, last in values["window"]],
                profile=Profile(**values["profile"]),
                start=values.get("start"),
                prompt=_digest(values.get("prompt")),
                tools=_digest(values.get("tools")),
                params=cast("RequestParams", dict(values.get("params", {}))),
                stream=values.get("stream") is True,
                stable=int(values.get("stable", 0)),
                transcript=values.get("transcript") is True,
                at=values.get("at"),
                **words,
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is not what is written here ({type(error).__name__})") from None


def _digest(stored: str | None) -> bytes | None:
    return None if stored is None else bytes.fromhex(stored)


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
