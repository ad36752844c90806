"""Build usage reports: tokens and cost of a tenant's API calls.

The database sums calls that have the same price. This module prices the sums and adds them up to rows.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import groupby
from typing import Any, get_args
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.effects import Flow, read_flow
from convokit.completion.state import KitState, check_schema_flow
from convokit.domain.text import validate_text
from convokit.errors import InvalidInput, NotFound
from convokit.settings import Limits
from convokit.store import conversations
from convokit.usage.models import Price, Prices, Spending, UsageBy, UsageReport, UsageRow
from convokit.usage.prices import resolve_prices
from convokit.usage.sql import HALF_HOUR_US, CallGroup, sum_calls

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HALF_HOUR = timedelta(microseconds=HALF_HOUR_US)
MAX_CONVERSATIONS = 1000
_SUMMED = ("calls", "prompt_tokens", "completion_tokens", "cached_tokens", "cache_write_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """The validated arguments of a report. Times are UTC."""

    by: UsageBy
    since: datetime | None
    until: datetime | None
    key: str | None
    conversations: tuple[UUID | str, ...] | None
    subject: str | None
    prices: Prices


def usage_flow(
    kit: KitState,
    *,
    by: UsageBy,
    since: datetime | date | None,
    until: datetime | date | None,
    key: str | None,
    conversations: Iterable[UUID | str] | None = None,
    subject: str | None,
    prices: Mapping[str, Price] | Prices | None,
) -> Flow[UsageReport]:
    """Report the usage of the tenant's calls. Raises: InvalidInput, NotFound."""
    names = None if conversations is None else _parse_conversations(kit.limits, conversations, key)
    query = _parse_query(
        kit.limits, by=by, since=since, until=until, key=key, conversations=names, subject=subject, prices=prices
    )
    yield from check_schema_flow(kit)
    return (yield from read_flow(_read_report, kit.tenant, query))


def _parse_query(
    limits: Limits,
    *,
    by: UsageBy,
    since: datetime | date | None,
    until: datetime | date | None,
    key: str | None,
    conversations: tuple[UUID | str, ...] | None,
    subject: str | None,
    prices: Mapping[str, Price] | Prices | None,
) -> UsageQuery:
    if by not in get_args(UsageBy):
        raise InvalidInput("by", f"must be one of {', '.join(get_args(UsageBy))}, not {by!r}")
    for name, value in (("key", key), ("subject", subject)):
        if value is not None:
            validate_text(name, value, limit=limits.key_chars * 4, setting="Limits.key_chars")
    start, end = _parse_time("since", since), _parse_time("until", until)
    if start is not None and end is not None and end <= start:
        raise InvalidInput("until", f"must be after since ({start:%Y-%m-%d %H:%M} UTC)")
    return UsageQuery(by, start, end, key, conversations, subject, resolve_prices(prices))


def _parse_conversations(limits: Limits, given: object, key: str | None) -> tuple[UUID | str, ...]:
    """Return ids and keys. Raises: InvalidInput."""
    if key is not None:
        raise InvalidInput("conversations", "pass only one of key and conversations")
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidInput("conversations", f"must be a list of ids and keys, not {type(given).__name__}")
    names = tuple(given)
    if len(names) > MAX_CONVERSATIONS:
        raise InvalidInput("conversations", f"has {len(names):,} items; pass at most {MAX_CONVERSATIONS:,} at once")
    for name in names:
        if not isinstance(name, UUID):
            validate_text("conversations", name, limit=limits.key_chars * 4, setting="Limits.key_chars")
    return names


def _parse_time(name: str, value: object) -> datetime | None:
    """Return a time in UTC; a date is its first moment in UTC."""
    if value is None:
        return None
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidInput(name, f"has no time zone: {value}; datetime.now(UTC) has one")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise InvalidInput(name, f"{value} has no time in UTC: pass a later or an earlier one") from None
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    raise InvalidInput(name, f"must be a date or a datetime, not {type(value).__name__}")


