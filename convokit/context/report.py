"""Report a context: what is sent, what stays out, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, computed_field

from convokit.context.scale import ScaleSource
from convokit.context.strategy import Item
from convokit.context.summary import CountedSummary, remove_heading
from convokit.context.window import Window
from convokit.domain.message import PASSAGE, extract_text
from convokit.domain.vocabularies import NEAR

PartKind = Literal["developer_prompt", "tools", "response_format", "message", "summary"]
_EXCERPT_CHARS = 60
_UNUSED = "messages stay out because of an estimate, and a third of the window may be unused"


@dataclass(slots=True)
class Part:
    """One part of the request, or one that was left out. `key` is a message's seq (its index for plain dicts).

    A `summary` has the seq of the message that holds its text; None for one that would be made, or could not be made.
    """

    # A plain dataclass: every turn makes one for each message of its window.

    kind: PartKind
    role: str = ""
    key: int | None = None
    tokens: int = 0
    included: bool = True
    rule: str = ""
    excerpt: str = ""


@dataclass(frozen=True, slots=True)
class PreviousRequest:
    """The messages that the previous request on the path sent: those from key `first` to key `last`."""

    first: int
    last: int


class LastCall(BaseModel):
    """The cost of the path's newest call that brought a reply. `expected_tokens` is its report's `stable_tokens`.

    `prompt_tokens` and `cached_tokens` are the server's own counts; None where it reported none.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    expected_tokens: int
    prompt_tokens: int | None = None
    cached_tokens: int | None = None


class Report(BaseModel):
    """The window and its budget. All sizes are tokens of the server, as far as they are known.

    `counted` is what `counter` said of the request. `factor` is what the server's tokens are to the counter's, for all that was
    sent before. `factor_source` says where it is from: "reported" by the server with earlier replies, its "refusal" of this
    request, or nothing yet, so that it depends on the counter: "exact" or "estimate".
    `fill` is the share of the room that is used, in percent; the room is the window less the reply's reserve.
    `hint` is a sentence about what to do if an estimate leaves room unused, None if there is nothing to do.
    `available` is what the history and this turn may take: the window less the reply's reserve and the fixed parts.
    `start` is the key of the first message sent; everything before it, `dropped_tokens` in all, stayed out.
    `moves_in_tokens` is how many more tokens of messages fit before `start` moves, settings and pins being the same; None for
    every strategy but `StepWindow`.
    `stable_tokens` is the beginning of the prompt that the previous request on the path had too. A provider's prompt cache can
    serve it: the fixed parts and, if `start` is the same, the messages up to the last one sent then. It is 0 without a previous
    request, or if model, counter, step or strategy changed. It assumes that developer prompt, tools and pins are the same. A
    server that caches in blocks, from a minimum length on, serves less.
    `last_call` is set by `chat.context()` only.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str | None = None
    counter: str
    context_tokens: int
    reply_tokens: int
    step_tokens: int | None
    fixed_tokens: int
    available: int
    tokens: int
    counted: int = 0
    factor: float = 1.0
    factor_source: ScaleSource = "exact"
    strategy: str
    rule: str
    start: int | None
    dropped_tokens: int
    moves_in_tokens: int | None = None
    stable_tokens: int = 0
    last_call: LastCall | None = None
    parts: tuple[Part, ...]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fill(self) -> int:
        """The share of the room that is used, in percent."""
        return round(100 * self.tokens / max(self.available + self.fixed_tokens, 1))

    @computed_field  # type: ignore[prop-decorator]
    @property
    def hint(self) -> str | None:
        """What to do about room that may be unused because of an estimate."""
        if self.factor_source != "estimate" or not self.dropped_tokens:
            return None
        install = "" if self.counter.startswith(NEAR) else "install convokit-sql[tokens], "
        return f"{_UNUSED}: {install}pass a counter, or use a server that reports usage"

    @property
    def included(self) -> list[Part]:
        """The parts that are sent, in order."""
        return [part for part in self.parts if part.included]

    @property
    def dropped(self) -> list[Part]:
        """The parts that were read and left out. Messages before those that were read are in `dropped_tokens` only."""
        return [part for part in self.parts if not part.included]


class Context(BaseModel):
    """A `messages` array and the report that explains it."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    messages: list[dict[str, Any]]
    report: Report

    def with_part(self, part: Part | None) -> Context:
        """Return the context with one more part in its report."""
        if part is None:
            return self
        report = self.report.model_copy(update={"parts": (*self.report.parts, part)})
        return self.model_copy(update={"report": report})


def count_stable_tokens(
    fixed_tokens: int, parts: Iterable[Part], start: int | None, previous: PreviousRequest | None
) -> int:
    """Return `Report.stable_tokens`; `fixed_tokens` are those that come before the messages."""
    if previous is None:
        return 0
    if start != previous.first:
        return fixed_tokens
    sent = (
        part
        for part in parts
        if part.key is not None and part.included and (part.key <= previous.last or part.kind == "summary")
    )
    return fixed_tokens + sum(part.tokens for part in sent)


def list_message_parts(
    items: Sequence[Item], passages: Sequence[Item], window: Window, pins: Sequence[Item], left_out: Mapping[int, str]
) -> list[Part]:
    """Return a part for each message that was read, in order, and one for the summary."""
    first = items[window.start].key
    singles, pinned = {item.key for item in window.singles}, {item.key for item in pins}
    earlier = [item for item in pins if item.key < items[0].key]
    shown = [*earlier, *insert_passages(passages, items)]
    excerpts = make_excerpts([item.shape.get("content") for item in shown])
    parts = []
    for item, excerpt in zip(shown, excerpts, strict=True):
        rule, included = "", True
        if item.key in left_out:
            rule, included = left_out[item.key], False
        elif item.status == PASSAGE:
            rule = "passage for this turn"
        elif item.key in singles:
            rule = "pinned" if item.key in pinned else f"selected ({window.rule})"
        elif item.key < first:
            rule = "pinned, but does not fit" if item.key in pinned else f"before the window ({window.rule})"
            included = False
        parts.append(Part("message", item.shape["role"], item.key, item.tokens, included, rule, excerpt))
    summary = window.summary or window.unfit_summary
    if summary is not None:
        parts.insert(len(earlier) + window.start, _summary_part(summary, fits=window.summary is not None))
    return parts


def _summary_part(summary: CountedSummary, *, fits: bool) -> Part:
    item = summary.item
    rule = f"of messages {summary.first} to {summary.last}" + ("" if fits else ", but does not fit")
    excerpt = make_excerpt(remove_heading(extract_text(item.shape["content"])))
    return Part("summary", item.shape["role"], item.key, item.tokens, fits, rule, excerpt)


def insert_passages(passages: Sequence[Item], items: Sequence[Item]) -> list[Item]:
    """Return the items with the passages right before the question of the current turn."""
    turns = [index for index, item in enumerate(items) if item.starts_turn] if passages else []
    question = turns[-1] if turns else 0
    return [*items[:question], *passages, *items[question:]]


def make_excerpts(contents: Iterable[Any]) -> list[str]:
    """Return the beginning of the text of each message content."""
    texts = [extract_text(content) for content in contents]
    return [make_excerpt(text) for text in texts]


def make_excerpt(text: str) -> str:
    """Return the beginning of a text on one line, at most 60 characters."""
    return _shorten(text[: _EXCERPT_CHARS * 2])


@lru_cache(maxsize=4096)  # nearly every message of a window was in the window of the turn before
def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _EXCERPT_CHARS else line[: _EXCERPT_CHARS - 1] + "…"
