"""Test usage reports: every call is counted once, and no cost is guessed."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.event import listen, remove

from convokit import Retry
from convokit.errors import InvalidInput, ModelError, NotFound, TooLarge
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.usage import flows as usage_report
from convokit.usage.models import Price
from tests.support.abandoned_turns import leave
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, chunk, completion, failure, stream

TABLE = {"loop-1": Price(prompt=Decimal(2), completion=Decimal(10))}
_DAY = timedelta(days=1)


def _reply_with_usage(prompt: int, reply: int, *, model: str = "loop-1", **more: Any) -> Script:
    """Return a reply that reports these tokens."""
    usage = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply, **more}
    return completion("yes", model=model, usage=usage)


def _age_calls(database: str, days: int) -> None:
    """Make all stored calls older by `days`."""
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        older = {"us": days * 86_400_000_000}
        connection.execute(text("UPDATE convokit_completion SET started_at = started_at - :us"), older)
        connection.execute(text("UPDATE convokit_conversation SET updated_at = updated_at - :us"), older)
    engine.dispose()


def test_calls_are_summed_by_day_model_and_conversation(
    face: Face, kit: Any, database: str, server: LoopbackServer
) -> None:
    """Each call is in one row of each report, and all reports have the same total."""
    server.script(_reply_with_usage(10, 1), _reply_with_usage(20, 2))
    face.settle(kit.chat("a").send("one"))
    face.settle(kit.chat("b").send("two"))
    _age_calls(database, 3)
    server.script(_reply_with_usage(400, 4, model="loop-2"))
    face.settle(kit.chat("b").send("three"))
    today = datetime.now(UTC).date()
    days = face.settle(kit.usage(prices=TABLE))
    assert [(row.day, row.calls, row.prompt_tokens, row.completion_tokens) for row in days.rows] == [
        (today - 3 * _DAY, 2, 30, 3),
        (today, 1, 400, 4),
    ]
    models = face.settle(kit.usage(by="model", prices=TABLE))
    assert [(row.model, row.calls) for row in models.rows] == [("loop-1", 2), ("loop-2", 1)]
    whose = face.settle(kit.usage(by="conversation", prices=TABLE))
    ids = {each.key: each.id for each in face.settle(kit.conversations())}
    assert {row.key: (row.conversation_id, row.prompt_tokens) for row in whose.rows} == {
        "a": (ids["a"], 10),
        "b": (ids["b"], 420),
    }
    assert days.total == models.total == whose.total
    assert days.total.calls == 3
    assert days.total.prompt_tokens == 430


@pytest.mark.once
def test_every_part_of_a_price_is_applied(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Cached, cache-written and reasoning tokens have their own prices. A long prompt has another price for the whole call."""
    long = Price(prompt=Decimal(4), completion=Decimal(20))
    price = Price(
        prompt=Decimal(2),
        completion=Decimal(10),
        cached=Decimal("0.2"),
        cache_write=Decimal("2.5"),
        reasoning=Decimal(11),
        above={1000: long},
    )
    parts: dict[str, Any] = {
        "prompt_tokens_details": {"cached_tokens": 300, "cache_write_tokens": 100},
        "completion_tokens_details": {"reasoning_tokens": 30},
    }
    server.script(
        _reply_with_usage(1000, 50, **parts),
        _reply_with_usage(1001, 7),
        _reply_with_usage(3, 1),
        _reply_with_usage(4, 0),
        _reply_with_usage(3, 1),
    )
    for _ in range(5):
        face.settle(kit.chat("a").send("one"))
    report = face.settle(kit.usage(prices={"loop-1": price}))
    first = 600 * Decimal(2) + 300 * Decimal("0.2") + 100 * Decimal("2.5") + 20 * Decimal(10) + 30 * Decimal(11)
    others = (1001 * Decimal(4) + 7 * Decimal(20)) + 10 * Decimal(2) + 2 * Decimal(10)
    assert report.total.cost == (first + others) / 1_000_000
    assert isinstance(report.total.cost, Decimal)
    assert (report.total.cached_tokens, report.total.cache_write_tokens, report.total.reasoning_tokens) == (
        300,
        100,
        30,
    )
    assert report.total.cached_share == 300 / 2011