def _read_report(connection: Connection, tenant: str, query: UsageQuery) -> UsageReport:
    ids = None if query.conversations is None else _find_ids(connection, tenant, query.conversations)
    if query.key is not None:
        row = conversations.find_by_key(connection, tenant, query.key)
        if row is None:
            raise NotFound("conversation", query.key, "it is created by its first send")
        ids = [row.id]
    groups = sum_calls(
        connection,
        tenant,
        by_conversation=query.by == "conversation",
        since_us=_to_us(query.since),
        until_us=_to_us(query.until),
        conversation_ids=ids,
        subject=query.subject,
        sizes=query.prices.sizes,
    )
    return _ReportBuilder(query).build(groups)


def _find_ids(connection: Connection, tenant: str, names: Sequence[UUID | str]) -> list[UUID]:
    """Return the ids of conversations by id or key, in two statements. An id wins over an equal key. Raises: NotFound."""
    if not names:
        return []
    by_key = conversations.derive_ids(connection, tenant, [str(name) for name in names if isinstance(name, str)])
    candidates = [(name, _list_candidates(name, by_key)) for name in names]
    existing = conversations.filter_existing(connection, tenant, [id_ for _, ids in candidates for id_ in ids])
    found: list[UUID] = []
    for name, ids in candidates:
        id_ = next((each for each in ids if each in existing), None)
        if id_ is None:
            raise NotFound("conversation", name, "it is created by its first send")
        found.append(id_)
    return list(dict.fromkeys(found))


def _list_candidates(name: UUID | str, by_key: Mapping[str, UUID]) -> list[UUID]:
    if isinstance(name, UUID):
        return [name]
    try:
        return [UUID(name), by_key[name]]
    except ValueError:
        return [by_key[name]]


def _to_us(moment: datetime | None) -> int | None:
    return None if moment is None else (moment - _EPOCH) // timedelta(microseconds=1)


@dataclass(slots=True)
class _Totals:
    """Sums of one row of the report. `label` holds the columns that name the row."""

    label: dict[str, Any]
    counts: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(_SUMMED))
    estimated_calls: int = 0
    estimated_tokens: int = 0
    uncounted_calls: int = 0
    unpriced_calls: int = 0
    cost: Decimal = Decimal(0)

    def add(self, group: CallGroup, cost: Decimal | None) -> None:
        for name in _SUMMED:
            value = getattr(group, name)
            if value is not None:
                self.counts[name] = (self.counts[name] or 0) + value
        self.estimated_calls += group.estimated_calls if group.kind != "uncounted" else 0
        self.estimated_tokens += group.estimated_tokens
        if group.kind == "uncounted":
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
            "cost": None if self.unpriced_calls else _strip_zeros(self.cost),
            "known_cost": _strip_zeros(self.cost),
        }

    @property
    def sort_key(self) -> tuple[Decimal, int]:
        """By cost, then by tokens."""
        return self.cost, (self.counts["prompt_tokens"] or 0) + (self.counts["completion_tokens"] or 0)


