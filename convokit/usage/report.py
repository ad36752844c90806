"""What a tenant's calls took and cost. The database sums; what is priced here are sums of calls that cost alike."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from itertools import groupby
from typing import Any, get_args

from sqlalchemy import Connection

from convokit.domain.text import validate_text
from convokit.errors import InvalidInput, NotFound
from convokit.settings import Limits
from convokit.store import conversations
from convokit.usage.models import Price, Prices, Spending, UsageBy, UsageReport, UsageRow
from convokit.usage.prices import prices_from
from convokit.usage.sql import HALF_HOUR_US, Spent, spent

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HALF_HOUR = timedelta(microseconds=HALF_HOUR_US)
MAX_CONVERSATIONS = 1000
_SUMMED = ("calls", "prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, checked."""

    by: UsageBy
    since: datetime | None
    until: datetime | None
    key: str | None
    subject: str | None
    prices: Prices


def question(
    limits: Limits,
    *,
    by: UsageBy,
    since: datetime | date | None,
    until: datetime | date | None,
    key: str | None,
    subject: str | None,
    prices: Mapping[str, Price] | Prices | None,
) -> Callable[[Connection, str], UsageReport]:
    """Return what answers it for a tenant over a connection. Raises: InvalidInput."""
    if by not in get_args(UsageBy):
        raise InvalidInput("by", f"must be one of {', '.join(get_args(UsageBy))}, not {by!r}")
    for name, value in (("key", key), ("subject", subject)):
        if value is not None:
            validate_text(name, value, limit=limits.key_chars * 4, setting="Limits.key_chars")
    start, end = _moment("since", since), _moment("until", until)
    if start is not None and end is not None and end <= start:
        raise InvalidInput("until", f"must be after since ({start:%Y-%m-%d %H:%M} UTC)")
    return partial(report, asked=Question(by, start, end, key, subject, prices_from(prices)))


def _moment(name: str, value: object) -> datetime | None:
    """Return the time a value means: a day means its beginning, in UTC."""
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise InvalidInput(name, f"must say its time zone, as datetime.now(UTC) does: {value}")
        return value.astimezone(UTC)
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise InvalidInput(name, f"must be a date or a datetime, not {type(value).__name__}")


def report(connection: Connection, tenant: str, asked: Question) -> UsageReport:
    """Return the report. Raises: NotFound when the conversation asked for is not there."""
    one = None
    if asked.key is not None:
        row = conversations.find_by_key(connection, tenant, asked.key)
        if row is None:
            raise NotFound("conversation", asked.key, "it is created by its first send")
        one = row.id
    groups = spent(
        connection,
        tenant,
        by_conversation=asked.by == "conversation",
        since=_us(asked.since),
        until=_us(asked.until),
        one=one,
        subject=asked.subject,
        sizes=asked.prices.sizes,
    )
    return _Adding(asked).up(groups)


def _us(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)


@dataclass(slots=True)
class _Sums:
    """A row on its way."""

    label: dict[str, Any]
    counts: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(_SUMMED))
    estimated_calls: int = 0
    estimated_tokens: int = 0
    uncounted_calls: int = 0
    unpriced_calls: int = 0
    cost: Decimal = Decimal(0)

    def add(self, group: Spent, cost: Decimal | None) -> None:
        for name in _SUMMED:
            value = getattr(group, name)
            if value is not None:
                self.counts[name] = (self.counts[name] or 0) + value
        self.estimated_calls += group.estimated_calls if group.kind != "open" else 0
        self.estimated_tokens += group.estimated_tokens
        if group.kind == "open":
            self.uncounted_calls += group.calls
        elif cost is None:
            self.unpriced_calls += group.calls
        else:
            self.cost += cost

    def values(self) -> dict[str, Any]:
        return {
            **self.counts,
            "calls": self.counts["calls"] or 0,
            "prompt_tokens": self.counts["prompt_tokens"] or 0,
            "completion_tokens": self.counts["completion_tokens"] or 0,
            "estimated_calls": self.estimated_calls,
            "estimated_tokens": self.estimated_tokens,
            "uncounted_calls": self.uncounted_calls,
            "unpriced_calls": self.unpriced_calls,
            "cost": None if self.unpriced_calls else _plain(self.cost),
            "known_cost": _plain(self.cost),
        }

    @property
    def weight(self) -> tuple[Decimal, int]:
        return self.cost, (self.counts["prompt_tokens"] or 0) + (self.counts["completion_tokens"] or 0)


