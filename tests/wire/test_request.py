"""Requests: what is sent, what is not, and what is said about it."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from convokit.domain import params as request_params
from convokit.domain.params import RequestParams
from convokit.domain.profile import Profile, resolve
from convokit.errors import InvalidInput, ModelError, Rejected, SettingsError
from convokit.wire import request
from convokit.wire.request import Mode, Rendered, endpoint, render, request_headers, without

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


def made(
    given: dict[str, Any] | None = None,
    *,
    profile: Profile | None = None,
    model: str = "m",
    messages: list[dict[str, Any]] | None = None,
    stream: bool = False,
    tools: list[dict[str, Any]] | None = None,
    mode: Mode = "drop",
) -> Rendered:
    """The request for these parameters, which are checked as a user's are."""
    return render(
        model=model,
        messages=HELLO if messages is None else messages,
        params=request_params.check(given or {}),
        profile=profile or Profile(),
        stream=stream,
        tools=tools or (),
        mode=mode,
    )


def sent(given: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The body but for model and messages, as it is on the wire."""
    body: dict[str, Any] = json.loads(made(given, **more).data)
    del body["model"], body["messages"]
    return body


def changes(found: Rendered) -> list[tuple[str, str]]:
    """What was changed, without the reasons."""
    return [(change.parameter, change.action) for change in found.changes]


def of_model(model: str) -> Profile:
    """The profile of a model at OpenAI."""
    return resolve(model, OPENAI)


def test_b01_unset_parameters_are_absent() -> None:
    """The documented first request is exactly its model and its messages, byte for byte."""
    messages = [{"role": "developer", "content": "You are a helpful assistant."}, {"role": "user", "content": "Hello!"}]
    found = made(model="gpt-6-luna", messages=messages, profile=of_model("gpt-6-luna"))
    assert found.data == (
        b'{"model":"gpt-6-luna","messages":[{"role":"developer","content":"You are a helpful assistant."},'
        b'{"role":"user","content":"Hello!"}]}'
    )
    assert (found.changes, found.headers) == ((), {})


def test_b01_no_nulls_are_emitted() -> None:
    """With everything set there is still no null in the body."""
    found = made(EVERY, stream=True, tools=[TOOL])
    assert b"null" not in found.data
    assert list(found.body) == ["model", "messages", *(key for key in request.ORDER if key in found.body)]


def test_every_parameter_has_its_place() -> None:
    """No parameter that can be set is forgotten when the body is put together."""
    assert set(EVERY) | {"max_completion_tokens", "max_tokens", "extra_body", "extra_headers"} == set(
        RequestParams.__annotations__
    )
    body = made(EVERY, stream=True, tools=[TOOL]).body
    renamed = {"api_metadata": "metadata", "max_output_tokens": "max_tokens", "include_usage": "stream_options"}
    renamed["include_obfuscation"] = "stream_options"
    assert {renamed.get(name, name) for name in EVERY} <= body.keys()
    assert body.keys() <= {"model", "messages", *request.ORDER}


def test_the_same_arguments_give_the_same_bytes() -> None:
    """The order in which parameters were given does not show, and characters are sent as they are."""
    turned = dict(reversed(EVERY.items()))
    messages = [{"role": "user", "content": "日本語 \u2028 👩‍👩‍👧 é"}]
    data = made(EVERY, messages=messages, stream=True, tools=[TOOL]).data
    assert data == made(turned, messages=messages, stream=True, tools=[TOOL]).data
    assert "日本語 \u2028 👩‍👩‍👧 é".encode() in data
    assert b": " not in data.replace(b"\\", b"")


def test_b02_empty_messages_are_refused_before_any_call() -> None:
    """A request without messages never leaves."""
    with pytest.raises(ValueError, match="messages"):
        made(messages=[])
    with pytest.raises(SettingsError, match="model"):
        made(model="")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", 2.1),
        ("presence_penalty", -2.1),
        ("temperature", 2.5),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 1.1),
        ("top_p", -0.1),
        ("top_logprobs", 21),
        ("n", 0),
        ("n", 129),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", []),
        ("max_output_tokens", 0),
        ("max_tokens", 0),
        ("max_completion_tokens", 1.5),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"1": float("nan")}),
        ("reasoning_effort", "extreme"),
        ("verbosity", "loud"),
        ("safety_identifier", "x" * 65),
        ("temprature", 1),
    ],
)
def test_b03_ranges_are_checked_locally(name: str, value: Any) -> None:
    """A value out of its documented range is refused by name, before any call."""
    with pytest.raises(SettingsError) as caught:
        request_params.check({name: value})
    assert caught.value.setting.startswith(name)


def test_b03_top_logprobs_needs_logprobs() -> None:
    """Parameters that need each other are checked together."""
    with pytest.raises(SettingsError, match="logprobs"):
        request_params.check({"top_logprobs": 2})
    with pytest.raises(SettingsError, match="modalities"):
        request_params.check({"audio": {"format": "mp3", "voice": "x"}})
    with pytest.raises(SettingsError, match="max_output_tokens"):
        request_params.check({"max_output_tokens": 1, "max_tokens": 1})


@pytest.mark.parametrize(
    ("metadata", "named"),
    [
        ({f"key{number}": "x" for number in range(17)}, "api_metadata"),
        ({"k" * 65: "x"}, "k" * 65),
        ({"ticket": "x" * 513}, "ticket"),
        ({"ticket": 42}, "ticket"),
    ],
)
def test_b04_metadata_limits_name_the_key(metadata: dict[str, Any], named: str) -> None:
    """16 pairs, 64 and 512 characters, text to text; the error names the key."""
    with pytest.raises(SettingsError, match=named):
        request_params.check({"store": True, "api_metadata": metadata})


def test_b04_metadata_is_sent_only_with_store() -> None:
    """The API takes metadata for stored completions only."""
    assert sent({"store": True, "api_metadata": {"a": "b"}}) == {"store": True, "metadata": {"a": "b"}}
    with pytest.raises(SettingsError, match="store"):
        request_params.check({"api_metadata": {"a": "b"}})


@pytest.mark.parametrize(
    ("cap", "name"), [("max_completion_tokens", "max_completion_tokens"), ("max_tokens", "max_tokens")]
)
def test_b05_one_output_limit_under_the_name_each_server_knows(cap: Any, name: str) -> None:
    """`max_output_tokens` travels as the server's own name and is no change; another name is renamed and reported."""
    profile = Profile(output_cap=cap)
    other = "max_tokens" if name == "max_completion_tokens" else "max_completion_tokens"
    for given in ("max_output_tokens", name):
        found = made({given: 64}, profile=profile)
        assert found.body[name] == 64
        assert found.changes == ()
    found = made({other: 64}, profile=profile)
    assert found.body[name] == 64
    assert other not in found.body
    assert changes(found) == [(other, "renamed")]
    assert sent({other: 64}, profile=profile, mode="pass") == {other: 64}


def test_b05_a_cap_under_the_servers_name_is_never_refused() -> None:
    """OpenRouter takes max_tokens for models whose own server refuses it."""
    profile = resolve("openai/gpt-6-luna", "https://openrouter.ai/api/v1")
    assert "max_tokens" in profile.rejects
    for mode in ("strict", "drop", "pass"):
        assert sent({"max_output_tokens": 64}, profile=profile, mode=mode) == {"max_tokens": 64}


SAMPLING: dict[str, Any] = {
    "temperature": 0.2,
    "top_p": 0.9,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "logit_bias": {"1": 1},
    "logprobs": True,
    "top_logprobs": 2,
    "stop": "END",
}


@pytest.mark.parametrize("model", ["gpt-5", "gpt-5-mini", "gpt-6-luna", "gpt-6-astra", "o3"])
def test_b06_reasoning_models_drop_sampling_parameters_and_say_so(model: str) -> None:
    """The seven sampling parameters and stop are left out, max_tokens is renamed, and all of it is reported."""
    profile = of_model(model)
    found = made({**SAMPLING, "max_tokens": 5}, profile=profile)
    assert found.body.keys() == {"model", "messages", "max_completion_tokens"}
    assert sorted(changes(found)) == sorted([*((name, "dropped") for name in SAMPLING), ("max_tokens", "renamed")])
    assert all(change.reason for change in found.changes)


@pytest.mark.parametrize("name", [*SAMPLING, "max_tokens"])
def test_b06_strict_mode_refuses_what_the_model_refuses(name: str) -> None:
    """In strict mode the first refused parameter is a SettingsError that names it."""
    given = {name: {**SAMPLING, "max_tokens": 5}[name]} | ({"logprobs": True} if name == "top_logprobs" else {})
    with pytest.raises(SettingsError) as caught:
        made(given, profile=of_model("gpt-5"), mode="strict")
    assert caught.value.setting in (name, "logprobs")


def test_b06_pass_mode_sends_everything() -> None:
    """In pass mode the server decides."""
    given = {**SAMPLING, "max_tokens": 5}
    found = made(given, profile=of_model("gpt-5"), mode="pass")
    assert {key: found.body[key] for key in given} == given
    assert found.changes == ()


@pytest.mark.parametrize("given", [{"reasoning_effort": "none"}, {}])
def test_b07_effort_none_keeps_temperature(given: dict[str, Any]) -> None:
    """gpt-5.1 takes temperature, top_p and logprobs when its effort is none, also by default."""
    kept = {"temperature": 0.2, "top_p": 0.9, "logprobs": True, "top_logprobs": 2}
    found = made({**kept, **given}, profile=of_model("gpt-5.1"))
    assert {key: found.body[key] for key in kept} == kept
    dropped = made({**kept, "reasoning_effort": "low"}, profile=of_model("gpt-5.1"))
    assert {name for name, _ in changes(dropped)} == set(kept)


def test_b07_an_effort_that_nobody_knows_keeps_temperature() -> None:
    """Where the default effort is not known, the server decides."""
    assert of_model("gpt-5.4").default_effort is None
    assert sent({"temperature": 0.2}, profile=of_model("gpt-5.4")) == {"temperature": 0.2}


def test_b08_reasoning_effort_is_checked_against_the_profile() -> None:
    """An effort this model does not have is dropped and reported, refused or passed, as the mode says."""
    profile = of_model("gpt-5")
    assert sent({"reasoning_effort": "minimal"}, profile=profile) == {"reasoning_effort": "minimal"}
    found = made({"reasoning_effort": "none"}, profile=profile)
    assert changes(found) == [("reasoning_effort", "dropped")]
    with pytest.raises(SettingsError, match="minimal, low"):
        made({"reasoning_effort": "none"}, profile=profile, mode="strict")
    assert sent({"reasoning_effort": "none"}, profile=profile, mode="pass") == {"reasoning_effort": "none"}
    assert changes(made({"reasoning_effort": "low"}, profile=of_model("gpt-4o"))) == [("reasoning_effort", "dropped")]


def test_b07_a_dropped_effort_leaves_the_default_one() -> None:
    """What is allowed depends on the effort that is sent, not on the one that was left out."""
    given = {"temperature": 0.2, "reasoning_effort": "max"}
    assert sent(given, profile=of_model("gpt-5.1")) == {"temperature": 0.2}
    assert sent(given, profile=of_model("gpt-5.1"), mode="pass") == given


def test_b08_an_unknown_model_passes_untouched() -> None:
    """What nobody knows is the server's to decide."""
    profile = of_model("gpt-9-nova")
    given = {name: value for name, value in EVERY.items() if name not in ("max_output_tokens", "include_usage")}
    found = made(given, profile=profile, tools=[TOOL])
    assert found.changes == ()
    assert found.body["reasoning_effort"] == "low"


def test_b09_tools_while_reasoning_are_refused_only_in_strict_mode() -> None:
    """Whether the API still refuses it is not certain, so by default the server says so itself."""
    profile = of_model("gpt-6-luna")
    assert "tools" in sent({}, profile=profile, tools=[TOOL])
    assert "reasoning_effort" not in sent({}, profile=profile, tools=[TOOL])
    with pytest.raises(SettingsError, match="reasoning_effort='none'"):
        made({}, profile=profile, tools=[TOOL], mode="strict")
    assert sent({"reasoning_effort": "none"}, profile=profile, tools=[TOOL], mode="strict")["tools"] == [TOOL]


@pytest.mark.parametrize("mode", ["strict", "drop", "pass"])
def test_b10_without_tools_nothing_about_tools_is_sent(mode: Mode) -> None:
    """An empty list of tools, and a choice among none, are 400s."""
    found = made({"tool_choice": "auto", "parallel_tool_calls": True}, tools=[], mode=mode)
    assert found.body.keys() == {"model", "messages"}
    assert sorted(changes(found)) == [("parallel_tool_calls", "dropped"), ("tool_choice", "dropped")]


NAMED = {"type": "function", "function": {"name": "f"}}
CUSTOM = {"type": "custom", "custom": {"name": "f"}}
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}


