"""What a call costs, from whoever knows: a table of the caller's own, or the price lists that the `prices` extra brings.

Vendors price a call by its model, its tier, the time it was made, and by how long its prompt is. Whoever does not know the
model says None.
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

_UNCOUNTED = ("requests_kcount", "output_citation_mtok")
"""Listed prices of what no usage tells: where one holds, the cost is not known."""
_STANDARD = (None, "default", "auto", "standard")


class NoPrices:
    """Knows no price."""

    name = "none"
    sizes: Sequence[int] = ()

    def price(
        self, *, model: str, provider: str | None, tier: str | None, at: datetime, longer_than: int
    ) -> Price | None:
        """Return None."""
        return None


class TablePrices:
    """Prices of a table by model, the same at any time and at every provider; what is not in it is asked of `beyond`."""

    def __init__(self, table: Mapping[str, Price], beyond: Prices) -> None:
        self._table = table
        self._beyond = beyond
        self.name = f"given, then {beyond.name}" if not isinstance(beyond, NoPrices) else "given"
        self.sizes = sorted({*beyond.sizes, *(size for price in table.values() for size in price.above)})

    def price(
        self, *, model: str, provider: str | None, tier: str | None, at: datetime, longer_than: int
    ) -> Price | None:
        """Return what the table says."""
        found = self._table.get(model)
        if found is None:
            return self._beyond.price(model=model, provider=provider, tier=tier, at=at, longer_than=longer_than)
        reached = [size for size in found.above if size <= longer_than]
        return found.above[max(reached)] if reached else found


class ListedPrices:
    """The price lists of genai-prices: by provider, with their dates, tiers and sizes. Nothing is fetched."""

    def __init__(self) -> None:
        package = importlib.import_module("genai_prices")
        self._lists: Any = importlib.import_module("genai_prices.data_snapshot").get_snapshot()
        self._tiered: Any = importlib.import_module("genai_prices.types").TieredPrices
        self._providers = {provider.id for provider in self._lists.providers}
        self._found: dict[tuple[str, str | None], Any] = {}
        self._made: dict[tuple[int, int], tuple[Any, Price | None]] = {}
        self.name = f"genai-prices {package.__version__}"
        self.sizes = sorted(self._all_sizes())

    def price(
        self, *, model: str, provider: str | None, tier: str | None, at: datetime, longer_than: int
    ) -> Price | None:
        """Return what the lists say. A model is looked for at its provider only: elsewhere it has another price."""
        listed = self._listed(model, provider)
        if listed is None:
            return None
        if tier not in _STANDARD:
            return self._price(listed.get_prices(at, {"service_tier": tier}), longer_than)
        found = listed.get_prices(at)
        key = (id(found), longer_than)
        if key not in self._made:
            self._made[key] = (found, self._price(found, longer_than))  # holding it keeps its id its own
        return self._made[key][1]

    def _listed(self, model: str, provider: str | None) -> Any:
        """Return the model's entry, None where it is not listed: that is remembered too, for it takes a search."""
        if (model, provider) not in self._found:
            where = (provider, None) if provider in self._providers else (None, f"https://{provider}/")
            try:
                self._found[model, provider] = self._lists.find_provider_model(model, None, *where)[1]
            except LookupError:
                self._found[model, provider] = None
        return self._found[model, provider]

    def _price(self, listed: Any, longer_than: int) -> Price | None:
        def usd(name: str) -> Decimal | None:
            found: Any = getattr(listed, name, None)
            if not isinstance(found, self._tiered):
                return cast("Decimal | None", found)
            reached = [tier.price for tier in found.tiers if tier.start <= longer_than]
            return cast("Decimal", reached[-1] if reached else found.base)

        prompt, completion = usd("input_mtok"), usd("output_mtok")
        if prompt is None or completion is None or any(usd(name) for name in _UNCOUNTED):
            return None
        return Price(
            prompt=prompt,
            completion=completion,
            cached=usd("cache_read_mtok"),
            cache_write=usd("cache_write_mtok"),
            reasoning=usd("output_reasoning_mtok"),
        )

    def _all_sizes(self) -> set[int]:
        found: set[int] = set()
        for model in (model for provider in self._lists.providers for model in provider.models):
            listed = model.prices if isinstance(model.prices, list) else [model]
            for each in (*listed, *(model.price_variants or ())):
                for price in vars(each.prices).values():
                    if isinstance(price, self._tiered):
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
        raise InvalidInput("prices", f"must map model names to convokit.Price: {error}") from None
    return TablePrices(table, listed)
