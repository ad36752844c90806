"""OpenAI's package for Python where something goes wrong: errors of the model, busy conversations and retries."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from convokit.testing import RecordedRequest, ScriptedError, ScriptedReply
from tests.clients.chat_history import ChatHistory
from tests.clients.conftest import Connect, StartGateway
from tests.support.gateway import MODEL, RunningGateway

NO_RETRY = {"x-should-retry": "false"}
HI: Any = [{"role": "user", "content": "Hi"}]
in_both_ways = pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])


@in_both_ways
@pytest.mark.parametrize(
    ("answered", "error", "code"),
    [
        (ScriptedError(429, "slow down", code="rate_limit_exceeded", headers=NO_RETRY), openai.RateLimitError, None),
        (ScriptedError(400, "too long", code="context_length_exceeded"), openai.BadRequestError, None),
        (ScriptedError(404, "no such model", code="model_not_found"), openai.NotFoundError, None),
        (ScriptedError(401, "wrong key", code="invalid_api_key"), openai.InternalServerError, "upstream_auth"),
        (ScriptedError(500, "oh no", code="server_error", headers=NO_RETRY), openai.InternalServerError, None),
    ],
    ids=["429", "400", "404", "401", "500"],
)
def test_an_error_of_the_model_reaches_the_client_once(
    start_gateway: StartGateway,
    connect: Connect,
    answered: ScriptedError,
    error: type[openai.APIStatusError],
    code: str | None,
    stream: bool,
) -> None:
    """The client does not repeat the request, because the gateway has done so. A stream has the status too."""
    gateway = start_gateway([answered, "Hello."])
    client = connect(gateway.base_url, {"X-Conversation-Id": "kyoto"}, retries=2)
    with pytest.raises(error) as raised:
        client.chat.completions.create(model=MODEL, messages=HI, stream=stream)
    assert raised.value.code == (code or answered.code)
    assert raised.value.request_id
    assert len(gateway.exchanges) == len(gateway.model.requests) == 1
    assert "wrong key" not in str(raised.value)

    history = ChatHistory(client)
    assert history.ask("Hi") == "Hello."
    (conversation,) = gateway.list_stored()
    assert conversation.texts == ["Hi", "Hello."]


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 2}, "n"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"extra_body": {"base_url": "http://127.0.0.1:1"}}, "base_url"),
        ({"extra_body": {"top_k": 5}}, "top_k"),
        ({"temperature": 9.0}, "temperature"),
    ],
    ids=["n", "functions", "base_url", "top_k", "temperature"],
)
def test_a_refused_parameter_is_named(
    gateway: RunningGateway, connect: Connect, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        connect(gateway.base_url).chat.completions.create(model=MODEL, messages=HI, **options)
    assert raised.value.param == param
    assert gateway.model.requests == []
    assert gateway.count_stored() == []


def test_a_stream_that_breaks_raises_and_leaves_the_partial_reply(
    start_gateway: StartGateway, connect: Connect
) -> None:
    broken = ScriptedReply(["Kyoto ", "is ", "in ", "Japan."], break_after=3)
    gateway = start_gateway([broken, broken, broken, broken])
    client = connect(gateway.base_url)
    texts: list[str] = []
    with pytest.raises(openai.APIError):  # noqa: PT012
        for chunk in client.chat.completions.create(model=MODEL, messages=HI, stream=True):
            texts += [choice.delta.content or "" for choice in chunk.choices]
    (conversation,) = gateway.list_stored()
    assert conversation.turns[-1].state in ("interrupted", "failed")
    assert "Kyoto" in "".join(texts)


def answer_slowly(request: RecordedRequest) -> ScriptedReply:
    """Repeat the question, after a while if it asks for that."""
    pause_s = 0.7 if "slow" in request.text else 0.0
    return ScriptedReply([f"You asked: {request.text}", "."], pause_s=pause_s)


def test_a_client_with_its_history_is_answered_while_the_conversation_is_busy(
    start_gateway: StartGateway, connect: Connect
) -> None:
    """The second question starts a new branch. The main branch follows the one that is continued."""
    gateway = start_gateway(answer_slowly)
    client = connect(gateway.base_url, {"X-Conversation-Id": "kyoto"})
    first, second = ChatHistory(client), ChatHistory(client)
    first.ask("Hi")
    second.messages = [*first.messages]
    stream = client.chat.completions.create(
        model=MODEL, messages=[*first.messages, {"role": "user", "content": "A slow one"}], stream=True
    )
    next(iter(stream))
    assert second.ask("A fast one") == "You asked: A fast one."
    list(stream)
    assert second.ask("And another") == "You asked: And another."
    (conversation,) = gateway.list_stored()
    assert conversation.count == 8
    assert conversation.texts[::2] == ["Hi", "A fast one", "And another"]


def test_a_declared_delta_is_refused_once_while_the_conversation_is_busy(
    start_gateway: StartGateway, connect: Connect
) -> None:
    gateway = start_gateway(answer_slowly)
    client = connect(gateway.base_url, retries=2)
    conversation = client.conversations.create().id
    stream = client.responses.create(model=MODEL, input="A slow one", conversation=conversation, stream=True)
    next(iter(stream))
    before = len(gateway.exchanges)
    with pytest.raises(openai.ConflictError) as raised:
        client.responses.create(model=MODEL, input="Hi", conversation=conversation)
    assert raised.value.code == "conversation_busy"
    list(stream)
    assert len(gateway.exchanges) == before + 2
    assert gateway.count_stored() == [2]


@pytest.mark.parametrize("headers", [{"X-Conversation-Id": "kyoto"}, {}], ids=["header", "history"])
def test_an_idempotency_key_makes_one_turn(gateway: RunningGateway, connect: Connect, headers: dict[str, str]) -> None:
    client = connect(gateway.base_url, headers, retries=2)
    key = {"Idempotency-Key": "k1"}
    first, second = (client.chat.completions.create(model=MODEL, messages=HI, extra_headers=key) for _ in range(2))
    assert (first.id, first.choices[0].message.content) == (second.id, second.choices[0].message.content)
    assert len(gateway.model.requests) == 1
    assert gateway.count_stored() == [2]
    other: Any = [{"role": "user", "content": "Something else"}]
    with pytest.raises(openai.ConflictError) as raised:
        client.chat.completions.create(model=MODEL, messages=other, extra_headers=key)
    assert raised.value.code == "idempotency_key_reuse"
    assert len(gateway.exchanges) == 3


@in_both_ways
@pytest.mark.parametrize("headers", [{"X-Conversation-Id": "kyoto"}, {}], ids=["header", "history"])
def test_a_retry_of_the_client_returns_to_its_turn(
    gateway: RunningGateway, connect: Connect, headers: dict[str, str], stream: bool
) -> None:
    """The client repeats a request whose answer it did not get. It says so in a header."""
    history = ChatHistory(connect(gateway.base_url, headers), stream=stream)
    retry = {"x-stainless-retry-count": "1"}
    again = ChatHistory(connect(gateway.base_url, headers), stream=stream, extra_headers=retry)
    for text in ("Hi", "Where is Kyoto?"):
        sent = [*history.messages]
        reply = history.ask(text)
        again.messages = sent
        assert again.ask(text) == reply
    assert again.places == ["attach", "attach"]
    assert len(gateway.model.requests) == 2
    assert gateway.count_stored() == [4]
