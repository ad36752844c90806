"""What calls cost: rows of a usage report, and prices.

Tokens are counts of what was sent and came back. Money is US dollars, exact (`Decimal`). What nobody knows is None or counted
apart, never a zero and never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal, Protocol, runtime_checkable
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, computed_field

UsageBy = Literal["day", "model", "conversation"]
_PerMillion = Annotated[Decimal, Field(ge=0, le=1_000_000)]


class Price(BaseModel):
    """What a model costs: US dollars for a million tokens. Pass texts or Decimals where cents of cents matter.

    `cached` and `cache_write` are for the parts of a prompt that were read from the provider's cache and written to it (as
    `prompt`, when not given), `reasoning` for the part of a reply that nobody sees (as `completion`). `above` names the prices
    of calls whose prompt is longer than so many tokens: they hold for the whole call.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    prompt: _PerMillion
    completion: _PerMillion
    cached: _PerMillion | None = None
    cache_write: _PerMillion | None = None
    reasoning: _PerMillion | None = None
    above: Mapping[Annotated[int, Field(gt=0)], Price] = {}


class Spending(BaseModel):
    """Sums over API calls; every retry and every round of tools is a call of its own.

    `cost` is None while the price of a call in it is not known; `known_cost` is then what the others cost, and
    `unpriced_calls` says how many there are. `cached_tokens` and `cache_write_tokens` are parts of `prompt_tokens`,
    `reasoning_tokens` of `completion_tokens`; they are None when no server spoke of them.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    calls: int = 0
    estimated_calls: int = 0
    """Calls that were counted here, because they broke off or because the server reported nothing."""
    uncounted_calls: int = 0
    """Calls without figures: refused, failed before anything came back, or on their way. No cost holds anything of them."""
    unpriced_calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    estimated_tokens: int = 0
    """Of both, how many belong to calls that were counted here."""
    cost: Decimal | None = Decimal(0)
    known_cost: Decimal = Decimal(0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def cached_share(self) -> float | None:
        """How much of the prompts came from the provider's cache, 0 to 1."""
        return (
            self.cached_tokens / self.prompt_tokens if self.cached_tokens is not None and self.prompt_tokens else None
        )

    @computed_field  # type: ignore[prop-decorator]
    @property
    def estimated_share(self) -> float:
        """How much of all tokens is estimated, 0 to 1."""
        tokens = self.prompt_tokens + self.completion_tokens
        return self.estimated_tokens / tokens if tokens else 0.0


class UsageRow(Spending):
    """One line of a report: of a day (UTC), of a model as the server named it, or of a conversation."""

    day: date | None = None
    model: str | None = None
    conversation_id: UUID | None = None
    key: str | None = None


class UsageReport(BaseModel):
    """What a tenant's calls took and cost. Days come oldest first, models and conversations the costliest first.

    `total` is over all rows, also over those that are not listed (`unlisted`): a report lists at most 1,000 conversations.
    `unknown_models` are those whose price is not known; `prices` says whose prices were taken.
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
    """Knows what calls cost. Prices are taken to stay the same within a half hour."""

    @property
    def name(self) -> str:
        """Whose prices they are, for people."""
        ...

    @property
    def sizes(self) -> Sequence[int]:
        """The prompt sizes in tokens above which some price is another, ascending."""
        ...

    def price(
        self, *, model: str, provider: str | None, tier: str | None, at: datetime, longer_than: int
    ) -> Price | None:
        """Return a call's price, None when the model's is not known.

        `provider` is a name (`openai`) or a host's (`api.groq.com`), `tier` what the server said; the prompt is longer than
        `longer_than` tokens, which is one of `sizes` or 0, and not than the next size.
        """
        ...
