"""What a context is made of, and why: the builder's account of itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

PartKind = Literal["developer_prompt", "tools", "response_format", "message", "summary"]


@dataclass(slots=True)
class Part:
    """One piece of the request, or one that was left out. `key` is a message's seq (its index for plain dicts).

    A `summary` has the seq of the message that holds its text; None for one that would be made, or could not be.

    A plain dataclass: a turn makes one for every message of its window.
    """

    kind: PartKind
    role: str = ""
    key: int | None = None
    tokens: int = 0
    included: bool = True
    rule: str = ""
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class Earlier:
    """What the request before this one on the path sent of its messages: those from key `first` to key `last`."""

    first: int
    last: int


class LastCall(BaseModel):
    """What the newest call of a path that brought a reply cost. `expected_tokens` is its report's `stable_tokens`.

    `prompt_tokens` and `cached_tokens` are the server's own counts; None where it did not say.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    expected_tokens: int
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


class Report(BaseModel):
    """The window and its budget. All sizes are tokens as counted by `counter`.

    `available` is what the history and this turn may take: the window less the reply's reserve and the fixed parts.
    `start` is the key of the first message sent; everything before it, `dropped_tokens` in all, stayed out.
    `moves_in_tokens` is how many more tokens of messages the path may grow by with `start` where it is, settings and pins being
    the same; None where the strategy does not say (every strategy but `StepWindow`). One token more and `start` moves.
    `stable_tokens` is the beginning of the prompt that the request before this one on the path had too, which is what a cache
    of prompts can serve: the fixed parts, and, where `start` is the same as then, the messages up to the last that was sent
    then. 0 where there was no such request, or where model, counter, step or strategy were others. It takes developer prompt,
    tools and pins to be what they were; a server that caches in blocks, from a least length on, serves less of it.
    `last_call` is set by `chat.context()` alone: what the path's last call took from the cache, beside what was expected.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str | None = None
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
    moves_in_tokens: int | None = None
    stable_tokens: int = 0
    last_call: LastCall | None = None
    parts: tuple[Part, ...]

    @property
    def included(self) -> list[Part]:
        """The parts that are sent, in order."""
        return [part for part in self.parts if part.included]

    @property
    def dropped(self) -> list[Part]:
        """The parts that were read and left out. What lies before the read window is in `dropped_tokens` only."""
        return [part for part in self.parts if not part.included]


def stable_tokens(fixed_tokens: int, parts: Iterable[Part], start: int | None, earlier: Earlier | None) -> int:
    """Return `Report.stable_tokens`; `fixed_tokens` are those that come before the messages."""
    if earlier is None:
        return 0
    if start != earlier.first:
        return fixed_tokens
    sent = (
        part
        for part in parts
        if part.key is not None and part.included and (part.key <= earlier.last or part.kind == "summary")
    )
    return fixed_tokens + sum(part.tokens for part in sent)


class Context(BaseModel):
    """A `messages` array and the report of how it came about."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    messages: list[dict[str, Any]]
    report: Report

    def noted(self, part: Part | None) -> Context:
        """Return the context with one more part in its report."""
        if part is None:
            return self
        report = self.report.model_copy(update={"parts": (*self.report.parts, part)})
        return self.model_copy(update={"report": report})
