"""Build the `messages` array of a request within a token budget.

The developer prompt and the current turn are always in the array. The strategy chooses the history, `window.py` fits
the choice into the budget, `arrange.py` leaves out what cannot be sent and puts the rest into the form that the profile
asks for. The report accounts for every message.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from convokit.context.arrange import arrange_messages, as_sent, prompt_role
from convokit.context.plain_messages import normalize_message
from convokit.context.report import (
    Context,
    Part,
    PreviousRequest,
    Report,
    count_stable_tokens,
    insert_passages,
    list_message_parts,
    make_excerpt,
)
from convokit.context.scale import TokenScale, compute_scale
from convokit.context.strategy import Item, StepWindow, Strategy, View, find_replayed_start
from convokit.context.summary import CountedSummary
from convokit.context.validity import PartialPolicy, select_sendable
from convokit.context.window import Window, select_window
from convokit.domain.message import INSTRUCTION_ROLES, extract_text
from convokit.domain.profiles import Profile
from convokit.errors import ContextOverflow, InvalidInput
from convokit.settings import Budget
from convokit.tokens.counter import (
    REPLY_PRIMER,
    Counter,
    choose_counter,
    count_message,
    count_schema,
    count_tools,
    is_estimate,
)

DEFAULT_WINDOW_TOKENS = 8192
DEFAULT_REPLY_TOKENS = 1024
EXACT = "exact"
"""The rule and strategy of a window that the caller chose."""
_CERTAIN_SHARE = 0.5
"""The share of estimated tokens that a text surely has. The estimate counts some languages up to twice too high."""


@dataclass(frozen=True, slots=True)
class FixedParts:
    """The parts of a request that do not depend on the history: developer prompt, tools, response schema."""

    developer_prompt: str | None
    parts: tuple[Part, ...]
    tokens: int
    """Their tokens, with those that open the reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextInput:
    """The counted messages of a conversation, and what the context depends on besides.

    `items` are the end of the path, oldest first; `complete` says that they start at its first message. Passages among them
    belong to the current turn. `pins` may lie before the first item. `held_start` is the key before which the window may not
    start. `previous` is what the previous request sent. `summaries` are the path's, the newest first; `summary_reserve` tokens
    are kept free for one. `scale` turns counted tokens into the server's; None scales by the counter's first factor.
    `replays_start` finds the held start from the whole history, where no earlier request stored it.
    `server_decides` lets a current turn that may fit be sent: it overflows only if half of its estimated tokens do.
    `exact_start` is the key of the first message of a window that the caller chose: it is neither trimmed nor added to.
    """

    items: Sequence[Item]
    fixed: FixedParts
    reply_tokens: int | None = None
    complete: bool = True
    held_start: int | None = None
    pins: Sequence[Item] = ()
    model: str | None = None
    previous: PreviousRequest | None = None
    summaries: Sequence[CountedSummary] = ()
    summary_reserve: int = 0
    scale: TokenScale | None = None
    replays_start: bool = False
    server_decides: bool = False
    exact_start: int | None = None