@pytest.mark.parametrize(
    ("forms", "choice", "kept"),
    [
        ("all", CUSTOM, True),
        ("all", ALLOWED, True),
        ("functions", "required", True),
        ("functions", NAMED, True),
        ("functions", CUSTOM, False),
        ("functions", ALLOWED, False),
        ("none", "auto", True),
        ("none", "required", False),
        ("none", NAMED, False),
    ],
)
def test_b10_forms_of_tool_choice_follow_the_profile(forms: Any, choice: Any, kept: bool) -> None:
    """A form this server does not know is not sent to be ignored in silence."""
    profile = Profile(tool_choice_forms=forms)
    found = made({"tool_choice": choice}, profile=profile, tools=[TOOL])
    assert ("tool_choice" in found.body) is kept
    assert changes(found) == ([] if kept else [("tool_choice", "dropped")])
    assert sent({"tool_choice": choice}, profile=profile, tools=[TOOL], mode="pass")["tool_choice"] == choice
    if not kept:
        with pytest.raises(SettingsError, match="tool_choice"):
            made({"tool_choice": choice}, profile=profile, tools=[TOOL], mode="strict")


def test_b11_stream_options_only_with_a_stream() -> None:
    """Usage is asked for by default, can be turned off, and nothing of it is sent without a stream."""
    assert sent({}, stream=True) == {"stream": True, "stream_options": {"include_usage": True}}
    assert sent({"include_usage": False}, stream=True) == {"stream": True}
    assert sent({"include_obfuscation": False, "include_usage": False}, stream=True)["stream_options"] == {
        "include_obfuscation": False
    }
    assert sent({"include_usage": True, "include_obfuscation": True}) == {}
    assert sent({}, stream=True, profile=resolve("m", "https://api.mistral.ai/v1")) == {"stream": True}  # a 422 there
    silent = Profile(stream_usage=False)
    assert sent({}, stream=True, profile=silent) == {"stream": True}
    assert sent({"include_usage": True}, stream=True, profile=silent)["stream_options"] == {"include_usage": True}


