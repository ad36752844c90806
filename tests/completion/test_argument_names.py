"""Tests of `metadata=` in a call, and of the advice on unknown arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from convokit import Chat, Convokit
from convokit.completion.options import CallOptions
from convokit.domain import argument_names
from convokit.domain.params import RequestParams
from convokit.errors import SettingsError
from tests.support.faces import Face
from tests.support.server import LoopbackServer, failure

CALLS: dict[str, Callable[..., Any]] = {
    "send": lambda chat, **options: chat.send("hello", **options),
    "resume": lambda chat, **options: chat.resume(**options),
    "edit": lambda chat, **options: chat.edit(1, "hello again", **options),
    "regenerate": lambda chat, **options: chat.regenerate(**options),
    "stream": lambda chat, **options: chat.stream("hello", **options),
    "stream_edit": lambda chat, **options: chat.stream_edit(1, "hello again", **options),
    "stream_regenerate": lambda chat, **options: chat.stream_regenerate(**options),
}


@pytest.mark.once(except_first=True)
@pytest.mark.parametrize("name", ["metadata", "api_metadata"])
@pytest.mark.parametrize("way", CALLS)
def test_metadata_of_a_call_is_the_apis_own(
    face: Face, database: str, server: LoopbackServer, way: str, name: str
) -> None:
    """Every call sends `metadata` as the API's own, over the default of the chat, and leaves the conversation's alone.

    `store=True`, which it needs, may come from another level: here from the kit.
    """
    kit = face.kit(database, model="m", base_url=server.url, store=True)
    chat = kit.chat("a", metadata={"plan": "gold"}, api_metadata={"from": "the chat"})
    if way == "resume":
        server.script(failure(400, "no"))
        with pytest.raises(Exception, match="no"):
            face.settle(chat.send("hello"))
    else:
        face.settle(chat.send("hello"))
    assert server.requests[-1].body["metadata"] == {"from": "the chat"}
    wait = face.collect if way.startswith("stream") else face.settle
    wait(CALLS[way](chat, **{name: {"ticket": "七"}}))
    assert server.requests[-1].body["metadata"] == {"ticket": "七"}
    (conversation,) = face.settle(kit.conversations())
    assert conversation.metadata == {"plan": "gold"}


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"metadata": {"a": "b"}}, "api_metadata: the API's own metadata (metadata= of a call) needs store=True"),
        ({"metadata": {"a": "b" * 513}, "store": True}, "metadata.a: "),
        ({"metadata": {"a": 1}, "store": True}, "metadata.a: "),
        ({"metadata": {}, "api_metadata": {}, "store": True}, "metadata: is the same parameter as api_metadata"),
    ],
)
def test_metadata_that_cannot_be_is_named_as_it_was_written(
    face: Face, kit: Any, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        face.settle(kit.chat("a").send("hello", **options))
    assert str(caught.value).startswith(problem)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("system_prompt", "did you mean developer_prompt?"),
        ("instructions", "did you mean developer_prompt?"),
        ("temprature", "did you mean temperature?"),
        ("max_output_token", "did you mean max_output_tokens?"),
        ("max_new_tokens", "did you mean max_output_tokens?"),
        ("response_model", "did you mean response_format?"),
        ("timeout", "did you mean timeouts of Convokit(...), send(...) and stream(...)?"),
        ("context", "did you mean passages of send(...) and stream(...)?"),
        ("api_base", "did you mean base_url of Convokit(...)?"),
        ("idempotency_keys", "did you mean idempotency_key of send(...) and stream(...)?"),
        ("tenant", "it is an argument of Convokit(...)"),
        ("title", "it is an argument of kit.chat(...)"),
        ("stream", "call chat.stream(...)"),
        ("top_k", "extra_body={'top_k': ...}"),
        ("温度", "check the spelling, or pass it in extra_body"),
        ("zzz", "check the spelling, or pass it in extra_body"),
    ],
)
def test_an_unknown_argument_of_a_call_names_the_right_one(face: Face, kit: Any, name: str, advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        face.settle(kit.chat("a").send("hello", **{name: "x"}))
    assert caught.value.setting == name
    assert advice in str(caught.value)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "advice"),
    [("metadata", "api_metadata"), ("openai_api_key", "did you mean api_key"), ("modle", "did you mean model?")],
)
def test_an_unknown_argument_of_a_kit_names_the_right_one(sqlite_file: str, name: str, advice: str) -> None:
    given: Any = {name: "x"}
    with pytest.raises(SettingsError, match=advice):
        Convokit(sqlite_file, **given)


@pytest.mark.once
def test_an_argument_of_a_chat_in_the_wrong_place(kit: Any) -> None:
    with pytest.raises(SettingsError, match=r"retry: is unknown here: it is an argument of Convokit\(...\), send"):
        kit.chat("a", retry=3)


def test_the_names_are_those_of_the_signatures() -> None:
    """Every name that is suggested is an argument where the advice says, and no argument is missing."""
    kit = set(inspect.signature(Convokit).parameters) - {"params"}
    chat = set(inspect.signature(Convokit.chat).parameters) - {"self", "params"}
    send = set(inspect.signature(Chat.stream).parameters) - {"self", "content", "options"}
    call = (send | set(CallOptions.__annotations__)) - set(RequestParams.__annotations__)
    everywhere, both = set(argument_names.EVERYWHERE), set(argument_names.KIT_AND_CALL_ARGUMENTS)
    assert kit == everywhere | both | set(argument_names.KIT_ARGUMENTS)
    assert chat == everywhere | set(argument_names.CHAT_ARGUMENTS) | {"metadata"}
    assert call == everywhere | both | set(argument_names.CALL_ARGUMENTS) | {"metadata"}
    known = kit | chat | call | set(RequestParams.__annotations__)
    assert set(argument_names._OTHER_NAMES) <= known
    others = [name for names in argument_names._OTHER_NAMES.values() for name in names]
    assert len(others) == len(set(others))
    assert not known.intersection(others)


def test_a_limit_of_the_reply_replaces_one_of_another_name(face: Face, database: str, server: LoopbackServer) -> None:
    """The call's overrides the chat's, which overrides the kit's: a kit's default does not refuse what a client sends."""
    kit = face.kit(database, model="m", base_url=server.url, max_output_tokens=100)
    face.settle(kit.chat("k", max_completion_tokens=50).send("one", max_tokens=7))
    sent = server.requests[-1].body
    assert [value for name, value in sent.items() if name.startswith("max_")] == [7]
    with pytest.raises(SettingsError, match="sets the same limit"):
        face.settle(kit.chat("k").send("two", max_tokens=7, max_completion_tokens=8))