class ContextBuilder:
    """Builds `messages` arrays within a budget.

    Args:
        budget: How many tokens there are.
        profile: How the server wants its messages.
        counter: Counts tokens. Default: the exact vocabulary of the profile's model if it is installed, else an estimate.
        partial: Whether replies that broke off are sent again: "include" them as they are, "mark" them, or "leave_out".
        strategy: Chooses the history that is sent. Default: `StepWindow`.

    >>> builder = ContextBuilder(budget=Budget(context_tokens=4096))
    >>> context = builder.build(developer_prompt="Be brief.", history=[{"role": "user", "content": "Hello"}])
    >>> [message["role"] for message in context.messages]
    ['system', 'user']
    """

    def __init__(
        self,
        *,
        budget: Budget | None = None,
        profile: Profile | None = None,
        counter: Counter | None = None,
        partial: PartialPolicy = "include",
        strategy: Strategy | None = None,
    ) -> None:
        self.profile = profile or Profile()
        self.budget = budget or Budget()
        self.counter = choose_counter(self.profile, counter)
        self.partial: PartialPolicy = partial
        self.strategy = strategy or StepWindow()

    def with_budget(self, budget: Budget) -> ContextBuilder:
        """Return a builder that differs in its budget only."""
        other = copy(self)
        other.budget = budget
        return other

    @property
    def window_tokens(self) -> int:
        """The whole window: the budget's own, else the profile's, else 8,192."""
        return self.budget.context_tokens or self.profile.window_tokens or DEFAULT_WINDOW_TOKENS

    @property
    def reply_tokens(self) -> int:
        """The tokens kept free for the reply: the budget's own, else 1,024 or a quarter of a smaller window."""
        return self.budget.reply_tokens or min(DEFAULT_REPLY_TOKENS, self.window_tokens // 4)

    def available(self, fixed_tokens: int, reply_tokens: int | None = None) -> int:
        """Return what is left for history and the current turn: min(input limit, window - reply) - fixed parts."""
        limit = self.window_tokens - (reply_tokens or self.reply_tokens)
        if self.profile.max_input_tokens is not None:
            limit = min(limit, self.profile.max_input_tokens)
        return limit - fixed_tokens

    def build(
        self,
        *,
        developer_prompt: str | None = None,
        history: Sequence[Mapping[str, Any]] = (),
        tools: Sequence[Mapping[str, Any]] = (),
        response_format: Any = None,
        pinned: Collection[int] = (),
    ) -> Context:
        """Return the array for plain messages.

        Args:
            developer_prompt: Instructions. Leading instructions of `history` are joined to it.
            history: Messages in the API's shape, oldest first. The last user message and everything after it are the
                current turn.
            tools: Tool schemas, counted as part of the prompt.
            response_format: A response schema, counted as part of the prompt.
            pinned: Indexes of messages (after leading instructions) that are sent also from before the window.

        Raises: ContextOverflow, InvalidInput.
        """
        prompt, rest = _split_instructions(developer_prompt, history)
        items, before = [], 0
        for index, shape in enumerate(rest):
            tokens = count_message(self.counter, as_sent(shape, self.profile))
            items.append(Item(index, shape, tokens, before))
            before += tokens
        pins = [item for item in items if item.key in pinned]
        fixed = self.count_fixed(prompt, tools, response_format)
        return self.assemble(ContextInput(items=items, fixed=fixed, pins=pins, replays_start=True))

    def count_fixed(
        self, developer_prompt: str | None, tools: Sequence[Mapping[str, Any]] = (), response_format: Any = None
    ) -> FixedParts:
        """Return the fixed parts of a request with their tokens."""
        parts = []
        if developer_prompt:
            tokens = count_message(self.counter, {"role": prompt_role(self.profile), "content": developer_prompt})
            excerpt = make_excerpt(developer_prompt)
            parts.append(Part("developer_prompt", self.profile.instructions, None, tokens, excerpt=excerpt))
        if tools:
            parts.append(Part("tools", tokens=count_tools(self.counter, tools)))
        if response_format is not None:
            parts.append(Part("response_format", tokens=count_schema(self.counter, response_format)))
        total = sum(part.tokens for part in parts) + REPLY_PRIMER
        if not developer_prompt:  # some chat templates insert a system prompt of their own then
            total += self.profile.template_tokens
        return FixedParts(developer_prompt, tuple(parts), total)

    def assemble(self, given: ContextInput) -> Context:
        """Return the array for counted messages. Raises: ContextOverflow, InvalidInput."""
        reply_tokens = given.reply_tokens or self.reply_tokens
        if given.exact_start is not None:
            chosen = [item for item in given.items if item.key >= given.exact_start]
            given = replace(given, items=chosen, pins=(), summaries=())
        scale = given.scale or compute_scale((), 0, self.counter)
        counted, given = given, _scale_input(given, scale, self.available(0, reply_tokens))
        fixed = given.fixed
        available = self.available(fixed.tokens, reply_tokens)
        passages = [item for item in given.items if item.is_passage]
        whole = [item for item in given.items if not item.is_passage] if passages else given.items
        if not whole:
            raise InvalidInput("history", "has no message to answer")
        unsendable = self._find_unsendable(whole, given.pins)
        items, pins = _without_tokens(whole, unsendable), _without_tokens(given.pins, unsendable)
        passage_tokens = sum(item.tokens for item in passages)
        step = self.budget.step_tokens
        view = View(items, available - passage_tokens, step, given.complete, given.held_start, self.counter.name)
        if given.replays_start and isinstance(self.strategy, StepWindow):
            view = replace(view, held_start=find_replayed_start(view))
        try:
            window = self._select_window(given, view, pins, passage_tokens, scale)
        except ContextOverflow as error:
            raise self._explain_overflow(error, fixed.tokens, reply_tokens) from None
        summary = [window.summary.item] if window.summary is not None else []
        selected = [*window.singles, *summary, *insert_passages(passages, items[window.start :])]
        left_out = {item.key: unsendable[item.key] for item in selected if item.key in unsendable}
        selected = [item for item in selected if item.key not in left_out]
        messages, sent, more_left_out = arrange_messages(selected, fixed.developer_prompt, self.profile, self.partial)
        parts = (*fixed.parts, *list_message_parts(whole, passages, window, pins, {**left_out, **more_left_out}))
        start = items[window.start].key
        report = Report.model_construct(
            model=given.model,
            counter=self.counter.name,
            context_tokens=self.window_tokens,
            reply_tokens=reply_tokens,
            step_tokens=step,
            fixed_tokens=fixed.tokens,
            available=available,
            tokens=fixed.tokens + sum(item.tokens for item in sent),
            counted=_count_sent(counted, sent),
            factor=round(scale.sent, 3),
            factor_source=scale.source,
            rule=window.rule,
            strategy=self.strategy.name if given.exact_start is None else EXACT,
            start=start,
            dropped_tokens=items[window.start].tokens_before,
            moves_in_tokens=window.moves_in_tokens,
            stable_tokens=count_stable_tokens(
                fixed.tokens - scale.scale_fixed(REPLY_PRIMER), parts, start, given.previous
            ),
            last_call=None,
            parts=parts,
        )
        return Context.model_construct(messages=messages, report=report)

    def _select_window(
        self, given: ContextInput, view: View, pins: Sequence[Item], passage_tokens: int, scale: TokenScale
    ) -> Window:
        """Return the window: all items where the caller chose it, else the strategy's. Raises: ContextOverflow."""
        if given.exact_start is not None:
            return Window(0, EXACT, ())
        is_doubtful = given.server_decides and is_estimate(self.counter) and scale.source != "refusal"
        return select_window(
            self.strategy,
            view,
            pins,
            passage_tokens=passage_tokens,
            summaries=given.summaries,
            summary_reserve=given.summary_reserve,
            overflow_share=_CERTAIN_SHARE if is_doubtful else 1.0,
        )

    def _find_unsendable(self, items: Sequence[Item], pins: Sequence[Item]) -> dict[int, str]:
        """Return the messages before the current turn that cannot be sent, by key, and why.

        The whole path is looked at, not the selection: a tool result that is left over may seem to answer a call that is
        selected without its own result.
        """
        current = next((item.key for item in reversed(items) if item.starts_turn), items[0].key)
        before = [item for item in pins if item.key < items[0].key]
        left_out = select_sendable([*before, *items], partial=self.partial)[1]
        return {key: reason for key, reason in left_out.items() if key < current}

    def _explain_overflow(self, error: ContextOverflow, fixed_tokens: int, reply_tokens: int) -> ContextOverflow:
        """Return the error with the parts that fill the window: the message need not be the cause."""
        limit = min(self.window_tokens, self.profile.max_input_tokens or self.window_tokens)
        detail = (
            f"of {limit:,} the developer prompt, tools and response schema take {fixed_tokens:,} and "
            f"{reply_tokens:,} are kept for the reply; shorten them or the message, or raise the budget"
        )
        return ContextOverflow(error.needed, error.available, counter=error.counter, detail=detail)


def _scale_input(given: ContextInput, scale: TokenScale, room: int) -> ContextInput:
    """Return the input with all tokens in the server's units."""
    if scale.is_identity:
        return given
    parts = tuple(replace(part, tokens=round(part.tokens * scale.sent)) for part in given.fixed.parts)
    return replace(
        given,
        items=scale.scale_items(given.items, room),
        pins=scale.scale_items(given.pins, room),
        fixed=replace(given.fixed, parts=parts, tokens=scale.scale_fixed(given.fixed.tokens)),
        summaries=[replace(each, item=scale.scale_items([each.item], room)[0]) for each in given.summaries],
    )


def _count_sent(given: ContextInput, sent: Sequence[Item]) -> int:
    """Return what the counter said of the request, without a scale."""
    counted = {item.key: item.tokens for item in (*given.pins, *given.items)}
    counted |= {each.item.key: each.item.tokens for each in given.summaries}
    return given.fixed.tokens + sum(counted[item.key] for item in sent)


def _without_tokens(items: Sequence[Item], unsendable: Collection[int]) -> Sequence[Item]:
    """Return the items, with 0 tokens for those that cannot be sent."""
    return [replace(item, tokens=0) if item.key in unsendable else item for item in items] if unsendable else items


def _split_instructions(
    developer_prompt: str | None, history: Sequence[Mapping[str, Any]]
) -> tuple[str | None, list[dict[str, Any]]]:
    """Return the developer prompt joined with the leading instructions of `history`, and the rest of the history."""
    messages = [normalize_message(f"history[{index}]", message) for index, message in enumerate(history)]
    roles = (index for index, each in enumerate(messages) if each["role"] not in INSTRUCTION_ROLES)
    count = next(roles, len(messages))
    prompts = [developer_prompt or "", *(extract_text(message["content"]) for message in messages[:count])]
    return ("\n\n".join(filter(None, prompts)) or None), messages[count:]