def test_b12_extra_body_merges_last_and_may_override() -> None:
    """Whatever the API learns tomorrow can be sent today, over everything else."""
    extra = {"temperature": None, "top_k": 40, "metadata": {"a": "b"}}
    found = made({"temperature": 0.2, "extra_body": extra, "extra_headers": {"X-Title": "t"}})
    assert json.loads(found.data) == {"model": "m", "messages": HELLO, **extra}
    assert found.headers == {"X-Title": "t"}


@pytest.mark.parametrize(
    ("given", "param", "left"),
    [
        ({"temperature": 1, "top_p": 1}, "temperature", {"top_p": 1}),
        ({"max_output_tokens": 1}, "max_tokens", {}),
        ({"max_tokens": 1, "n": 1}, "max_completion_tokens", {"n": 1}),
        ({"store": True, "api_metadata": {}}, "metadata", {"store": True}),
        ({"response_format": {"type": "text"}}, "response_format.type", {}),
        ({"extra_body": {"top_k": 1, "x": 2}}, "top_k", {"extra_body": {"x": 2}}),
        ({"n": 1}, "stream_options.include_usage", {"n": 1, "include_usage": False}),
        ({"n": 1, "include_usage": False}, "stream_options", None),
        ({"top_p": 1}, "temperature", None),
        ({"top_p": 1}, "messages[0].role", None),
        ({"top_p": 1}, None, None),
    ],
)
@pytest.mark.parametrize("code", ["unsupported_parameter", "unsupported_value"])
def test_b13_the_parameter_the_server_named_is_left_out(
    given: dict[str, Any], param: str | None, left: dict[str, Any] | None, code: str
) -> None:
    """What the server names as unsupported can be left out; asking again after that finds nothing more to leave out."""
    params = cast("RequestParams", given)
    error = Rejected("x", status=400, code=code, param=param)
    found = without(params, error)
    assert found == left
    assert params == given
    if found is not None:
        assert without(found, error) is None


