"""A key ends, and its limits hold, on every instance of the gateway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from convokit.server import callers
from convokit.server.database import Database
from convokit.store import keys
from tests.server.in_process import AsgiGateway, describe_refusal, serving
from tests.support.gateway import MODEL

pytestmark = pytest.mark.soak(sample=True)

MODELS = "/v1/models"


@pytest.fixture
def guarded(database: str) -> Iterator[AsgiGateway]:
    with serving(database, auth=None) as running:
        yield running


class Clock:
    """A clock that a test moves, in place of the module `time`."""

    def __init__(self) -> None:
        self.moved_s = 0.0

    def time(self) -> float:
        return time.time() + self.moved_s

    def monotonic(self) -> float:
        return time.monotonic() + self.moved_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(callers, "time", moved)
    return moved


def revoke(gateway: AsgiGateway, name: str) -> None:
    assert gateway.wait(Database(gateway.kit).write(keys.revoke_key, "default", name, time.time_ns() // 1000))


def test_a_revoked_key_ends_within_five_seconds(guarded: AsgiGateway, clock: Clock) -> None:
    """Also if it is used all the time."""
    key = guarded.make_key(name="k")
    assert guarded.send("GET", MODELS, key=key).status_code == 200
    revoke(guarded, "k")
    statuses = []
    for _ in range(6):
        clock.moved_s += 1.0
        statuses.append(guarded.send("GET", MODELS, key=key).status_code)
    assert statuses[-1] == 401
    assert guarded.send("POST", "/v1/conversations", {}, key=key).status_code == 401


def test_an_expired_key_ends_within_five_seconds(guarded: AsgiGateway, clock: Clock) -> None:
    key = guarded.make_key(expires_at=time.time_ns() // 1000 + 60_000_000)
    assert guarded.send("GET", MODELS, key=key).status_code == 200
    clock.moved_s = 59.0
    assert guarded.send("GET", MODELS, key=key).status_code == 200
    clock.moved_s = 65.0
    assert guarded.send("GET", MODELS, key=key).status_code == 401
    assert guarded.send("GET", MODELS, key=guarded.make_key(expires_at=time.time_ns() // 1000 - 1)).status_code == 401


@pytest.mark.once
def test_keys_are_known_by_their_whole_digest(guarded: AsgiGateway) -> None:
    """Keys that have a beginning or an end in common are different keys (CVE-2026-35030)."""
    key = guarded.make_key()
    assert guarded.send("GET", MODELS, key=key).status_code == 200
    for other in (key[:-1], key + "a", key[:30] + "A" * (len(key) - 30), key.upper(), key.removeprefix("ck-")):
        assert guarded.send("GET", MODELS, key=other).status_code == 401
    assert guarded.send("GET", MODELS, headers={"authorization": f"bearer  {key} "}).status_code == 200


@pytest.mark.once
def test_models_outside_the_list_of_a_key_do_not_exist(guarded: AsgiGateway) -> None:
    """Not in any route that names a model, and not in the list of models."""
    key = guarded.make_key(models=["other"])
    known = {
        answer
        for path, body in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
            ("/v1/responses", {"input": "x"}),
            ("/v1/responses", {"input": "x", "background": True}),
        )
        for answer in [describe_refusal(guarded.send("POST", path, {"model": MODEL, **body}, key=key))]
    }
    assert known == {
        (404, f"The model '{MODEL}' does not exist or you do not have access to it.", "model_not_found", "model")
    }
    assert guarded.send("GET", MODELS, key=key).json()["data"] == []
    assert guarded.send("GET", f"{MODELS}/{MODEL}", key=key).status_code == 404
    assert guarded.model.requests == []
    assert guarded.ask("x", key=key).status_code == 404
    assert guarded.ask("x", key=guarded.make_key(models=[MODEL])).status_code == 200


@pytest.mark.parametrize("limit", [0, 1, 7, 50])
def test_instances_together_never_exceed_the_requests_per_minute(database: str, clock: Clock, limit: int) -> None:
    """Three instances answer at the same time. Not more than a part of the limit stays unused in each."""
    with ExitStack() as stack:
        first = stack.enter_context(serving(database, auth=None))
        others = [stack.enter_context(serving(database, auth=None, loop=first.loop)) for _ in range(2)]
        gateways = [first, *others]
        key, free = first.make_key(requests_per_minute=limit), first.make_key()
        for minute in range(2):
            clock.moved_s = 60.0 * minute + 1 - time.time() % 60
            sending = [g.request("GET", MODELS, key=key) for _ in range(limit + 2) for g in gateways]
            answers = first.gather(*sending)
            granted = sum(answer.status_code == 200 for answer in answers)
            assert granted <= limit
            assert granted >= limit - 3 * (limit // 20)
            refused = next(answer for answer in answers if answer.status_code != 200)
            assert (refused.status_code, describe_refusal(refused)[2]) == (429, "rate_limit_exceeded")
            assert 0 < int(refused.headers["retry-after"]) <= 60
        assert first.send("GET", MODELS, key=free).status_code == 200


@pytest.mark.once
def test_a_key_over_its_limit_costs_no_transaction(
    guarded: AsgiGateway, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client that sends on would keep the database busy. The next minute asks again."""
    taken: list[int] = []

    def take(*args: Any) -> int:
        taken.append(keys.take_permits(*args))
        return taken[-1]

    clock.moved_s = 1 - time.time() % 60
    key = guarded.make_key(requests_per_minute=30)
    monkeypatch.setattr(
        callers, "keys", SimpleNamespace(digest_key=keys.digest_key, find_key=keys.find_key, take_permits=take)
    )
    statuses = [guarded.send("GET", MODELS, key=key).status_code for _ in range(40)]
    assert (statuses, sum(taken), taken[-1]) == ([200] * 30 + [429] * 10, 30, 0)
    assert len(taken) == 31
    clock.moved_s += 60
    assert guarded.send("GET", MODELS, key=key).status_code == 200


@pytest.mark.once
def test_requests_at_the_same_time_count_each(guarded: AsgiGateway) -> None:
    """A turn that runs holds no permit back, and gives none back."""
    key = guarded.make_key(requests_per_minute=3)

    async def send() -> list[int]:
        sending = (guarded.complete(f"q{number}", key=key) for number in range(10))
        return sorted(answer.status_code for answer in await asyncio.gather(*sending))

    assert guarded.wait(send()) == [200] * 3 + [429] * 7
    assert len(guarded.model.requests) == 3
