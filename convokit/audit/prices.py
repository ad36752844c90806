"""What a call costs, from whoever knows: a table of the caller's own, or the price lists that the `prices` extra brings.

Vendors price a call by its model, its tier, the time it was made, and by how long its prompt is. Whoever does not know the
model says None.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from pydantic import TypeAdapter, ValidationError

from convokit.domain.usage_report import Price
from convokit.errors import InvalidInput

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one call, or of calls that are priced alike on average. `cached` and `cache_write` are parts of `prompt`
    and do not overlap, `reasoning` is part of `completion`."""

    prompt: Decimal
    completion: Decimal
    cached: Decimal
    cache_write: Decimal
    reasoning: Decimal


@runtime_checkable
class Prices(Protocol):
    """Knows what calls cost. `name` is for people; `sizes` are the prompt sizes above which some call costs more, ascending.

    Calls of one half hour, model and tier are asked for together, at their average, if no size lies between them.
    """

    name: str
    sizes: Sequence[int]

    def cost(
        self, tokens: Tokens, *, model: str, provider: str | None, tier: str | None, at: datetime
    ) -> Decimal | None:
        """Return the US dollars of one call, None when the model's price is not known. `provider` may be a host's name."""
        ...


class NoPrices:
    """Knows no price."""

    name = "none"
    sizes: Sequence[int] = ()

    def cost(
        self, tokens: Tokens, *, model: str, provider: str | None, tier: str | None, at: datetime
    ) -> Decimal | None:
        """Return None."""
        return None


class TablePrices:
    """Prices of a table by model, the same at any time and at every provider; what is not in it is asked of `beyond`."""

    def __init__(self, table: Mapping[str, Price], beyond: Prices) -> None:
        self._table = table
        self._beyond = beyond
        self.name = f"given, then {beyond.name}" if not isinstance(beyond, NoPrices) else "given"
        self.sizes = sorted({*beyond.sizes, *(size for price in table.values() for size in price.above)})

    def cost(
        self, tokens: Tokens, *, model: str, provider: str | None, tier: str | None, at: datetime
    ) -> Decimal | None:
        """Return what the table says."""
        price = self._table.get(model)
        if price is None:
            return self._beyond.cost(tokens, model=model, provider=provider, tier=tier, at=at)
        price = max(((size, each) for size, each in price.above.items() if tokens.prompt > size), default=(0, price))[1]
        cached = price.prompt if price.cached is None else price.cached
        written = price.prompt if price.cache_write is None else price.cache_write
        thought = price.completion if price.reasoning is None else price.reasoning
        cost = (tokens.prompt - tokens.cached - tokens.cache_write) * price.prompt
        cost += tokens.cached * cached + tokens.cache_write * written
        cost += (tokens.completion - tokens.reasoning) * price.completion + tokens.reasoning * thought
        return cost / _MILLION


class ListedPrices:
    """The price lists of genai-prices: by provider, with their dates, tiers and sizes. Nothing is fetched."""

    def __init__(self) -> None:
        self._package: Any = importlib.import_module("genai_prices")
        self._lists: Any = importlib.import_module("genai_prices.data_snapshot").get_snapshot()
        self._providers = {provider.id for provider in self._lists.providers}
        self.name = f"genai-prices {self._package.__version__}"
        self.sizes = sorted(_sizes(self._lists))

    def cost(
        self, tokens: Tokens, *, model: str, provider: str | None, tier: str | None, at: datetime
    ) -> Decimal | None:
        """Return what the lists say. A model is looked for at its provider only: elsewhere it has another price."""
        usage = self._package.Usage(
            input_tokens=tokens.prompt,
            cache_read_tokens=tokens.cached,
            cache_write_tokens=tokens.cache_write,
            output_tokens=tokens.completion,
            output_reasoning_tokens=tokens.reasoning,
        )
        where: dict[str, str] = {"provider_id": provider} if provider in self._providers else {}
        where = where or {"provider_api_url": f"https://{provider}/"}
        context = {"service_tier": tier} if tier else None
        try:
            found = self._package.calc_price(usage, model, **where, genai_request_timestamp=at, price_context=context)
        except LookupError:
            return None
        total: Decimal = found.total_price
        return total


def _sizes(lists: Any) -> set[int]:
    tiered = importlib.import_module("genai_prices.types").TieredPrices
    found = set()
    for model in (model for provider in lists.providers for model in provider.models):
        listed = model.prices if isinstance(model.prices, list) else [model]
        for each in (*listed, *(model.price_variants or ())):
            for price in vars(each.prices).values():
                if isinstance(price, tiered):
                    found.update(tier.start for tier in price.tiers)
    return found


def is_installed() -> bool:
    """Return whether the `prices` extra is there."""
    return find_spec("genai_prices") is not None


def prices_from(given: Mapping[str, Price] | Prices | None) -> Prices:
    """Return who is asked for prices: what was given, a table before the lists of the `prices` extra. Raises: InvalidInput."""
    if isinstance(given, Prices):
        return given
    listed: Prices = ListedPrices() if is_installed() else NoPrices()
    if given is None:
        return listed
    try:
        table = TypeAdapter(dict[str, Price]).validate_python(dict(given))
    except (ValidationError, TypeError, ValueError) as error:
        raise InvalidInput("prices", f"must map model names to convokit.domain.usage_report.Price: {error}") from None
    return TablePrices(table, listed)