def test_b13_other_refusals_leave_the_parameters_alone() -> None:
    """Only an unsupported parameter is worth leaving out."""
    params: RequestParams = {"temperature": 1}
    assert without(params, Rejected("x", code="decimal_above_max_value", param="temperature")) is None
    assert without(params, ModelError("x")) is None


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
    """A vendor prefix and a date do not hide the family; any other string passes as it is."""
    assert of_model(model).name == name
    assert made(model=model, profile=of_model(model)).body["model"] == model


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.openai.com/v1", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1/chat/completions"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1/chat/completions"),
        ("https://x.openai.azure.com/openai/v1/", "https://x.openai.azure.com/openai/v1/chat/completions"),
        (
            "https://x.openai.azure.com/openai/v1/?api-version=v1",
            "https://x.openai.azure.com/openai/v1/chat/completions?api-version=v1",
        ),
        (
            "https://x.openai.azure.com/openai/deployments/d?api-version=2026-01-01&x=1",
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=2026-01-01&x=1",
        ),
        ("http://localhost:11434/v1", "http://localhost:11434/v1/chat/completions"),
        ("http://[::1]:8080", "http://[::1]:8080/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/v1#frag", "https://h/v1/chat/completions"),
    ],
)
def test_b15_base_urls_are_joined(base: str, url: str) -> None:
    """Every form of base URL leads to the one endpoint below it, and its query stays."""
    assert endpoint(base) == url