@pytest.mark.once
@pytest.mark.parametrize(
    ("usage", "headers"),
    [
        ({"cost": 0.0000125}, {}),
        ({"cost": {"total_cost": 0.0000125}}, {}),
        ({}, {"x-litellm-response-cost": "1.25e-05"}),
    ],
    ids=["openrouter", "perplexity", "litellm"],
)
def test_cost_reported_by_the_server_wins(
    face: Face, kit: Any, server: LoopbackServer, usage: dict[str, Any], headers: dict[str, str]
) -> None:
    """A reported cost beats the price table, for known and unknown models."""
    for model in ("loop-1", "nobody-knows"):
        answer = _reply_with_usage(100, 10, model=model, **usage)
        answer.headers = {**answer.headers, **headers}
        server.script(answer)
        face.settle(kit.chat("a").send("one"))
    report = face.settle(kit.usage(by="model", prices=TABLE))
    assert [row.cost for row in report.rows] == [Decimal("0.0000125")] * 2


@pytest.mark.once
@pytest.mark.parametrize("said", [-1, 1e300, float("nan"), "a lot", True, 10_001, None, {"total_cost": []}])
def test_invalid_reported_cost_is_ignored(face: Face, kit: Any, server: LoopbackServer, said: Any) -> None:
    """A negative, huge or malformed cost is ignored: the price table decides."""
    server.script(_reply_with_usage(100, 10, cost=said))
    face.settle(kit.chat("a").send("one"))
    assert face.settle(kit.usage(prices=TABLE)).total.cost == Decimal("0.0003")


@pytest.mark.once
def test_unknown_model_makes_the_cost_unknown(face: Face, kit: Any, server: LoopbackServer) -> None:
    """`cost` is None, `known_cost` has the other calls, and the report names the model."""
    server.script(_reply_with_usage(100, 10), _reply_with_usage(100, 10, model="nobody-knows"))
    for _ in range(2):
        face.settle(kit.chat("a").send("one"))
    report = face.settle(kit.usage(prices=TABLE))
    assert report.total.cost is None
    assert report.total.known_cost == Decimal("0.0003")
    assert report.total.unpriced_calls == 1
    assert report.unknown_models == ("nobody-knows",)
    models = face.settle(kit.usage(by="model", prices=TABLE))
    assert [(row.model, row.cost) for row in models.rows] == [("loop-1", Decimal("0.0003")), ("nobody-knows", None)]


