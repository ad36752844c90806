"""Test the price lists of the `prices` extra, given price tables, and the cost of summed calls."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from convokit import Convokit
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.usage import prices
from convokit.usage.models import Price, Prices
from convokit.usage.prices import ListedPrices, NoPrices, resolve_prices
from convokit.usage.sql import HALF_HOUR_US
from tests.support.databases import Files
from tests.support.selection import examples
from tests.support.server import LoopbackServer, completion

LISTED = ListedPrices()
ONE = Price(prompt=Decimal(1), completion=Decimal(1))
AT = datetime(2026, 11, 2, 12, tzinfo=UTC)


def _listed_price(
    model: str, provider: str, *, tier: str | None = None, longer_than: int = 0, at: datetime = AT
) -> Price | None:
    return LISTED.price(model=model, provider=provider, tier=tier, at=at, longer_than=longer_than)


def test_model_has_a_price_at_its_provider_only() -> None:
    """An open model has a price at a vendor, and none on the user's own machine."""
    assert _listed_price("llama-3.3-70b-versatile", "api.groq.com")
    for provider in ("vllm", "llama.cpp", "ollama", "127.0.0.1", "example.com", ""):
        assert _listed_price("llama-3.3-70b-versatile", provider) is None
        assert _listed_price("gpt-5", provider) is None
    for provider in ("openai", "azure"):
        assert _listed_price("gpt-5", provider)
        assert _listed_price("nobody-knows", provider) is None


def test_sizes_are_the_thresholds_of_listed_prices() -> None:
    """A prompt above a threshold has another price for the whole call."""
    assert 272_000 in LISTED.sizes
    assert list(LISTED.sizes) == sorted(set(LISTED.sizes))
    below, above = (_listed_price("gpt-6-luna", "openai", longer_than=size) for size in (0, 272_000))
    assert below is not None
    assert above is not None
    assert above.prompt > below.prompt


def test_tiers_have_their_own_prices() -> None:
    """The flex tier is cheaper. The default tier and unknown tiers have the standard price."""
    plain, flex = _listed_price("gpt-5", "openai"), _listed_price("gpt-5", "openai", tier="flex")
    assert plain is not None
    assert flex is not None
    assert flex.prompt < plain.prompt
    assert plain.cached is not None
    assert plain.cached < plain.prompt
    for tier in ("default", "auto", "x"):
        assert _listed_price("gpt-5", "openai", tier=tier) == plain


def test_models_paid_by_request_or_citation_have_no_price() -> None:
    """Token prices alone would make them too cheap."""
    assert _listed_price("sonar", "api.perplexity.ai") is None
    assert _listed_price("sonar-deep-research", "api.perplexity.ai") is None


def _price_of(asked: Prices, model: str) -> Price | None:
    return asked.price(model=model, provider="openai", tier=None, at=AT, longer_than=0)


def test_without_the_extra_only_given_prices_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "has_price_lists", lambda: False)
    assert isinstance(resolve_prices(None), NoPrices)
    given = resolve_prices({"m": ONE})
    assert _price_of(given, "m") == ONE
    assert _price_of(given, "gpt-5") is None


def test_given_price_beats_the_price_list() -> None:
    asked = resolve_prices({"gpt-5": ONE})
    assert _price_of(asked, "gpt-5") == ONE
    assert _price_of(asked, "gpt-4o") == _listed_price("gpt-4o", "openai")


class _Server:
    """A database with one conversation; `set` replaces its calls."""

    def __init__(self, url: str, server: LoopbackServer) -> None:
        server.script(completion("yes", model="gpt-6-luna"))
        self.kit = Convokit(url, model="gpt-6-luna", base_url=server.url, profile="openai", api_key="k")
        self.kit.chat("a").send("one")
        self.engine = open_engine(parse_database_url(url))

    def set(self, calls: list[tuple[int, int, int, int]]) -> None:
        """Replace the calls: their time in minutes, prompt, cached and reply tokens."""
        copied = (
            "INSERT INTO convokit_completion (conversation_id, turn_id, number, state, manifest, body_digest, requested_model,"
            " provider, usage_source, prompt_tokens, cached_tokens, completion_tokens, started_at) SELECT conversation_id,"
            " turn_id, :number, 'ok', '{}', body_digest, requested_model, provider, 'reported', :prompt, :cached, :reply, :at"
            " FROM convokit_completion WHERE number = 1"
        )
        with self.engine.execution_options(**{WRITE: True}).begin() as connection:
            connection.execute(text("DELETE FROM convokit_completion WHERE number > 1"))
            start = int(AT.timestamp()) * 1_000_000
            for number, (minutes, prompt, cached, reply) in enumerate(calls, 2):
                values = {"number": number, "prompt": prompt, "cached": cached, "reply": reply}
                connection.execute(text(copied), {**values, "at": start + minutes * 60_000_000})


@pytest.fixture(scope="module")
def stored(files: Files) -> Iterator[_Server]:
    server = LoopbackServer().start()
    made = _Server(files.migrated(), server)
    yield made
    made.kit.close()
    made.engine.dispose()
    server.stop()


_CALLS = st.lists(
    st.tuples(
        st.integers(0, 200),
        st.sampled_from([1, 7, 1000, 127_999, 128_001, 272_000, 272_001, 900_001]),
        st.integers(0, 1000),
        st.integers(0, 9999),
    ),
    max_size=12,
)


@given(calls=_CALLS)
@examples(cost=10)
def test_report_cost_equals_the_sum_of_single_calls(stored: _Server, calls: list[tuple[int, int, int, int]]) -> None:
    """genai-prices prices each call alone; the sums must be equal to the last digit."""
    stored.set(calls)
    report = stored.kit.usage(until=datetime(2026, 11, 20, tzinfo=UTC))
    alone = Decimal(0)
    for minutes, prompt, cached, reply in calls:
        at = datetime.fromtimestamp(int(AT.timestamp()) + minutes * 60, UTC)
        tokens = genai_prices.Usage(input_tokens=prompt, cache_read_tokens=min(cached, prompt), output_tokens=reply)
        found = genai_prices.calc_price(tokens, "gpt-6-luna", provider_id="openai", genai_request_timestamp=at)
        alone += found.total_price
    assert report.total.cost == alone
    assert report.total.calls == len(calls)


def test_calls_are_priced_at_their_half_hour(stored: _Server) -> None:
    """Some vendors are cheaper at night."""

    class Hourly(NoPrices):
        name = "by the hour"

        def price(
            self, *, model: str, provider: str | None, tier: str | None, at: datetime, longer_than: int
        ) -> Price | None:
            return Price(prompt=Decimal(at.hour), completion=Decimal(0))

    stored.set([(0, 10**6, 0, 5), (59, 10**6, 0, 5), (60, 10**6, 0, 5), (130, 10**6, 0, 5)])
    report = stored.kit.usage(until=datetime(2026, 11, 20, tzinfo=UTC), prices=Hourly())
    assert report.total.cost == 12 + 12 + 13 + 14
    assert HALF_HOUR_US * 48 == 86_400_000_000