@pytest.mark.parametrize(
    "base",
    [
        "",
        "api.openai.com/v1",
        "ftp://h/v1",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://user:sekret@h/v1",
        "https://sekret@h/v1",
        "https://h:99999/v1",
        "https://[::1/v1",
        "https://h/v1\n",
        "https://h /v1",
        "//h/v1",
    ],
)
def test_b15_anything_else_is_refused_without_showing_secrets(base: str) -> None:
    """Only http and https, with a host, and no password."""
    with pytest.raises(SettingsError) as caught:
        endpoint(base)
    assert "sekret" not in str(caught.value)


def heads(profile: Profile | None = None, key: str | None = "k1", stream: bool = False, **extra: str) -> dict[str, str]:
    """The headers of a request."""
    return request_headers(profile or Profile(), key, stream=stream, request_id="r1", extra=extra)


def test_headers_of_a_request() -> None:
    """A bearer key, what is sent and accepted, who sends it, and an id to ask support about."""
    assert heads() == {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "User-Agent": "convokit",
        "X-Client-Request-Id": "r1",
        "Authorization": "Bearer k1",
    }
    assert heads(stream=True)["Accept"] == "text/event-stream"
    named = request_headers(Profile(), None, stream=False, request_id="r", extra={}, version="1.2")
    assert named["User-Agent"] == "convokit/1.2"
    assert "Authorization" not in named


def test_headers_follow_the_profile_and_the_caller() -> None:
    """Azure takes the key bare in its own header; extra headers replace ours whatever their case."""
    azure = resolve("d", "https://x.openai.azure.com/openai/v1/")
    assert heads(azure)["api-key"] == "k1"
    assert "Authorization" not in heads(azure)
    assert heads(authorization="Token t")["authorization"] == "Token t"
    assert "Authorization" not in heads(authorization="Token t")
    assert {name.lower(): value for name, value in heads(USER_agent="x").items()}["user_agent"] == "x"
    with pytest.raises(SettingsError, match="api_key"):
        heads(of_model("gpt-6-luna"), None)
    assert heads(of_model("gpt-6-luna"), None, Authorization="Bearer t")["Authorization"] == "Bearer t"