@pytest.mark.once
def test_served_version_falls_back_to_the_requested_model(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A served name that is a version of the requested model has its price. Another served model has not."""
    server.script(_reply_with_usage(100, 10, model="loop-1-2026-01-01"), _reply_with_usage(100, 10, model="loop-2"))
    for _ in range(2):
        face.settle(kit.chat("a").send("one"))
    report = face.settle(kit.usage(by="model", prices=TABLE))
    assert [(row.model, row.cost) for row in report.rows] == [
        ("loop-1-2026-01-01", Decimal("0.0003")),
        ("loop-2", None),
    ]


@pytest.mark.once
def test_interrupted_stream_is_estimated(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The tokens of an interrupted stream are counted by convokit, and reported as estimated."""
    words = [chunk({"content": f"word {number} "}) for number in range(20)]
    server.script(Script([*words, None], headers={"content-type": "text/event-stream"}))
    with pytest.raises(ModelError):
        face.collect(kit.chat("a").stream("count", retry=Retry(attempts=1)))
    total = face.settle(kit.usage(prices=TABLE)).total
    assert (total.calls, total.estimated_calls, total.uncounted_calls) == (1, 1, 0)
    assert total.prompt_tokens > 0
    assert total.completion_tokens >= 20
    assert total.estimated_tokens == total.prompt_tokens + total.completion_tokens
    assert total.estimated_share == 1.0
    assert total.cost


@pytest.mark.soak(sample=True)
@pytest.mark.once
def test_reply_of_a_dead_worker_is_estimated(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Recovery counts the prompt and the partial reply of a worker that died."""
    server.script(stream([f"word {number} " for number in range(40)], pause_s=0.08))
    leave(face, kit, "a", "count")
    before = face.settle(kit.usage(prices=TABLE)).total
    assert (before.calls, before.uncounted_calls, before.cost) == (1, 1, 0)
    face.settle(kit.chat("a").send("and then?", on_busy="supersede"))
    total = face.settle(kit.usage(prices=TABLE)).total
    assert (total.calls, total.estimated_calls, total.uncounted_calls) == (2, 1, 0)
    assert total.estimated_tokens > before.prompt_tokens > 0


@pytest.mark.once
def test_refused_calls_have_no_tokens_and_no_cost(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Refused calls and retries count as calls, without tokens and cost."""
    server.script(failure(429), _reply_with_usage(100, 10), failure(400))
    face.settle(kit.chat("a").send("one", retry=Retry(attempts=2, initial_s=0.01)))
    with pytest.raises(ModelError):
        face.settle(kit.chat("a").send("two"))
    total = face.settle(kit.usage(prices=TABLE)).total
    assert (total.calls, total.uncounted_calls, total.estimated_calls) == (3, 2, 0)
    assert (total.prompt_tokens, total.cost) == (100, Decimal("0.0003"))


@pytest.mark.once
def test_missing_usage_is_estimated(face: Face, kit: Any, server: LoopbackServer) -> None:
    """Without usage, convokit counts. Counts that no server reports are None, not 0."""
    answer = completion("yes")
    body = answer.pieces[0]
    assert isinstance(body, bytes)
    answer.pieces = [body.replace(b'"usage"', b'"nothing"')]
    server.script(answer)
    face.settle(kit.chat("a").send("one"))
    total = face.settle(kit.usage()).total
    assert total.estimated_calls == 1
    assert total.prompt_tokens > 0
    assert total.cached_tokens is None
    assert total.cached_share is None


def test_report_filters_by_time_key_and_subject(face: Face, kit: Any, database: str) -> None:
    """`since` is included, `until` is not."""
    face.settle(kit.chat("a", subject="hanako").send("one"))
    _age_calls(database, 2)
    face.settle(kit.chat("b", subject="花子").send("two"))
    now = datetime.now(UTC)
    yesterday = now.date() - _DAY

    def calls(**asked: Any) -> int:
        found = face.settle(kit.usage(**asked))
        return int(found.total.calls)

    assert calls() == 2
    assert calls(since=yesterday) == calls(since=now - timedelta(hours=5)) == 1
    assert calls(until=yesterday) == 1
    assert calls(since=now.date() - 9 * _DAY, until=now + _DAY) == 2
    assert calls(since=now + _DAY) == 0
    assert calls(key="a") == calls(subject="花子") == 1
    assert calls(key="a", since=yesterday) == calls(key="a", subject="花子") == calls(subject="nobody") == 0
    assert face.settle(kit.usage(since=now + _DAY)).rows == []


def test_report_of_given_conversations(face: Face, kit: Any) -> None:
    """Ids and keys name them, once each, in a fixed number of statements. Another tenant's are not found."""
    chats = [kit.chat(f"鍵{number}", subject=f"person {number % 2}") for number in range(4)]
    for chat in chats:
        face.settle(chat.send("hello"))
    named = [chats[0].id, str(chats[1].id), "鍵2", "鍵2"]
    report = face.settle(kit.usage(by="conversation", conversations=named))
    assert {row.conversation_id for row in report.rows} == {chat.id for chat in chats[:3]}
    assert report.total.calls == 3
    assert face.settle(kit.usage(conversations=iter(named), subject="person 0")).total.calls == 2
    assert face.settle(kit.usage(conversations=[])).total.calls == 0
    looks_like_an_id = "0191f0a0-0000-7000-8000-000000000000"
    face.settle(kit.chat(looks_like_an_id).send("hello"))
    assert face.settle(kit.usage(conversations=[looks_like_an_id])).total.calls == 1
    assert face.settle(kit.usage(key=looks_like_an_id)).total.calls == 1
    with pytest.raises(NotFound, match="鍵9"):
        face.settle(kit.usage(conversations=["鍵2", "鍵9"]))
    with pytest.raises(NotFound):
        face.settle(kit.tenant("other").usage(conversations=[chats[0].id]))
    counts = []
    for given in (named[:1], named, [chat.key for chat in chats]):
        statements: list[str] = []

        def heard(*event: Any, statements: list[str] = statements) -> None:
            statements.append(event[2])

        listen(Engine, "before_cursor_execute", heard)
        face.settle(kit.usage(conversations=given))
        remove(Engine, "before_cursor_execute", heard)
        counts.append(len([each for each in statements if not each.startswith("BEGIN")]))
    assert counts == [2, 3, 3]  # keys need the id of the database


def test_old_calls_of_an_active_conversation_are_not_in_the_period(face: Face, kit: Any, database: str) -> None:
    face.settle(kit.chat("a").send("one"))
    _age_calls(database, 40)
    face.settle(kit.chat("a").send("two"))
    report = face.settle(kit.usage(since=datetime.now(UTC) - 30 * _DAY))
    assert report.total.calls == 1


def test_only_the_costliest_conversations_are_listed(
    face: Face, kit: Any, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of rows is limited. The total includes all conversations."""
    monkeypatch.setattr(usage_report, "MAX_CONVERSATIONS", 2)
    for key, prompt in (("a", 10), ("b", 30), ("c", 20), ("d", 5)):
        server.script(_reply_with_usage(prompt, 1))
        face.settle(kit.chat(key).send("one"))
    report = face.settle(kit.usage(by="conversation", prices=TABLE))
    assert [row.key for row in report.rows] == ["b", "c"]
    assert report.unlisted == 2
    assert report.total.prompt_tokens == 65


def test_report_has_only_calls_of_its_tenant(face: Face, kit: Any) -> None:
    """Another tenant may use the same key."""
    face.settle(kit.chat("a").send("one"))
    face.settle(kit.tenant("rival").chat("a").send("one"))
    face.settle(kit.tenant("rival").chat("a").send("two"))
    assert face.settle(kit.usage()).total.calls == 1
    assert face.settle(kit.tenant("rival").usage(key="a")).total.calls == 2
    assert face.settle(kit.tenant("nobody").usage()).total.calls == 0


@pytest.mark.once
def test_invalid_arguments_are_refused(face: Face, kit: Any) -> None:
    """The error names the argument, before anything is read."""
    for field, asked in (
        ("by", {"by": "hour"}),
        ("since", {"since": "yesterday"}),
        ("since", {"since": datetime(2026, 1, 1)}),
        ("until", {"since": date(2026, 1, 2), "until": date(2026, 1, 2)}),
        ("subject", {"subject": "a\x00b"}),
        ("key", {"key": 7}),
        ("conversations", {"conversations": "k"}),
        ("conversations", {"conversations": 7}),
        ("conversations", {"conversations": [7]}),
        ("conversations", {"conversations": ["k"] * 1001}),
        ("conversations", {"conversations": ["k"], "key": "k"}),
        ("prices", {"prices": {"loop-1": 5}}),
        ("prices", {"prices": {"loop-1": {"prompt": -1, "completion": 1}}}),
        ("prices", {"prices": {"loop-1": {"prompt": "NaN", "completion": 1}}}),
        ("prices", {"prices": 5}),
    ):
        with pytest.raises(InvalidInput) as caught:
            face.settle(kit.usage(**asked))
        assert caught.value.field == field
    with pytest.raises(TooLarge):
        face.settle(kit.usage(key="x" * 10_000))
    with pytest.raises(NotFound):
        face.settle(kit.usage(key="never"))
