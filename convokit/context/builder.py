"""The context builder.

The developer prompt and the current turn are always in the array; history is added from the newest back, in whole turns, as
far as the budget goes (see `window`); what cannot be sent validly is left out (see `repair`); the result is put into the form
the profile asks for. Whatever happens is in the report.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import Any

from convokit.context.arrange import arrange_messages, as_sent, prompt_role
from convokit.context.input import normalize_message
from convokit.context.report import Context, Earlier, Part, PartKind, Report, stable_tokens
from convokit.context.strategy import Item, StepWindow, Strategy, View, fitting, pins_before
from convokit.context.summary import Chosen, CountedSummary, add_heading, choose
from convokit.context.validity import PartialPolicy, select_sendable
from convokit.domain.message import INSTRUCTION_ROLES, extract_text
from convokit.domain.profiles import Profile
from convokit.errors import ContextOverflow, InvalidInput
from convokit.settings import Budget
from convokit.tokens.counter import REPLY_PRIMER, Counter, choose_counter, count_message, count_schema, count_tools

DEFAULT_WINDOW = 8192
DEFAULT_REPLY = 1024
_EXCERPT = 60


class ContextBuilder:
    """Builds `messages` arrays within a budget.

    `budget` says how much there is, `profile` how the server wants its messages, `counter` counts (an estimate by default),
    `partial` says whether replies that broke off are sent again: as they are, with a mark behind them, or not. `strategy`
    selects what is sent (`StepWindow`).

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
        return self.budget.context_tokens or self.profile.window_tokens or DEFAULT_WINDOW

    @property
    def reply_tokens(self) -> int:
        """What is kept free for the reply: the budget's own, else 1,024 or a quarter of a smaller window."""
        return self.budget.reply_tokens or min(DEFAULT_REPLY, self.window_tokens // 4)

    @property
    def step_tokens(self) -> int:
        """The step of the window's start: the budget's own, else half of the window."""
        return self.budget.step_tokens or max(self.window_tokens // 2, 1)

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
        """Return the array for `history`, plain messages in the API's shape, oldest first.

        The last user message and all behind it are the current turn. `pinned` are indexes of messages (behind leading
        instructions) that are sent also from before the window. Raises: ContextOverflow, InvalidInput.
        """
        prompt, rest = _split_instructions(developer_prompt, history)
        items, before = [], 0
        for index, shape in enumerate(rest):
            tokens = count_message(self.counter, as_sent(shape, self.profile))
            items.append(Item(index, shape, tokens, before))
            before += tokens
        kept = [item for item in items if item.key in pinned]
        return self.assemble(items, developer_prompt=prompt, tools=tools, response_format=response_format, pinned=kept)

    def assemble(
        self,
        items: Sequence[Item],
        *,
        developer_prompt: str | None,
        tools: Sequence[Mapping[str, Any]] = (),
        response_format: Any = None,
        reply_tokens: int | None = None,
        complete: bool = True,
        floor: int | None = None,
        pinned: Sequence[Item] = (),
        model: str | None = None,
        earlier: Earlier | None = None,
        summaries: Sequence[CountedSummary] = (),
        kept_free: int = 0,
    ) -> Context:
        """Return the array for counted items; what `build` does for plain messages and a conversation for its rows.

        `pinned` may lie before the first of `items`. `earlier` is what the request before this one sent of them. Passages among
        `items` are the current turn's: they are sent right before its question, whatever the strategy selects of the rest.
        `summaries` are the path's, the newest first: one is sent where anything stays out, and `kept_free` tokens are for it.
        """
        fixed = self._fixed_parts(developer_prompt, tools, response_format)
        fixed_tokens = sum(part.tokens for part in fixed) + REPLY_PRIMER
        if not developer_prompt:  # then the template may say something of its own
            fixed_tokens += self.profile.template_tokens
        available = self.available(fixed_tokens, reply_tokens)
        passages = [item for item in items if item.is_passage]
        items = [item for item in items if not item.is_passage] if passages else items
        if not items:
            raise InvalidInput("history", "holds no message to answer")
        whole, unsendable = items, self._unsendable(items, pinned)
        items, pinned = _without_room(items, unsendable), _without_room(pinned, unsendable)
        taken = sum(item.tokens for item in passages)
        view = View(items, available - taken, self.step_tokens, complete, floor, self.counter.name)
        fit = fitting(pinned, view) if pinned else []
        try:
            picked = choose(self.strategy, view, fit, available, taken, summaries, kept_free)
        except ContextOverflow as error:
            raise self._explained(error, fixed_tokens, reply_tokens) from None
        chosen = picked.sent
        rolled = [picked.summary.item] if picked.summary is not None else []
        window = _before_question(passages, items[chosen.start :])
        sent = [*chosen.also, *rolled, *window]
        left_out = {item.key: unsendable[item.key] for item in sent if item.key in unsendable}
        sent = [item for item in sent if item.key not in left_out]
        messages, kept, others = arrange_messages(sent, developer_prompt, self.profile, self.partial)
        parts = [*fixed, *_message_parts(whole, passages, picked, pinned, {**left_out, **others})]
        start = items[chosen.start].key
        report = Report.model_construct(
            model=model,
            counter=self.counter.name,
            context_tokens=self.window_tokens,
            reply_tokens=reply_tokens or self.reply_tokens,
            step_tokens=self.step_tokens,
            fixed_tokens=fixed_tokens,
            available=available,
            tokens=fixed_tokens + sum(item.tokens for item in kept),
            rule=chosen.rule,
            strategy=self.strategy.name,
            start=start,
            dropped_tokens=items[chosen.start].before,
            moves_in_tokens=_moves_in(self.strategy, picked.view, chosen.start, fit),
            stable_tokens=stable_tokens(fixed_tokens - REPLY_PRIMER, parts, start, earlier),
            last_call=None,
            parts=tuple(parts),
        )
        return Context.model_construct(messages=messages, report=report)

    def _unsendable(self, items: Sequence[Item], pinned: Sequence[Item]) -> dict[int, str]:
        """Return what cannot be sent of the path before the current turn, whatever of it is selected, and why.

        It stays out of every part of the path too: an answer left over may fit a call that is selected without its own.
        """
        current = next((item.key for item in reversed(items) if item.starts_turn), items[0].key)
        before = [item for item in pinned if item.key < items[0].key]
        left_out = select_sendable([*before, *items], partial=self.partial)[1]
        return {key: why for key, why in left_out.items() if key < current}

    def _explained(self, error: ContextOverflow, fixed_tokens: int, reply_tokens: int | None) -> ContextOverflow:
        """Return the error with what takes the window's room: it need not be the message."""
        limit = min(self.window_tokens, self.profile.max_input_tokens or self.window_tokens)
        detail = (
            f"of {limit:,} the developer prompt, tools and response schema take {fixed_tokens:,} and "
            f"{reply_tokens or self.reply_tokens:,} are kept for the reply; shorten them or the message, or raise the budget"
        )
        return ContextOverflow(error.needed, error.available, counter=error.counter, detail=detail)

    def _fixed_parts(
        self, developer_prompt: str | None, tools: Sequence[Mapping[str, Any]], response_format: Any
    ) -> list[Part]:
        parts = []
        if developer_prompt:
            prompt = {"role": prompt_role(self.profile), "content": developer_prompt}
            tokens = count_message(self.counter, prompt)
            parts.append(_part("developer_prompt", self.profile.instructions, None, tokens, text=developer_prompt))
        if tools:
            parts.append(_part("tools", "", None, count_tools(self.counter, tools)))
        if response_format is not None:
            parts.append(_part("response_format", "", None, count_schema(self.counter, response_format)))
        return parts


def _part(
    kind: PartKind, role: str, key: int | None, tokens: int, *, rule: str = "", out: bool = False, text: str = ""
) -> Part:
    return Part(kind, role, key, tokens, included=not out, rule=rule, excerpt=_excerpt(text[: _EXCERPT * 2]))


@lru_cache(maxsize=4096)
def _excerpt(text: str) -> str:
    """Return the first words on one line: the same, turn after turn, for nearly every message of a window."""
    words = " ".join(text.split())
    return words if len(words) <= _EXCERPT else words[: _EXCERPT - 1] + "…"


def _without_room(items: Sequence[Item], unsendable: Collection[int]) -> Sequence[Item]:
    """Return the items, those that cannot be sent with no tokens."""
    return [replace(item, tokens=0) if item.key in unsendable else item for item in items] if unsendable else items


def _moves_in(strategy: Strategy, view: View, start: int, pinned: Sequence[Item]) -> int | None:
    """Return `Report.moves_in_tokens`: what is left of the budget that the step window holds its start by."""
    if not isinstance(strategy, StepWindow):
        return None
    return max(view.available - view.tokens_from(start) - pins_before(pinned, view.items[start]), 0)


def _before_question(passages: Sequence[Item], items: Sequence[Item]) -> list[Item]:
    """Return the items with the current turn's passages in their place."""
    turns = [index for index, item in enumerate(items) if item.starts_turn] if passages else []
    place = turns[-1] if turns else 0
    return [*items[:place], *passages, *items[place:]]


def _message_parts(
    items: Sequence[Item],
    passages: Sequence[Item],
    picked: Chosen,
    pinned: Sequence[Item],
    left_out: Mapping[int, str],
) -> list[Part]:
    chosen = picked.sent
    first = items[chosen.start].key
    single = {item.key for item in chosen.also}
    pins = {item.key for item in pinned}
    earlier = [item for item in pinned if item.key < items[0].key]
    parts = []
    for item in (*earlier, *_before_question(passages, items)):
        why, out = "", False
        if item.key in left_out:
            why, out = left_out[item.key], True
        elif item.is_passage:
            why = "passage for this turn"
        elif item.key in single:
            why = "pinned" if item.key in pins else f"selected ({chosen.rule})"
        elif item.key < first:
            why = "pinned, but does not fit" if item.key in pins else f"before the window ({chosen.rule})"
            out = True
        text = extract_text(item.shape.get("content"))
        parts.append(_part("message", item.shape["role"], item.key, item.tokens, rule=why, out=out, text=text))
    summary = picked.summary or picked.unfit
    if summary is not None:
        why, item = f"of messages {summary.first} to {summary.last}", summary.item
        why += "" if picked.summary else ", but does not fit"
        text, out = extract_text(item.shape["content"]).removeprefix(add_heading("")), picked.summary is None
        part = _part("summary", item.shape["role"], item.key, item.tokens, rule=why, out=out, text=text)
        parts.insert(len(earlier) + chosen.start, part)
    return parts


def _split_instructions(
    developer_prompt: str | None, history: Sequence[Mapping[str, Any]]
) -> tuple[str | None, list[dict[str, Any]]]:
    """Return one developer prompt, the leading instructions of `history` joined to it, and the rest of the history."""
    messages = [normalize_message(f"history[{index}]", message) for index, message in enumerate(history)]
    count = next((index for index, each in enumerate(messages) if each["role"] not in INSTRUCTION_ROLES), len(messages))
    prompts = [developer_prompt or "", *(extract_text(message["content"]) for message in messages[:count])]
    return ("\n\n".join(filter(None, prompts)) or None), messages[count:]
