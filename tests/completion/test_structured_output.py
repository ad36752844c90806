"""Structured output: a type in, a value out, and each way it can fail told apart."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from convokit import Profile
from convokit.errors import ContentFiltered, Refused, SettingsError, Truncated, ValidationFailed
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, completion


class Step(BaseModel):
    """One step."""

    what: str
    minutes: int | None


class Recipe(BaseModel):
    """A recipe."""

    title: str
    steps: list[Step]


GOOD = '{"title": "味噌汁", "steps": [{"what": "出汁", "minutes": 5}, {"what": "味噌", "minutes": null}]}'


def _finish(text: str, reason: str) -> Script:
    script = completion(text)
    assert isinstance(script.pieces[0], bytes)
    script.pieces[0] = script.pieces[0].replace(b'"finish_reason": "stop"', f'"finish_reason": "{reason}"'.encode())
    return script


def test_a_type_comes_back_as_a_value(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The schema is sent in the strict form, the reply is saved as text and returned as the type."""
    server.script(completion(GOOD))
    reply = face.settle(kit.chat("r").send("recipe", response_format=Recipe))
    assert isinstance(reply.parsed, Recipe)
    assert reply.parsed.steps[1].minutes is None
    sent = server.requests[0].body["response_format"]
    assert sent["json_schema"]["strict"] is True
    assert sent["json_schema"]["schema"]["additionalProperties"] is False
    assert face.settle(kit.chat("r").messages())[-1].text == GOOD


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (_finish('{"title": "x", "st', "length"), Truncated),
        (completion(None, refusal="I cannot"), Refused),
        (completion('{"title": 3}'), ValidationFailed),
        (completion("no JSON at all"), ValidationFailed),
    ],
)
def test_each_failure_is_its_own(face: Face, kit: Any, server: LoopbackServer, answer: Script, error: type) -> None:
    """Truncation, refusal and a misfit are told apart; the reply is saved all the same and the chat goes on."""
    server.script(answer)
    with pytest.raises(error):
        face.settle(kit.chat("r").send("recipe", response_format=Recipe))
    assert len(face.settle(kit.chat("r").messages())) == 2
    assert face.settle(kit.chat("r").send("again")).text == "echo: again"


@pytest.mark.once
def test_a_filtered_reply_is_not_a_structure(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A reply that the content filter ended raises ContentFiltered, with what came kept as partial."""
    server.script(_finish("some", "content_filter"))
    with pytest.raises(ContentFiltered):
        face.settle(kit.chat("r").send("recipe"))
    assert [message.status for message in face.settle(kit.chat("r").messages())] == ["complete", "partial"]


@pytest.mark.once
def test_a_server_without_schemas_gets_it_in_words(face: Face, database: str, server: LoopbackServer) -> None:
    """Where json_schema is unknown: json_object with the schema in the instructions; where that is too: words alone."""
    for profile, form in (
        (Profile(json_schema=False), {"type": "json_object"}),
        (Profile(json_schema=False, json_object=False), None),
    ):
        kit = face.kit(database, model="m", base_url=server.url, profile=profile, developer_prompt="Be a cook.")
        server.script(completion(f"```json\n{GOOD}\n```"))
        reply = face.settle(kit.chat(f"r{form}").send("recipe", response_format=Recipe))
        assert reply.parsed.title == "味噌汁"
        body = server.requests[-1].body
        assert body.get("response_format") == form
        instructions = body["messages"][0]["content"]
        assert instructions.startswith("Be a cook.")
        assert "JSON" in instructions
        assert "minutes" in instructions


@pytest.mark.once
def test_a_type_that_cannot_be_strict_says_where(face: Face, kit: Any, server: LoopbackServer) -> None:
    """A schema outside the strict subset is refused before any call, with the path of the violation."""

    class Loose(BaseModel):
        anything: dict[str, int]

    with pytest.raises(SettingsError, match="anything"):
        face.settle(kit.chat("r").send("x", response_format=Loose))
    assert server.requests == []


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("stream", [False, True])
def test_a_repeat_returns_the_value_too(face: Face, kit: Any, server: LoopbackServer, *, stream: bool) -> None:
    """A reply that is read back is parsed as the first time; `response_format=None` leaves the text as it is."""
    server.script(completion(GOOD))
    chat = kit.chat("r")
    first = face.settle(chat.send("recipe", response_format=Recipe, idempotency_key="once"))
    if stream:
        repeat = chat.stream("recipe", response_format=Recipe, idempotency_key="once")
        face.collect(repeat)
        assert repeat.reply.parsed == first.parsed
    else:
        assert face.settle(chat.send("recipe", response_format=Recipe, idempotency_key="once")).parsed == first.parsed
        assert face.settle(chat.resume(response_format=Recipe)).parsed == first.parsed
        assert face.settle(chat.resume(response_format=None)).parsed is None
    assert len(server.requests) == 1


def test_a_stored_reply_that_does_not_fit_fails_again(face: Face, kit: Any, server: LoopbackServer) -> None:
    """The reply is saved whatever it holds, and each reading says what is wrong with it."""
    server.script(completion('{"title": 3}'))
    chat = kit.chat("r")
    with pytest.raises(ValidationFailed):
        face.settle(chat.send("recipe", response_format=Recipe))
    with pytest.raises(ValidationFailed, match="title"):
        face.settle(chat.resume(response_format=Recipe))
    assert face.settle(chat.resume()).text == '{"title": 3}'
    assert len(server.requests) == 1


@pytest.mark.once
def test_a_call_overrides_the_type_of_its_chat(face: Face, kit: Any, server: LoopbackServer) -> None:
    """None sends no `response_format` and parses nothing."""
    chat = kit.chat("r", response_format=Recipe)
    server.script(completion(GOOD), completion("plain"))
    assert isinstance(face.settle(chat.send("recipe")).parsed, Recipe)
    reply = face.settle(chat.send("and in one word?", response_format=None))
    assert (reply.text, reply.parsed) == ("plain", None)
    assert "response_format" not in server.requests[1].body
