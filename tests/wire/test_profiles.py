"""Tests of parameters that a model or server refuses."""

from __future__ import annotations

from typing import Any

import pytest

from convokit.domain.profiles import Profile, resolve_profile
from convokit.errors import SettingsError

from .test_request import EVERY, TOOL, list_changes, openai_profile, render, render_body

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
def test_b06_reasoning_models_drop_sampling_parameters_and_report_it(model: str) -> None:
    profile = openai_profile(model)
    found = render({**SAMPLING, "max_tokens": 5}, profile=profile)
    assert found.body.keys() == {"model", "messages", "max_completion_tokens"}
    assert sorted(list_changes(found)) == sorted([*((name, "dropped") for name in SAMPLING), ("max_tokens", "renamed")])
    assert all(change.reason for change in found.changes)


@pytest.mark.parametrize("name", [*SAMPLING, "max_tokens"])
def test_b06_strict_mode_raises_for_the_first_refused_parameter(name: str) -> None:
    given = {name: {**SAMPLING, "max_tokens": 5}[name]} | ({"logprobs": True} if name == "top_logprobs" else {})
    with pytest.raises(SettingsError) as caught:
        render(given, profile=openai_profile("gpt-5"), mode="strict")
    assert caught.value.setting in (name, "logprobs")


def test_b06_pass_mode_sends_everything() -> None:
    given = {**SAMPLING, "max_tokens": 5}
    found = render(given, profile=openai_profile("gpt-5"), mode="pass")
    assert {key: found.body[key] for key in given} == given
    assert found.changes == ()


@pytest.mark.parametrize("given", [{"reasoning_effort": "none"}, {}])
def test_b07_effort_none_keeps_temperature(given: dict[str, Any]) -> None:
    """gpt-5.1 accepts temperature, top_p and logprobs if its effort is none, also by default."""
    kept = {"temperature": 0.2, "top_p": 0.9, "logprobs": True, "top_logprobs": 2}
    found = render({**kept, **given}, profile=openai_profile("gpt-5.1"))
    assert {key: found.body[key] for key in kept} == kept
    dropped = render({**kept, "reasoning_effort": "low"}, profile=openai_profile("gpt-5.1"))
    assert {name for name, _ in list_changes(dropped)} == set(kept)


def test_b07_an_unknown_default_effort_keeps_temperature() -> None:
    assert openai_profile("gpt-5.4").default_effort is None
    assert render_body({"temperature": 0.2}, profile=openai_profile("gpt-5.4")) == {"temperature": 0.2}


def test_b08_reasoning_effort_is_checked_against_the_profile() -> None:
    profile = openai_profile("gpt-5")
    assert render_body({"reasoning_effort": "minimal"}, profile=profile) == {"reasoning_effort": "minimal"}
    found = render({"reasoning_effort": "none"}, profile=profile)
    assert list_changes(found) == [("reasoning_effort", "dropped")]
    with pytest.raises(SettingsError, match="minimal, low"):
        render({"reasoning_effort": "none"}, profile=profile, mode="strict")
    assert render_body({"reasoning_effort": "none"}, profile=profile, mode="pass") == {"reasoning_effort": "none"}
    assert list_changes(render({"reasoning_effort": "low"}, profile=openai_profile("gpt-4o"))) == [
        ("reasoning_effort", "dropped")
    ]


def test_b07_a_dropped_effort_counts_as_the_default_one() -> None:
    given = {"temperature": 0.2, "reasoning_effort": "max"}
    assert render_body(given, profile=openai_profile("gpt-5.1")) == {"temperature": 0.2}
    assert render_body(given, profile=openai_profile("gpt-5.1"), mode="pass") == given


def test_b08_parameters_of_an_unknown_model_are_not_changed() -> None:
    profile = openai_profile("gpt-9-nova")
    given = {name: value for name, value in EVERY.items() if name not in ("max_output_tokens", "include_usage")}
    found = render(given, profile=profile, tools=[TOOL])
    assert found.changes == ()
    assert found.body["reasoning_effort"] == "low"


def test_b09_tools_while_reasoning_are_refused_only_in_strict_mode() -> None:
    """The API may accept them by now, so it decides by default."""
    profile = openai_profile("gpt-6-luna")
    assert "tools" in render_body({}, profile=profile, tools=[TOOL])
    assert "reasoning_effort" not in render_body({}, profile=profile, tools=[TOOL])
    with pytest.raises(SettingsError, match="reasoning_effort='none'"):
        render({}, profile=profile, tools=[TOOL], mode="strict")
    assert render_body({"reasoning_effort": "none"}, profile=profile, tools=[TOOL], mode="strict")["tools"] == [TOOL]


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
    """Some servers ignore a form that they do not know."""
    profile = Profile(tool_choice_forms=forms)
    found = render({"tool_choice": choice}, profile=profile, tools=[TOOL])
    assert ("tool_choice" in found.body) is kept
    assert list_changes(found) == ([] if kept else [("tool_choice", "dropped")])
    assert render_body({"tool_choice": choice}, profile=profile, tools=[TOOL], mode="pass")["tool_choice"] == choice
    if not kept:
        with pytest.raises(SettingsError, match="tool_choice"):
            render({"tool_choice": choice}, profile=profile, tools=[TOOL], mode="strict")


SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}


def test_response_format_falls_back_to_json_object() -> None:
    """If the messages allow it; the change is reported."""
    deepseek = resolve_profile("deepseek-chat", "https://api.deepseek.com")
    json_messages = [{"role": "user", "content": "JSON"}]
    found = render({"response_format": SCHEMA}, profile=deepseek, messages=json_messages)
    assert found.body["response_format"] == {"type": "json_object"}
    assert list_changes(found) == [("response_format", "changed")]
    assert list_changes(render({"response_format": SCHEMA}, profile=deepseek)) == [("response_format", "dropped")]
    lmstudio = resolve_profile("m", "http://localhost", name="lmstudio")
    assert "response_format" not in render({"response_format": {"type": "json_object"}}, profile=lmstudio).body
    assert render_body({"response_format": SCHEMA}, profile=lmstudio) == {"response_format": SCHEMA}
    with pytest.raises(SettingsError, match="schema"):
        render({"response_format": SCHEMA}, profile=deepseek, mode="strict")
    with pytest.raises(SettingsError, match="API's own object"):
        render({"response_format": int})


def test_n_over_the_servers_limit_is_dropped() -> None:
    """Ollama ignores n."""
    ollama = resolve_profile("m", "http://localhost", name="ollama")
    assert list_changes(render({"n": 2}, profile=ollama)) == [("n", "dropped")]
    assert render_body({"n": 1}, profile=ollama) == {"n": 1}
