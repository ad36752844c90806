"""Define usage reports and prices.

Money is US dollars, as an exact `Decimal`. An unknown cost is None, and unknown calls are counted separately. Neither is ever 0
or a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, runtime_checkable
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, computed_field

UsageBy = Literal["day", "model", "conversation"]
_PerMillion = Annotated[Decimal, Field(ge=0, le=1_000_000)]
_Amount = Decimal | str | float


class Price(BaseModel):
    """The price of a model, in US dollars for a million tokens. Pass text or a Decimal for an exact price.

    `cached` and `cache_write` price the prompt tokens that the provider's cache served and stored (default: `prompt`).
    `reasoning` prices the reasoning tokens of a reply (default: `completion`). `above` maps a number of prompt tokens to the
    price of calls with a longer prompt, for all their tokens.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    prompt: _PerMillion
    completion: _PerMillion
    cached: _PerMillion | None = None
    cache_write: _PerMillion | None = None
    reasoning: _PerMillion | None = None
    above: Mapping[Annotated[int, Field(gt=0)], Price] = {}

    if TYPE_CHECKING:  # pydantic converts text and numbers; type checkers know only the fields' own types

        def __init__(
            self,
            *,
            prompt: _Amount,
            completion: _Amount,
            cached: _Amount | None = None,
            cache_write: _Amount | None = None,
            reasoning: _Amount | None = None,
            above: Mapping[int, Price] = ...,
        ) -> None: ...


class Spending(BaseModel):
    """Sums over API calls. Every retry and every tool round is one call.

    `cost` is None when the price of a call is unknown: then `known_cost` is the cost of the other calls, and `unpriced_calls`
    the number of those without a price. `cached_tokens` and `cache_write_tokens` are part of `prompt_tokens`,
    `reasoning_tokens` of `completion_tokens`; they are None when no server reported them.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    calls: int = 0
    estimated_calls: int = 0
    """Calls whose tokens convokit counted, because the call broke off or the server reported no usage."""
    uncounted_calls: int = 0
    """Calls without token counts: refused, failed before the first byte, or still running. No cost includes them."""
    unpriced_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated_tokens: int = 0
    """The prompt and completion tokens of the estimated calls."""
    cost: Decimal | None = Decimal(0)
    known_cost: Decimal = Decimal(0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cached_share(self) -> float | None:
        """The share of prompt tokens that the provider's cache served, 0 to 1."""
        return (
            self.cached_tokens / self.prompt_tokens if self.cached_tokens is not None and self.prompt_tokens else None
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def estimated_share(self) -> float:
        """The share of all tokens that is estimated, 0 to 1."""
        tokens = self.prompt_tokens + self.completion_tokens
        return self.estimated_tokens / tokens if tokens else 0.0


class UsageRow(Spending):
    """One row of a report: a day (UTC), a model by the name that the server reported, or a conversation."""

    day: date | None = None
    model: str | None = None
    conversation_id: UUID | None = None
    key: str | None = None


class UsageReport(BaseModel):
    """Tokens and cost of a tenant's calls. Days are sorted by date, models and conversations by cost, highest first.

    A report lists at most 1,000 conversations; `unlisted` is the number of the others. `total` includes all of them.
    `unknown_models` are the models without a known price. `prices` names the source of the prices.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    by: UsageBy
    since: datetime | None = None
    until: datetime | None = None
    rows: list[UsageRow]
    unlisted: int = 0
    total: Spending
    unknown_models: tuple[str, ...] = ()
    prices: str


@runtime_checkable
class Prices(Protocol):
    """Protocol of a source of prices. A price must not change within a half hour (UTC)."""

    @property
    def name(self) -> str:
        """The name of the source, for people."""
        ...

    @property
    def sizes(self) -> Sequence[int]:
        """The numbers of prompt tokens above which some price changes, ascending."""
        ...

    def price(
        self, *, model: str, provider: str | None, tier: str | None, at: datetime, longer_than: int
    ) -> Price | None:
        """Return the price of a call, None when the model's price is unknown.

        Args:
            model: the model's name, as served or as requested.
            provider: a provider's name (`openai`) or a host name (`api.groq.com`).
            tier: the service tier that the server reported.
            at: the time of the call.
            longer_than: one of `sizes`, or 0: the prompt is longer than this, and not longer than the next size.
        """
        ...
