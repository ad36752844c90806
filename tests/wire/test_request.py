"""Tests of rendering requests."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from convokit.domain import params as request_params
from convokit.domain.params import RequestParams
from convokit.domain.profiles import Profile, resolve_profile
from convokit.errors import InvalidInput, SettingsError
from convokit.wire import request
from convokit.wire.request import Mode, RenderedRequest, render_request

OPENAI = "https://api.openai.com/v1"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello!"}]
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
EVERY: dict[str, Any] = {
    "temperature": 0.2,
    "top_p": 0.9,
    "frequency_penalty": 0.1,
    "presence_penalty": 0.1,
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "top_logprobs": 2,
    "max_output_tokens": 64,
    "n": 2,
    "stop": ["END"],
    "seed": 7,
    "reasoning_effort": "low",
    "verbosity": "low",
    "service_tier": "flex",
    "store": True,
    "api_metadata": {"ticket": "42"},
    "modalities": ["text", "audio"],
    "audio": {"format": "mp3", "voice": "alloy"},
    "prediction": {"type": "content", "content": "x"},
    "parallel_tool_calls": False,
    "tool_choice": "auto",
    "response_format": {"type": "text"},
    "web_search_options": {"search_context_size": "low"},
    "moderation": {"model": "omni"},
    "prompt_cache_key": "k",
    "prompt_cache_options": {"mode": "implicit", "ttl": "30m"},
    "prompt_cache_retention": "24h",
    "safety_identifier": "s",
    "user": "u",
    "include_usage": True,
    "include_obfuscation": False,
}


def render(
    given: dict[str, Any] | None = None,
    *,
    profile: Profile | None = None,
    model: str = "m",
    messages: list[dict[str, Any]] | None = None,
    stream: bool = False,
    tools: list[dict[str, Any]] | None = None,
    mode: Mode = "drop",
) -> RenderedRequest:
    """Return a request with these parameters, validated as a user's are."""
    return render_request(
        model=model,
        messages=HELLO if messages is None else messages,
        params=request_params.validate_params(given or {}),
        profile=profile or Profile(),
        stream=stream,
        tools=tools or (),
        mode=mode,
    )