class _ReportBuilder:
    """Prices groups of calls, and adds them up to rows and a total."""

    def __init__(self, query: UsageQuery) -> None:
        self._query = query
        self._total = _Totals({})
        self._unknown_models: set[str] = set()

    def build(self, groups: Iterable[CallGroup]) -> UsageReport:
        query = self._query
        if query.by == "conversation":
            rows, unlisted = self._build_conversation_rows(groups)
        else:
            rows, unlisted = self._build_rows(groups), 0
        return UsageReport(
            by=query.by,
            since=query.since,
            until=query.until,
            rows=[UsageRow(**row.label, **row.values()) for row in rows],
            unlisted=unlisted,
            total=Spending(**self._total.values()),
            unknown_models=tuple(sorted(self._unknown_models)),
            prices=query.prices.name,
        )

    def _build_rows(self, groups: Iterable[CallGroup]) -> list[_Totals]:
        rows: dict[Any, _Totals] = {}
        for group in groups:
            label = _get_day(group) if self._query.by == "day" else group.served_model or group.requested_model
            if label not in rows:
                rows[label] = _Totals({self._query.by: label})
            self._add(rows[label], group)
        if self._query.by == "day":
            return [rows[day] for day in sorted(rows)]
        return sorted(rows.values(), key=lambda row: row.sort_key, reverse=True)

    def _build_conversation_rows(self, groups: Iterable[CallGroup]) -> tuple[list[_Totals], int]:
        """Return the conversations with the highest cost, and the number of the others. Memory holds only those."""
        heap: list[tuple[tuple[Decimal, int], int, _Totals]] = []
        number = 0
        by_conversation = groupby(groups, lambda group: (group.conversation_id, group.key))
        for number, ((conversation_id, key), own_groups) in enumerate(by_conversation, 1):
            row = _Totals({"conversation_id": conversation_id, "key": key})
            for group in own_groups:
                self._add(row, group)
            heapq.heappush(heap, (row.sort_key, number, row))  # `number` is unique: rows are never compared
            if len(heap) > MAX_CONVERSATIONS:
                heapq.heappop(heap)
        rows = [row for _, _, row in sorted(heap, key=lambda each: each[:2], reverse=True)]
        return rows, number - len(rows)

    def _add(self, row: _Totals, group: CallGroup) -> None:
        cost = self._compute_cost(group)
        if cost is None and group.kind != "uncounted":
            self._unknown_models.add(group.served_model or group.requested_model)
        row.add(group, cost)
        self._total.add(group, cost)

    def _compute_cost(self, group: CallGroup) -> Decimal | None:
        """Return the US dollars of a group: as the server reported them, otherwise from the prices. None: unknown."""
        if group.cost_nanousd is not None:
            return Decimal(group.cost_nanousd) / 1_000_000_000
        if group.kind == "uncounted":
            return None
        prices = self._query.prices
        at = _EPOCH + (group.half_hour + 0.5) * _HALF_HOUR  # the middle: a price may change at either end
        longer_than = prices.sizes[group.size_index - 1] if group.size_index else 0
        for model in _list_model_names(group):
            price = prices.price(
                model=model, provider=group.provider, tier=group.service_tier, at=at, longer_than=longer_than
            )
            if price is not None:
                return _apply_price(group, price)
        return None


def _strip_zeros(cost: Decimal) -> Decimal:
    shorter = cost.normalize()
    return shorter if int(shorter.as_tuple().exponent) <= 0 else shorter.quantize(Decimal(1))


def _list_model_names(group: CallGroup) -> list[str]:
    """Return the names to look for in price lists."""
    requested, served = group.requested_model, group.served_model
    if served is None or served == requested:
        return [requested]
    # A served name like gpt-4o-2024-08-06 is a version of the requested gpt-4o. Any other name is another model.
    return [served, requested] if served.startswith(requested) else [served]


def _apply_price(group: CallGroup, price: Price) -> Decimal:
    prompt, completion = group.prompt_tokens or 0, group.completion_tokens or 0
    cached, reasoning = group.cached_tokens or 0, group.reasoning_tokens or 0
    cache_write = min(group.cache_write_tokens or 0, prompt - cached)  # no prompt token is priced twice
    cost = (prompt - cached - cache_write) * price.prompt + (completion - reasoning) * price.completion
    cost += cached * (price.prompt if price.cached is None else price.cached)
    cost += cache_write * (price.prompt if price.cache_write is None else price.cache_write)
    cost += reasoning * (price.completion if price.reasoning is None else price.reasoning)
    return cost / 1_000_000


def _get_day(group: CallGroup) -> date:
    return (_EPOCH + group.half_hour * _HALF_HOUR).date()
