"""Define manifests, replayed requests and their differences.

A manifest is stored with every API call, so that the request can be built again. It has the seqs of the messages, digests of
the developer prompt and the tools, and every other input of the request's bytes. It has no headers, because they may contain
secrets.
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

DIGEST_BYTES = 16
# Settings of the context builder. The first value is the default and is not written.
_CHOICES = {
    "partial": ("include", "mark", "leave_out"),
    "mode": ("drop", "strict", "pass"),
    "unsupported": ("raise", "placeholder"),
}
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
"""The reasons why two requests differ, explained at `Diff`."""


def compute_prompt_digest(text: str) -> bytes:
    """Return the key under which a developer prompt or a tool set is stored."""
    return hashlib.sha256(text.encode("utf-8")).digest()[:DIGEST_BYTES]


@dataclass(frozen=True, slots=True)
class Manifest:
    """The inputs of one request."""

    renderer: int
    """The version of the code that makes the bytes of requests."""
    window: list[list[int]]
    """The seqs of the messages that were sent: ranges `[first, last]` in order, both ends included."""
    profile: Profile
    start: int | None = None
    """The seq at which the window starts. Stored only if older messages were sent too (pins)."""
    prompt: bytes | None = None
    """The digest of the developer prompt."""
    tools: bytes | None = None
    """The digest of the tools."""
    params: RequestParams = field(default_factory=RequestParams, repr=False)
    partial: Literal["include", "mark", "leave_out"] = "include"
    mode: Literal["drop", "strict", "pass"] = "drop"
    unsupported: Literal["raise", "placeholder"] = "raise"
    stream: bool = False
    stable: int = 0
    """`Report.stable_tokens` of the request."""
    transcript: bool = False
    """Whether the messages were sent as one text, as a call for a rolling summary does."""
    at: float | None = None
    """The Unix time of the request. Stored only if it included a spoken reply, which is sent by its id until that expires."""

    def list_seqs(self, last: int) -> list[int]:
        """Return the seqs that were sent. Raises: ValueError for a range beyond `last`, the newest message."""
        if any(not 1 <= first <= end <= last for first, end in self.window):
            raise ValueError("the window has messages that do not exist")
        return [seq for first, end in self.window for seq in range(first, end + 1)]

    def shift(self, after: int, by: int) -> Manifest:
        """Return a copy for the same request, after its messages behind seq `after` got a seq that is `by` larger."""
        window: list[list[int]] = []
        for first, last in self.window:
            if first <= after < last:
                window += [[first, after], [after + 1 + by, last + by]]
            else:
                window.append([first, last] if last <= after else [first + by, last + by])
        start = self.start if self.start is None or self.start <= after else self.start + by
        return replace(self, window=window, start=start)

    def to_json(self) -> str:
        values: dict[str, Any] = {"v": self.renderer, "window": self.window}
        for name in ("start", "at"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name)
        for name in ("prompt", "tools"):
            if getattr(self, name) is not None:
                values[name] = getattr(self, name).hex()
        if self.params:
            values["params"] = self.params
        values["profile"] = self.profile.overrides
        for name, choices in _CHOICES.items():
            if getattr(self, name) != choices[0]:
                values[name] = getattr(self, name)
        for name in ("stream", "stable", "transcript"):
            if getattr(self, name):
                values[name] = getattr(self, name)
        return dump_json(values)

    @classmethod
    def from_json(cls, stored: str) -> Manifest:
        """Parse a stored manifest. Raises: ValueError."""
        try:
            values: dict[str, Any] = json.loads(stored)
            chosen = {name: values.get(name, choices[0]) for name, choices in _CHOICES.items()}
            for name, value in chosen.items():
                if value not in _CHOICES[name]:
                    raise ValueError(f"{name} has the unknown value {value!r}")
            return cls(
                renderer=int(values["v"]),
                window=[[int(first), int(last)] for first, last in values["window"]],
                profile=Profile(**values["profile"]),
                start=values.get("start"),
                prompt=_parse_digest(values.get("prompt")),
                tools=_parse_digest(values.get("tools")),
                params=cast("RequestParams", dict(values.get("params", {}))),
                stream=values.get("stream") is True,
                stable=int(values.get("stable", 0)),
                transcript=values.get("transcript") is True,
                at=values.get("at"),
                **chosen,
            )
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a manifest ({type(error).__name__})") from None


def _parse_digest(stored: str | None) -> bytes | None:
    return None if stored is None else bytes.fromhex(stored)


class Replay(BaseModel):
    """The request of one API call, built again from stored rows.

    `status` is one of:

    - "exact": the bytes have the salted digest of the bytes that were sent
    - "redacted": a part of the request was removed since, so its bytes cannot be compared
    - "mismatch": the bytes differ from those that were sent

    Headers are never stored, so a replay has none.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    status: ReplayStatus
    turn_id: UUID
    call: int
    """The number of the call within its turn, from 1. A call whose reply came late has its number plus 1,000."""
    model: str
    """The requested model."""
    started_at: datetime
    """The start of the call, in UTC."""
    body: bytes | None = Field(default=None, repr=False)
    """The bytes of the request's body. None unless `status` is "exact"."""
    messages: list[dict[str, Any]] = Field(default_factory=list, repr=False)
    """The messages of the body. The content of a redacted message says that it was redacted."""
    seqs: list[int | None] = Field(default_factory=list)
    """For each message of the body, the seq of the stored message; None for the developer prompt. Empty if the server gets
    several messages as one."""
    prompt: str | None = None
    """The digest of the developer prompt: `chat.prompt(digest)` returns its text. None: there was none."""
    parameters: dict[str, Any] = Field(default_factory=dict, repr=False)
    """All other keys of the body except the model."""
    problem: str | None = None
    """The part that was removed, or the difference. None if `status` is "exact"."""


class Diff(BaseModel):
    """The first difference between two requests. A server's prompt cache cannot serve `b` from there on.

    `reason` is the first that applies, in the order of the prompt:

    - `model`
    - `tools`, `response_format`: servers put them before the messages
    - `developer_prompt`
    - `profile`: the facts about the server differ
    - `window`: the window starts at another message
    - `selection`: a pin or a strategy added or removed a single message
    - `redacted`: a message was redacted
    - `partial`: the policy for partial replies differs
    - `passages`: passages are sent with their own turn only
    - `audio`: a spoken reply expired and is sent as text
    - `branch`: the messages are on another branch
    - `altered`: a message differs for none of these reasons
    - `parameter`: all messages that both have are equal, and a parameter differs, which does not change the prompt
    - `continued`: one request has all messages of the other, and more
    - `identical`

    `a` and `b` are the values that differ.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    reason: Reason
    why: str
    """The reason as a sentence."""
    turns: tuple[UUID, UUID]
    calls: tuple[int, int]
    place: str | None = None
    """The path of the first difference: `model`, `tools`, `messages[3].content`, a parameter's name. None: no difference."""
    index: int | None = None
    """The index of the first message that differs."""
    a: str | None = None
    """The value in `a`, shortened to the part that differs. None: `a` has no such value."""
    b: str | None = None
    common_messages: int = 0
    """The number of messages that both requests start with."""
    common_tokens: int = 0
    """Tokens of the common start, tools included, as convokit counts them. 0 if tools, response format or model differ."""
    cached_tokens: int | None = None
    """Tokens of `b` that its server reported as served from the prompt cache. None: it reported none."""
