"""Find the price of an API call.

Vendors price a call by its model, its tier, its time and the length of its prompt.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from importlib.util import find_spec
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError

from convokit.errors import InvalidInput
from convokit.usage.models import Price, Prices

_UNREPORTED = ("requests_kcount", "output_citation_mtok")
"""Prices per request and per citation token. Servers report neither count, so the cost of such a model is unknown."""
_STANDARD_TIERS = (None, "default", "auto", "standard")


class NoPrices:
    """Has no price for any model."""

    name = "none"
    sizes: Sequence[int] = ()

    def price(
        self, *, model: str, provider: str | None, tier: str | None, at: datetime, longer_than: int
    ) -> Price | None:
        return None


class TablePrices:
    """Prices by model name, for every time and provider. A model that is not in the table is looked up in `fallback`."""

    def __init__(self, table: Mapping[str, Price], fallback: Prices) -> None:
        self._table = table
        self._fallback = fallback
        self.name = f"given, then {fallback.name}" if not isinstance(fallback, NoPrices) else "given"
        self.sizes = sorted({*fallback.sizes, *(size for price in table.values() for size in price.above)})

    def price(
        self, *, model: str, provider: str | None, tier: str | None, at: datetime, longer_than: int
    ) -> Price | None:
        price = self._table.get(model)
        if price is None:
            return self._fallback.price(model=model, provider=provider, tier=tier, at=at, longer_than=longer_than)
        sizes = [size for size in price.above if size <= longer_than]
        return price.above[max(sizes)] if sizes else price


class ListedPrices:
    """The price lists of the genai-prices package: by provider, date, tier and prompt size. It makes no network request."""

    def __init__(self) -> None:
        package = importlib.import_module("genai_prices")
        self._lists: Any = importlib.import_module("genai_prices.data_snapshot").get_snapshot()
        self._tiered: Any = importlib.import_module("genai_prices.types").TieredPrices
        self._providers = {provider.id for provider in self._lists.providers}
        self._entries: dict[tuple[str, str | None], Any] = {}
        self._prices: dict[tuple[int, int], tuple[Any, Price | None]] = {}
        self.name = f"genai-prices {package.__version__}"
        self.sizes = sorted(self._list_sizes())

    def price(
        self, *, model: str, provider: str | None, tier: str | None, at: datetime, longer_than: int
    ) -> Price | None:
        entry = self._find_entry(model, provider)
        if entry is None:
            return None
        if tier not in _STANDARD_TIERS:
            return self._convert(entry.get_prices(at, {"service_tier": tier}), longer_than)
        listed = entry.get_prices(at)
        key = (id(listed), longer_than)
        if key not in self._prices:
            self._prices[key] = (
                listed,
                self._convert(listed, longer_than),
            )  # keeps `listed`, so that its id stays taken
        return self._prices[key][1]

    def _find_entry(self, model: str, provider: str | None) -> Any:
        """Return the model's entry at its provider, None when it has none. Other providers have other prices."""
        if (model, provider) not in self._entries:  # a search takes long, also for a model without an entry
            # genai-prices finds a provider by its id or by the URL of its API.
            where = (provider, None) if provider in self._providers else (None, f"https://{provider}/")
            try:
                self._entries[model, provider] = self._lists.find_provider_model(model, None, *where)[1]
            except LookupError:
                self._entries[model, provider] = None
        return self._entries[model, provider]

    def _convert(self, listed: Any, longer_than: int) -> Price | None:
        def usd(name: str) -> Decimal | None:
            price: Any = getattr(listed, name, None)
            if not isinstance(price, self._tiered):
                return cast("Decimal | None", price)
            reached = [tier.price for tier in price.tiers if tier.start <= longer_than]
            return cast("Decimal", reached[-1] if reached else price.base)

        prompt, completion = usd("input_mtok"), usd("output_mtok")
        if prompt is None or completion is None or any(usd(name) for name in _UNREPORTED):
            return None
        return Price(
            prompt=prompt,
            completion=completion,
            cached=usd("cache_read_mtok"),
            cache_write=usd("cache_write_mtok"),
            reasoning=usd("output_reasoning_mtok"),
        )

    def _list_sizes(self) -> set[int]:
        sizes: set[int] = set()
        for model in (model for provider in self._lists.providers for model in provider.models):
            listed = model.prices if isinstance(model.prices, list) else [model]
            for each in (*listed, *(model.price_variants or ())):
                for price in vars(each.prices).values():
                    if isinstance(price, self._tiered):
                        sizes.update(tier.start for tier in price.tiers)
        return sizes


def has_price_lists() -> bool:
    """Return whether the `prices` extra is installed."""
    return find_spec("genai_prices") is not None


def resolve_prices(given: Mapping[str, Price] | Prices | None) -> Prices:
    """Return the prices to use: the given ones, a given table before the price lists, or the price lists.

    Raises: InvalidInput.
    """
    if isinstance(given, Prices):
        return given
    listed: Prices = ListedPrices() if has_price_lists() else NoPrices()
    if given is None:
        return listed
    try:
        table = TypeAdapter(dict[str, Price]).validate_python(dict(given))
    except (ValidationError, TypeError, ValueError) as error:
        raise InvalidInput("prices", f"must map model names to convokit.Price: {error}") from None
    return TablePrices(table, listed)
