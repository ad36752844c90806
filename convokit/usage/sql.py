"""Sum the usage of API calls in the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, Connection, bindparam, case, func, literal_column, null, select

from convokit.store.schema import completion, conversation

HALF_HOUR_US = 1_800_000_000
"""Calls of the same half hour are summed: no known price changes within one."""
_MAX_CLOCK_SKEW_US = 86_400_000_000  # between the workers' clocks that set `started_at` and `updated_at`
_BATCH = 1000


@dataclass(slots=True)
class CallGroup:
    """The sums of calls that have the same price: half hour, provider, models, tier and size of the prompt.

    `kind` is "reported" (the server reported the cost), "counted" (the tokens of prompt and reply are known) or "uncounted".
    A sum is None when no call has that count. `size_index` is the number of `sizes` that the prompts are longer than.
    """

    conversation_id: UUID | None
    key: str | None
    half_hour: int
    provider: str | None
    requested_model: str
    served_model: str | None
    service_tier: str | None
    size_index: int
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


def _literal(value: int) -> ColumnElement[int]:
    # PostgreSQL takes two bound parameters for two expressions, so GROUP BY and SELECT need the number itself.
    return literal_column(str(int(value)), BigInteger)


_IS_COUNTED = completion.c.prompt_tokens.is_not(None) & completion.c.completion_tokens.is_not(None)
_KIND = case(
    (completion.c.cost_nanousd.is_not(None), literal_column("'reported'")),
    (_IS_COUNTED, literal_column("'counted'")),
    else_=literal_column("'uncounted'"),
)
_IS_ESTIMATED = completion.c.usage_source == "estimated"
_ALL_TOKENS = func.coalesce(completion.c.prompt_tokens, 0) + func.coalesce(completion.c.completion_tokens, 0)


def _sum_capped(part: Any, whole: Any) -> Any:
    # Some servers report more cached tokens than prompt tokens.
    return func.sum(case((part > whole, whole), else_=part))


_SUMS = (
    func.count(),
    func.sum(case((_IS_ESTIMATED, 1), else_=0)),
    func.sum(case((_IS_ESTIMATED, _ALL_TOKENS), else_=0)),
    func.sum(completion.c.prompt_tokens),
    func.sum(completion.c.completion_tokens),
    _sum_capped(completion.c.cached_tokens, completion.c.prompt_tokens),
    _sum_capped(completion.c.cache_write_tokens, completion.c.prompt_tokens),
    _sum_capped(completion.c.reasoning_tokens, completion.c.completion_tokens),
    func.sum(completion.c.cost_nanousd),
)
_NEXT_TENANT = select(func.min(conversation.c.tenant)).where(conversation.c.tenant > bindparam("after"))


def sum_calls(
    connection: Connection,
    tenant: str,
    *,
    by_conversation: bool = False,
    since_us: int | None = None,
    until_us: int | None = None,
    conversation_ids: Sequence[UUID] | None = None,
    subject: str | None = None,
    sizes: Sequence[int] = (),
) -> Iterator[CallGroup]:
    """Yield the groups of the tenant's calls that started at `since_us` or later, and before `until_us`.

    With `by_conversation` each conversation has its own groups, one conversation after the other. `sizes` are prompt tokens,
    ascending.
    """
    query = _select_groups(sizes, by_conversation=by_conversation).where(conversation.c.tenant == tenant)
    if since_us is not None:
        # The condition on `updated_at` uses an index; conversations without newer calls are not read.
        is_recent = conversation.c.updated_at >= since_us - _MAX_CLOCK_SKEW_US
        query = query.where(completion.c.started_at >= since_us, is_recent)
    if until_us is not None:
        query = query.where(completion.c.started_at < until_us)
    if conversation_ids is not None:
        # For both tables: a distributed database then asks the servers of these conversations only.
        query = query.where(conversation.c.id.in_(conversation_ids), completion.c.conversation_id.in_(conversation_ids))
    if subject is not None:
        query = query.where(conversation.c.subject == subject)
    for row in connection.execute(query, execution_options={"yield_per": _BATCH}):
        sums: list[Any] = [None if value is None else int(value) for value in row[9:]]  # PostgreSQL sums into a numeric
        yield CallGroup(*row[:9], *sums)


def _select_groups(sizes: Sequence[int], *, by_conversation: bool) -> Any:
    above = [(completion.c.prompt_tokens > _literal(size), _literal(index)) for index, size in enumerate(sizes, 1)]
    size_index: list[Any] = [case(*reversed(above), else_=_literal(0))] if above else []
    pricing = (
        completion.c.started_at // _literal(HALF_HOUR_US),
        completion.c.provider,
        completion.c.requested_model,
        completion.c.served_model,
        completion.c.service_tier,
    )
    owner = (conversation.c.id, conversation.c.key) if by_conversation else ()
    columns = [*(owner or (null(), null())), *pricing, *(size_index or [_literal(0)]), _KIND, *_SUMS]
    query = select(*columns).select_from(conversation)
    query = query.join(completion, completion.c.conversation_id == conversation.c.id)
    query = query.group_by(*owner, *pricing, *size_index, _KIND)
    return query.order_by(conversation.c.id) if by_conversation else query


def list_tenants(connection: Connection) -> Iterator[str]:
    """Yield every tenant that has a conversation, with one index lookup for each. For an operator, who has no tenant."""
    after: str | None = ""
    while (after := connection.execute(_NEXT_TENANT, {"after": after}).scalar_one()) is not None:
        yield after