def render_body(given: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return the body without model and messages."""
    body: dict[str, Any] = json.loads(render(given, **more).data)
    del body["model"], body["messages"]
    return body


def list_changes(found: RenderedRequest) -> list[tuple[str, str]]:
    """Return the changes without their reasons."""
    return [(change.parameter, change.action) for change in found.changes]


def openai_profile(model: str) -> Profile:
    """Return the profile of a model at OpenAI."""
    return resolve_profile(model, OPENAI)


def test_b01_unset_parameters_are_absent() -> None:
    """The API's documented first request, byte for byte."""
    messages = [{"role": "developer", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello!"}]
    found = render(model="gpt-6-luna", messages=messages, profile=openai_profile("gpt-6-luna"))
    assert found.data == (
        b'{"model":"gpt-6-luna","messages":[{"role":"developer","content":"You are a helpful assistant."},'
        b'{"role":"user","content":"Hello!"}]}'
    )
    assert (found.changes, found.headers) == ((), {})


def test_b01_a_body_with_every_parameter_has_no_null() -> None:
    found = render(EVERY, stream=True, tools=[TOOL])
    assert b"null" not in found.data
    assert list(found.body) == ["model", "messages", *(key for key in request.ORDER if key in found.body)]


def test_every_parameter_is_sent() -> None:
    assert set(EVERY) | {"max_completion_tokens", "max_tokens", "extra_body", "extra_headers"} == set(
        RequestParams.__annotations__
    )
    body = render(EVERY, stream=True, tools=[TOOL]).body
    renamed = {"api_metadata": "metadata", "max_output_tokens": "max_tokens", "include_usage": "stream_options"}
    renamed["include_obfuscation"] = "stream_options"
    assert {renamed.get(name, name) for name in EVERY} <= body.keys()
    assert body.keys() <= {"model", "messages", *request.ORDER}


def test_the_same_arguments_give_the_same_bytes() -> None:
    """Whatever the order of the parameters. Non-ASCII characters are not escaped."""
    turned = dict(reversed(EVERY.items()))
    messages = [{"role": "user", "content": "日本語 \u2028 👩‍👩‍👧 é"}]
    data = render(EVERY, messages=messages, stream=True, tools=[TOOL]).data
    assert data == render(turned, messages=messages, stream=True, tools=[TOOL]).data
    assert "日本語 \u2028 👩‍👩‍👧 é".encode() in data
    assert b": " not in data.replace(b"\\", b"")


def test_b02_empty_messages_are_refused() -> None:
    with pytest.raises(ValueError, match="messages"):
        render(messages=[])
    with pytest.raises(SettingsError, match="model"):
        render(model="")


def test_b04_metadata_is_sent_only_with_store() -> None:
    assert render_body({"store": True, "api_metadata": {"a": "b"}}) == {"store": True, "metadata": {"a": "b"}}
    with pytest.raises(SettingsError, match="store"):
        request_params.validate_params({"api_metadata": {"a": "b"}})


@pytest.mark.parametrize(
    ("cap", "name"), [("max_completion_tokens", "max_completion_tokens"), ("max_tokens", "max_tokens")]
)
def test_b05_the_output_limit_is_sent_under_the_servers_name(cap: Any, name: str) -> None:
    """`max_output_tokens` is no change; another server's name is renamed and reported."""
    profile = Profile(output_cap=cap)
    other = "max_tokens" if name == "max_completion_tokens" else "max_completion_tokens"
    for given in ("max_output_tokens", name):
        found = render({given: 64}, profile=profile)
        assert found.body[name] == 64
        assert found.changes == ()
    found = render({other: 64}, profile=profile)
    assert found.body[name] == 64
    assert other not in found.body
    assert list_changes(found) == [(other, "renamed")]
    assert render_body({other: 64}, profile=profile, mode="pass") == {other: 64}


def test_b05_a_cap_under_the_servers_name_is_never_refused() -> None:
    """OpenRouter accepts max_tokens for models whose own server refuses it."""
    profile = resolve_profile("openai/gpt-6-luna", "https://openrouter.ai/api/v1")
    assert "max_tokens" in profile.rejects
    for mode in ("strict", "drop", "pass"):
        assert render_body({"max_output_tokens": 64}, profile=profile, mode=mode) == {"max_tokens": 64}


@pytest.mark.parametrize("mode", ["strict", "drop", "pass"])
def test_b10_without_tools_nothing_about_tools_is_sent(mode: Mode) -> None:
    """The API answers 400 to an empty list of tools, and to a choice among none."""
    found = render({"tool_choice": "auto", "parallel_tool_calls": True}, tools=[], mode=mode)
    assert found.body.keys() == {"model", "messages"}
    assert sorted(list_changes(found)) == [("parallel_tool_calls", "dropped"), ("tool_choice", "dropped")]


def test_b11_stream_options_are_sent_only_with_a_stream() -> None:
    """Usage is requested by default."""
    assert render_body({}, stream=True) == {"stream": True, "stream_options": {"include_usage": True}}
    assert render_body({"include_usage": False}, stream=True) == {"stream": True}
    assert render_body({"include_obfuscation": False, "include_usage": False}, stream=True)["stream_options"] == {
        "include_obfuscation": False
    }
    assert render_body({"include_usage": True, "include_obfuscation": True}) == {}
    assert render_body({}, stream=True, profile=resolve_profile("m", "https://api.mistral.ai/v1")) == {
        "stream": True
    }  # a 422 there
    silent = Profile(stream_usage=False)
    assert render_body({}, stream=True, profile=silent) == {"stream": True}
    assert render_body({"include_usage": True}, stream=True, profile=silent)["stream_options"] == {
        "include_usage": True
    }


def test_b12_extra_body_replaces_every_other_key() -> None:
    extra = {"temperature": None, "top_k": 40, "metadata": {"a": "b"}}
    found = render({"temperature": 0.2, "extra_body": extra, "extra_headers": {"X-Title": "t"}})
    assert json.loads(found.data) == {"model": "m", "messages": HELLO, **extra}
    assert found.headers == {"X-Title": "t"}


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("openai/gpt-5-mini-2025-08-07", "gpt-5-mini"),
        ("gpt-5-mini", "gpt-5-mini"),
        ("GPT-6-Luna-2026-09-01", "gpt-6-luna"),
        ("o3-2025-04-16", "o3"),
        ("my-own-deployment", "openai"),
        ("gpt-5-mini-but-mine", "openai"),
    ],
)
def test_b14_model_ids_are_free_strings(model: str, name: str) -> None:
    """A vendor prefix and a date do not hide the family."""
    assert openai_profile(model).name == name
    assert render(model=model, profile=openai_profile(model)).body["model"] == model


def test_json_object_needs_the_word_json_in_the_messages() -> None:
    form = {"response_format": {"type": "json_object"}}
    with pytest.raises(SettingsError, match="JSON"):
        render(form)
    for content in ("Answer in JSON.", [{"type": "text", "text": "as json please"}]):
        assert render_body(form, messages=[{"role": "user", "content": content}])["response_format"] == {
            "type": "json_object"
        }
    assert render_body(form, mode="pass")["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x", "\ud800"])
def test_a_value_that_is_not_json_is_refused_by_its_key(value: Any) -> None:
    """The value itself is not shown."""
    with pytest.raises(SettingsError, match="prompt_cache"):
        render_request(
            model="m",
            messages=HELLO,
            params=cast("RequestParams", {"prompt_cache_options": {"x": value}}),
            profile=Profile(),
            stream=False,
        )
    with pytest.raises(InvalidInput, match="messages"):
        render(messages=[{"role": "user", "content": value}])


def test_arguments_are_not_changed() -> None:
    """Neither by the rendering nor by a change of the body that it returns."""
    given = json.loads(json.dumps(EVERY))
    messages, tools = [dict(HELLO[0])], [dict(TOOL)]
    found = render_request(
        model="m", messages=messages, params=given, profile=openai_profile("gpt-5"), stream=True, tools=tools
    )
    found.body["messages"].append("x")
    found.body["tools"][0]["x"] = 1
    assert (given, messages, tools) == (EVERY, HELLO, [TOOL])
