"""What servers reported of their calls, call by call and summed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Connection, bindparam, case, func, literal_column, null, select

from convokit.store.schema import completion, conversation

HALF_HOUR_US = 1_800_000_000
"""Calls are summed by half hours: no price is known to change within one."""
_SKEW_US = 86_400_000_000
"""By how much the clocks of two workers may differ before a call is missed."""
_BATCH = 1000


@dataclass(slots=True)
class Spent:
    """Calls that are priced alike, summed: of one half hour, model and tier, and of prompts of one size.

    `kind`: `said` (the server named the cost), `counted` (prompt and reply are both known), `open` (they are not). A sum is
    None when no call has that count. `size` is the place in `sizes` of the first number the prompts are not over.
    """

    conversation_id: UUID | None
    key: str | None
    half_hour: int
    provider: str | None
    requested_model: str
    served_model: str | None
    service_tier: str | None
    size: int
    kind: str
    calls: int
    estimated_calls: int
    estimated_tokens: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    cost_nanousd: int | None


def _number(value: int) -> ColumnElement[int]:
    """Return a number of ours as it is: in GROUP BY a bound value is another one each time."""
    return literal_column(str(int(value)), BigInteger)


_COUNTED = completion.c.prompt_tokens.is_not(None) & completion.c.completion_tokens.is_not(None)
_KIND = case(
    (completion.c.cost_nanousd.is_not(None), literal_column("'said'")),
    (_COUNTED, literal_column("'counted'")),
    else_=literal_column("'open'"),
)
_ESTIMATED = completion.c.usage_source == "estimated"
_BOTH = func.coalesce(completion.c.prompt_tokens, 0) + func.coalesce(completion.c.completion_tokens, 0)


def _part(part: Any, whole: Any) -> Any:
    """Return the sum of what is part of a count. A server may say that more came from its cache than was sent."""
    return func.sum(case((part > whole, whole), else_=part))


_SUMS = (
    func.count(),
    func.sum(case((_ESTIMATED, 1), else_=0)),
    func.sum(case((_ESTIMATED, _BOTH), else_=0)),
    func.sum(completion.c.prompt_tokens),
    func.sum(completion.c.completion_tokens),
    _part(completion.c.cached_tokens, completion.c.prompt_tokens),
    _part(completion.c.cache_write_tokens, completion.c.prompt_tokens),
    _part(completion.c.reasoning_tokens, completion.c.completion_tokens),
    func.sum(completion.c.cost_nanousd),
)
_NEXT_TENANT = select(func.min(conversation.c.tenant)).where(conversation.c.tenant > bindparam("after"))


def spent(
    connection: Connection,
    tenant: str,
    *,
    by_conversation: bool = False,
    since: int | None = None,
    until: int | None = None,
    one: UUID | None = None,
    subject: str | None = None,
    sizes: Sequence[int] = (),
) -> Iterator[Spent]:
    """Yield the sums of the tenant's calls that started from `since` on and before `until` (microseconds since 1970).

    `one` and `subject` keep to one conversation, or to a person's; with `by_conversation` each has sums of its own, one after
    the other. With `since`, conversations that nothing happened in since then are not read: an index leads to the others.
    """
    query = _grouped(sizes, by_conversation=by_conversation).where(conversation.c.tenant == tenant)
    if since is not None:
        query = query.where(completion.c.started_at >= since, conversation.c.updated_at >= since - _SKEW_US)
    if until is not None:
        query = query.where(completion.c.started_at < until)
    if one is not None:
        query = query.where(conversation.c.id == one)
    if subject is not None:
        query = query.where(conversation.c.subject == subject)
    for row in connection.execute(query, execution_options={"yield_per": _BATCH}):
        sums: list[Any] = [None if value is None else int(value) for value in row[9:]]  # PostgreSQL sums into a numeric
        yield Spent(*row[:9], *sums)


def _grouped(sizes: Sequence[int], *, by_conversation: bool) -> Any:
    """Return the statement without its conditions. `sizes` are ascending."""
    above = [(completion.c.prompt_tokens > _number(size), _number(place)) for place, size in enumerate(sizes, 1)]
    kinds = (
        completion.c.started_at // _number(HALF_HOUR_US),
        completion.c.provider,
        completion.c.requested_model,
        completion.c.served_model,
        completion.c.service_tier,
        *([case(*reversed(above), else_=_number(0))] if above else []),
        _KIND,
    )
    whose = (conversation.c.id, conversation.c.key) if by_conversation else ()
    shown = [*(whose or (null(), null())), *kinds[:5], *(kinds[5:-1] or [_number(0)]), _KIND, *_SUMS]
    query = select(*shown).select_from(conversation).join(completion, completion.c.conversation_id == conversation.c.id)
    query = query.group_by(*whose, *kinds)
    return query.order_by(conversation.c.id) if by_conversation else query


def tenants(connection: Connection) -> Iterator[str]:
    """Yield every tenant that has a conversation: for an operator, who is bound to none. One look into an index for each."""
    after: str | None = ""
    while (after := connection.execute(_NEXT_TENANT, {"after": after}).scalar_one()) is not None:
        yield after
