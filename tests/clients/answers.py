"""Answer the clients' questions, and check what a gateway has stored of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from convokit.testing import RecordedRequest, ScriptedCall, ScriptedReply
from tests.support.gateway import RunningGateway

TEXTS = ["Where is Kyoto?", "秋は?", "And in winter?"]
REPLIES = [f"You asked: {text}" for text in TEXTS]
WEATHER_TEXTS = ["How is the weather today?", "And the weather tomorrow?"]
WEATHER_REPLIES = ["It is sunny in São Paulo."] * 2
ARGUMENTS = '{"location":   "S\\u00e3o Paulo"}'
"""Arguments that a client writes in another way when it sends them back."""
KINDS_OF_ADDRESS = ["header", "history"]
"""How a client names its conversation: by a header, or by nothing but the history that it sends."""


def answer(request: RecordedRequest) -> ScriptedReply | ScriptedCall:
    """Ask for the tool at a question about the weather. Otherwise repeat the question or the result of the tool."""
    if request.messages[-1]["role"] == "tool":
        return ScriptedReply(f"It is {request.text}.")
    if request.body.get("tools") and "weather" in request.text:
        return ScriptedCall("get_weather", ARGUMENTS, id=f"call_{request.number}")
    return ScriptedReply(f"You asked: {request.text}")


def make_headers(address: str) -> dict[str, str]:
    """Return the headers of a client for a kind of address."""
    return {"X-Conversation-Id": "kyoto"} if address == "header" else {}


def assert_three_turns(gateway: RunningGateway, *, system: str | None = "Answer briefly.") -> None:
    """Check the answers to TEXTS: one conversation with six messages, and requests with the whole history."""
    (conversation,) = gateway.list_stored()
    assert conversation.texts == [text for pair in zip(TEXTS, REPLIES, strict=True) for text in pair]
    assert conversation.roles == ["user", "assistant"] * 3
    assert conversation.count == 6
    assert [turn.state for turn in conversation.turns] == ["completed"] * 3
    for count, request in enumerate(gateway.model.requests, 1):
        sent = [(each["role"], _read_text(each)) for each in request.messages]
        prompt = [(sent[0][0], system)] if system is not None else []
        assert (
            sent == [*prompt, *zip(conversation.roles, conversation.texts, strict=True)][: len(prompt) + 2 * count - 1]
        )
        assert not prompt or sent[0][0] in ("system", "developer")
    assert len(gateway.model.requests) == 3


def assert_weather_turns(gateway: RunningGateway) -> None:
    """Check the answers to WEATHER_TEXTS: two questions, each with a call, its result and a reply."""
    (conversation,) = gateway.list_stored()
    assert conversation.roles == ["user", "assistant", "tool", "assistant"] * 2
    assert conversation.count == 8
    assert conversation.texts[3::4] == WEATHER_REPLIES
    calls = [message for message in conversation.path if message.role == "assistant"][0::2]
    assert [call["function"]["arguments"] for message in calls for call in message.tool_calls or []] == [ARGUMENTS] * 2
    assert len(gateway.model.requests) == 4
    last = gateway.model.last_request.messages
    assert [each["role"] for each in last if each["role"] not in ("system", "developer")] == conversation.roles[:-1]


@dataclass(frozen=True)
class Dialogue:
    """Questions, the replies to them, and the check of the stored conversation."""

    texts: Sequence[str]
    replies: Sequence[str]
    check: Callable[..., None]


PLAIN = Dialogue(TEXTS, REPLIES, assert_three_turns)
WEATHER = Dialogue(WEATHER_TEXTS, WEATHER_REPLIES, assert_weather_turns)


def _read_text(message: dict[str, object]) -> object:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content