@pytest.mark.parametrize(
    "value", ["sekret\r\nX-Evil: 1", "sekret\n", " sekret", "sekret ", "sekret\x00", "sekré", "sekret日"]
)
def test_b74_a_header_value_that_cannot_be_one_is_refused_unseen(value: str) -> None:
    """A line break in a key or header is refused here, and the value is not shown."""
    with pytest.raises(SettingsError, match="api_key") as caught:
        heads(key=value)
    assert "sek" not in str(caught.value)
    with pytest.raises(SettingsError, match="X-Title") as caught:
        request_headers(Profile(), None, stream=False, request_id="r", extra={"X-Title": value})
    assert "sek" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        request_headers(Profile(), None, stream=False, request_id="r", extra={value or "x": "y"})
    assert "sek" not in str(caught.value)


def test_json_object_needs_the_word_json() -> None:
    """The API refuses json_object unless the messages speak of JSON; so do we, before the call."""
    form = {"response_format": {"type": "json_object"}}
    with pytest.raises(SettingsError, match="JSON"):
        made(form)
    for content in ("Answer in JSON.", [{"type": "text", "text": "as json please"}]):
        assert sent(form, messages=[{"role": "user", "content": content}])["response_format"] == {"type": "json_object"}
    assert sent(form, mode="pass")["response_format"] == {"type": "json_object"}


SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def test_response_format_falls_back_where_a_server_has_less() -> None:
    """Without schemas json_object is the next best, if the messages allow it; the change is reported."""
    deepseek = resolve("deepseek-chat", "https://api.deepseek.com")
    json_messages = [{"role": "user", "content": "JSON"}]
    found = made({"response_format": SCHEMA}, profile=deepseek, messages=json_messages)
    assert found.body["response_format"] == {"type": "json_object"}
    assert changes(found) == [("response_format", "changed")]
    assert changes(made({"response_format": SCHEMA}, profile=deepseek)) == [("response_format", "dropped")]
    lmstudio = resolve("m", "http://localhost", name="lmstudio")
    assert "response_format" not in made({"response_format": {"type": "json_object"}}, profile=lmstudio).body
    assert sent({"response_format": SCHEMA}, profile=lmstudio) == {"response_format": SCHEMA}
    with pytest.raises(SettingsError, match="schema"):
        made({"response_format": SCHEMA}, profile=deepseek, mode="strict")
    with pytest.raises(SettingsError, match="by now"):
        made({"response_format": int})


def test_too_many_choices_for_a_server() -> None:
    """Ollama ignores n: better said than found out."""
    ollama = resolve("m", "http://localhost", name="ollama")
    assert changes(made({"n": 2}, profile=ollama)) == [("n", "dropped")]
    assert sent({"n": 1}, profile=ollama) == {"n": 1}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}, b"x", "\ud800"])
def test_what_is_no_json_is_refused_by_name(value: Any) -> None:
    """A value that JSON does not have names its parameter, never itself."""
    with pytest.raises(SettingsError, match="prompt_cache"):
        render(
            model="m",
            messages=HELLO,
            params=cast("RequestParams", {"prompt_cache_options": {"x": value}}),
            profile=Profile(),
            stream=False,
        )
    with pytest.raises(InvalidInput, match="messages"):
        made(messages=[{"role": "user", "content": value}])


def test_arguments_are_not_changed() -> None:
    """Rendering changes nothing it was given, not even through the body it returns."""
    given = json.loads(json.dumps(EVERY))
    messages, tools = [dict(HELLO[0])], [dict(TOOL)]
    found = render(model="m", messages=messages, params=given, profile=of_model("gpt-5"), stream=True, tools=tools)
    found.body["messages"].append("x")
    found.body["tools"][0]["x"] = 1
    assert (given, messages, tools) == (EVERY, HELLO, [TOOL])
