"""OpenAI's package for Python before a gateway with API keys."""

from __future__ import annotations

import time
from typing import Any

import openai
import pytest
from sqlalchemy import create_engine

from convokit.store import keys
from convokit.store.keys import ApiKeyRow
from tests.clients.chat_history import ChatHistory
from tests.clients.conftest import Connect, StartGateway
from tests.support.gateway import MODEL

HI: Any = [{"role": "user", "content": "Hi"}]


def add_key(database: str, tenant: str, **options: Any) -> str:
    """Write an API key of a tenant to the database, and return it."""
    key = keys.make_key()
    given: dict[str, Any] = {"scopes": ("chat", "read"), "models": None, "requests_per_minute": None, **options}
    row = ApiKeyRow(keys.digest_key(key), tenant, f"{tenant} {key[-4:]}", created_at=time.time_ns() // 1000, **given)
    engine = create_engine(database)
    with engine.begin() as connection:
        keys.insert_key(connection, row)
    engine.dispose()
    return key


def test_keys_of_two_tenants_see_their_own_conversations(
    start_gateway: StartGateway, connect: Connect, sqlite_file: str
) -> None:
    """The same name is another conversation for another tenant, and the id of a response opens nothing."""
    gateway = start_gateway(auth=None)
    mika, ken = (
        connect(gateway.base_url, {"X-Conversation-Id": "kyoto"}, api_key=add_key(sqlite_file, tenant))
        for tenant in ("mika", "ken")
    )
    for client in (mika, ken):
        history = ChatHistory(client)
        history.ask("Hi")
        history.ask("Why?")
    assert [gateway.count_stored(tenant) for tenant in ("mika", "ken", "default")] == [[4], [4], []]
    response = mika.responses.create(model=MODEL, input="Hi", extra_headers={"X-Conversation-Id": "other"})
    with pytest.raises(openai.NotFoundError):
        ken.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError):
        ken.responses.create(model=MODEL, input="Hi", previous_response_id=response.id)


def test_a_wrong_key_and_a_missing_scope_are_refused_once(
    start_gateway: StartGateway, connect: Connect, sqlite_file: str
) -> None:
    gateway = start_gateway(auth=None)
    with pytest.raises(openai.AuthenticationError):
        connect(gateway.base_url, retries=2).chat.completions.create(model=MODEL, messages=HI)
    reader = connect(gateway.base_url, api_key=add_key(sqlite_file, "mika", scopes=("read",)), retries=2)
    with pytest.raises(openai.PermissionDeniedError):
        reader.chat.completions.create(model=MODEL, messages=HI)
    assert [exchange.status for exchange in gateway.exchanges] == [401, 403]
    assert gateway.model.requests == []


def test_a_limit_of_requests_reaches_the_client_as_such(
    start_gateway: StartGateway, connect: Connect, sqlite_file: str
) -> None:
    gateway = start_gateway(auth=None)
    client = connect(gateway.base_url, api_key=add_key(sqlite_file, "mika", requests_per_minute=2))
    with pytest.raises(openai.RateLimitError) as raised:  # noqa: PT012
        for _ in range(6):  # a new minute may begin once
            client.chat.completions.create(model=MODEL, messages=HI)
    assert raised.value.code == "rate_limit_exceeded"
    assert int(raised.value.response.headers["retry-after"]) <= 60
    assert 2 <= len(gateway.model.requests) <= 4
