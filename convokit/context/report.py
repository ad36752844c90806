"""What a context is made of, and why: the builder's account of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

PartKind = Literal["developer_prompt", "tools", "response_format", "message"]


@dataclass(slots=True)
class Part:
    """One piece of the request, or one that was left out. `key` is a message's seq (its index for plain dicts).

    A plain dataclass: a turn makes one for every message of its window.
    """

    kind: PartKind
    role: str = ""
    key: int | None = None
    tokens: int = 0
    included: bool = True
    rule: str = ""
    excerpt: str = ""


class Report(BaseModel):
    """The window and its budget. All sizes are tokens as counted by `counter`.

    `available` is what the history and this turn may take: the window less the reply's reserve and the fixed parts.
    `start` is the key of the first message sent; everything before it, `dropped_tokens` in all, stayed out.
    """

    model_config = ConfigDict(frozen=True)

    counter: str
    context_tokens: int
    reply_tokens: int
    step_tokens: int
    fixed_tokens: int
    available: int
    tokens: int
    strategy: str
    rule: str
    start: int | None
    dropped_tokens: int
    parts: tuple[Part, ...]

    @property
    def included(self) -> list[Part]:
        """The parts that are sent, in order."""
        return [part for part in self.parts if part.included]

    @property
    def dropped(self) -> list[Part]:
        """The parts that were read and left out. What lies before the read window is in `dropped_tokens` only."""
        return [part for part in self.parts if not part.included]


class Context(BaseModel):
    """A `messages` array and the report of how it came about."""

    model_config = ConfigDict(frozen=True)

    messages: list[dict[str, Any]]
    report: Report