class _Adding:
    """Adds groups up to rows and a total."""

    def __init__(self, asked: Question) -> None:
        self._asked = asked
        self._total = _Sums({})
        self._unknown: set[str] = set()

    def up(self, groups: Iterable[Spent]) -> UsageReport:
        asked = self._asked
        rows, unlisted = self._by_conversation(groups) if asked.by == "conversation" else (self._together(groups), 0)
        return UsageReport(
            by=asked.by,
            since=asked.since,
            until=asked.until,
            rows=[UsageRow(**row.label, **row.values()) for row in rows],
            unlisted=unlisted,
            total=Spending(**self._total.values()),
            unknown_models=tuple(sorted(self._unknown)),
            prices=asked.prices.name,
        )

    def _together(self, groups: Iterable[Spent]) -> list[_Sums]:
        found: dict[Any, _Sums] = {}
        for group in groups:
            label = _day(group) if self._asked.by == "day" else group.served_model or group.requested_model
            if label not in found:
                found[label] = _Sums({self._asked.by: label})
            self._count(found[label], group)
        if self._asked.by == "day":
            return [found[day] for day in sorted(found)]
        return sorted(found.values(), key=lambda row: row.weight, reverse=True)

    def _by_conversation(self, groups: Iterable[Spent]) -> tuple[list[_Sums], int]:
        """Return the costliest conversations, holding no more than those, and how many more there are."""
        costliest: list[tuple[tuple[Decimal, int], int, _Sums]] = []
        number = 0
        for number, (whose, own) in enumerate(groupby(groups, lambda group: (group.conversation_id, group.key)), 1):
            row = _Sums({"conversation_id": whose[0], "key": whose[1]})
            for group in own:
                self._count(row, group)
            (heapq.heappushpop if len(costliest) == MAX_CONVERSATIONS else _push)(costliest, (row.weight, number, row))
        return [row for _, _, row in sorted(costliest, key=lambda each: each[:2], reverse=True)], number - len(
            costliest
        )

    def _count(self, row: _Sums, group: Spent) -> None:
        cost = self._cost(group)
        if cost is None and group.kind != "open":
            self._unknown.add(group.served_model or group.requested_model)
        row.add(group, cost)
        self._total.add(group, cost)

    def _cost(self, group: Spent) -> Decimal | None:
        """Return what the calls of a group cost together: what the server said, else the price of the average call of them."""
        if group.cost_nanousd is not None:
            return Decimal(group.cost_nanousd) / 1_000_000_000
        if group.kind == "open":
            return None
        prices = self._asked.prices
        at = _EPOCH + (group.half_hour + 0.5) * _HALF_HOUR
        over = prices.sizes[group.size - 1] if group.size else 0
        for model in _names(group):
            price = prices.price(model=model, provider=group.provider, tier=group.service_tier, at=at, longer_than=over)
            if price is not None:
                return _priced(group, price)
        return None


def _plain(cost: Decimal) -> Decimal:
    """Return an amount without zeros behind it."""
    shorter = cost.normalize()
    return shorter if int(shorter.as_tuple().exponent) <= 0 else shorter.quantize(Decimal(1))


def _push(heap: list[Any], item: Any) -> None:
    heapq.heappush(heap, item)


def _names(group: Spent) -> list[str]:
    """Return the names a price may be known under: what the server said, and what was asked for if that is a version of it."""
    asked, served = group.requested_model, group.served_model
    if served is None or served == asked:
        return [asked]
    return [served, asked] if served.startswith(asked) else [served]


def _priced(group: Spent, price: Price) -> Decimal:
    """Return the US dollars of calls of one price."""
    prompt, completion = group.prompt_tokens or 0, group.completion_tokens or 0
    cached, thought = group.cached_tokens or 0, group.reasoning_tokens or 0
    written = min(group.cache_write_tokens or 0, prompt - cached)
    cost = (prompt - cached - written) * price.prompt + (completion - thought) * price.completion
    cost += cached * (price.prompt if price.cached is None else price.cached)
    cost += written * (price.prompt if price.cache_write is None else price.cache_write)
    cost += thought * (price.completion if price.reasoning is None else price.reasoning)
    return cost / 1_000_000


def _day(group: Spent) -> date:
    return (_EPOCH + group.half_hour * _HALF_HOUR).date()
