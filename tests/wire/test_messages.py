"""Tests of converting stored messages for a server."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionMessage

from convokit.domain.profiles import Profile, resolve_profile
from convokit.errors import InvalidInput, SettingsError
from convokit.wire.message_encoding import map_tool_call_id, slugify_name, to_wire_messages

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
INLINE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}
TEXT = {"type": "text", "text": "Hi"}


def provider_profile(name: str) -> Profile:
    """Return the profile of a provider."""
    return resolve_profile("m", "http://localhost", name=name)


def convert(message: dict[str, Any], profile: Profile | None = None, **more: Any) -> dict[str, Any]:
    """Return one message, converted."""
    return to_wire_messages([message], profile or Profile(), **more)[0]


def call(id: str = "call_1", **more: Any) -> dict[str, Any]:
    """Return a tool call as it is stored."""
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}, **more}


def test_plain_messages_are_not_changed() -> None:
    """Keys that only convokit has are not sent."""
    messages: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi", "seq": 4, "status": "complete", "id": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call()]},
        {"role": "tool", "content": "42", "tool_call_id": "call_1", "name": "f"},
        {"role": "assistant", "content": "Done."},
    ]
    assert to_wire_messages(messages, Profile()) == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": None, "tool_calls": [call()]},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "Done."},
    ]


@pytest.mark.parametrize("part", [TEXT, IMAGE, INLINE, AUDIO, FILE])
def test_b33_content_parts_are_sent_as_they_were_stored(part: dict[str, Any]) -> None:
    assert convert({"role": "user", "content": [part]})["content"] == [part]


@pytest.mark.parametrize(
    ("part", "kind"), [(IMAGE, "image"), (AUDIO, "audio"), (FILE, "file"), ({"type": "video_url"}, "video_url")]
)
def test_b33_unsupported_parts_are_an_error_or_a_placeholder(part: dict[str, Any], kind: str) -> None:
    """The error names the path of the part."""
    profile = Profile(parts=frozenset({"text", "x"}))
    with pytest.raises(InvalidInput, match=kind) as caught:
        to_wire_messages([{"role": "user", "content": "a"}, {"role": "user", "content": [TEXT, part]}], profile)
    assert caught.value.field == "messages[1].content[1]"
    found = convert({"role": "user", "content": [TEXT, part]}, profile, unsupported="placeholder")
    assert found["content"] == [TEXT, {"type": "text", "text": f"[{kind} left out]"}]


def test_b33_a_server_that_accepts_only_text_gets_a_string() -> None:
    found = convert({"role": "user", "content": [TEXT, IMAGE]}, provider_profile("deepseek"), unsupported="placeholder")
    assert found["content"] == "Hi\n[image left out]"


def test_b34_a_missing_or_null_detail_is_not_sent() -> None:
    assert convert({"role": "user", "content": [IMAGE]})["content"][0]["image_url"].keys() == {"url"}
    nulled = {"type": "image_url", "image_url": {**IMAGE["image_url"], "detail": None}, "prompt_cache_breakpoint": None}  # type: ignore[dict-item]
    assert convert({"role": "user", "content": [nulled]})["content"] == [IMAGE]


def test_b34_ollama_accepts_only_inline_images() -> None:
    ollama = provider_profile("ollama")
    assert convert({"role": "user", "content": [INLINE]}, ollama)["content"] == [INLINE]
    with pytest.raises(InvalidInput, match="data: URLs"):
        convert({"role": "user", "content": [IMAGE]}, ollama)
    found = convert({"role": "user", "content": [IMAGE]}, ollama, unsupported="placeholder")
    assert found["content"] == [{"type": "text", "text": "[image left out]"}]


SPOKEN = {"id": "audio_1", "data": "AAAA", "expires_at": 2000, "transcript": "Hello"}


@pytest.mark.parametrize(
    ("now", "sent"),
    [
        (1000.0, {"content": None, "audio": {"id": "audio_1"}}),
        (1999.0, {"content": "Hello"}),
        (2001.0, {"content": "Hello"}),
        (None, {"content": "Hello"}),
    ],
)
def test_b35_audio_is_sent_as_its_id_until_it_expires(now: float | None, sent: dict[str, Any]) -> None:
    """After that (with a margin) its transcript is sent."""
    found = convert({"role": "assistant", "content": None, "audio": SPOKEN}, now=now)
    assert found == {"role": "assistant", **sent}


def test_b35_audio_of_another_provider_is_sent_as_its_transcript() -> None:
    """So is audio for a server without audio."""
    message = {"role": "assistant", "content": None, "audio": SPOKEN, "extra": {"provider": "azure", "keys": {}}}
    assert convert(message, now=1000.0) == {"role": "assistant", "content": "Hello"}
    assert convert({**message, "extra": None}, provider_profile("deepseek"), now=1000.0)["content"] == "Hello"


def test_b36_a_refusal_is_a_part_or_the_content() -> None:
    message = {"role": "assistant", "content": None, "refusal": "I cannot."}
    assert convert(message) == {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]}
    assert convert(message, Profile(refusal_part=False)) == {"role": "assistant", "content": "I cannot."}
    part = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert convert(part)["content"] == part["content"]
    assert convert(part, Profile(refusal_part=False))["content"] == [{"type": "text", "text": "No."}]


def test_b37_keys_of_a_reply_are_never_sent() -> None:
    message = {
        "role": "assistant",
        "content": "Hi",
        "annotations": [{"type": "url_citation"}],
        "parsed": {"a": 1},
        "audio": SPOKEN,
        "reasoning": "Hm",
        "reasoning_content": "Hm",
        "finish_reason": "stop",
        "tool_calls": [{**call(), "index": 0, "output": "x"}],
    }
    assert convert(message) == {"role": "assistant", "content": "Hi", "tool_calls": [call()]}


def test_b38_a_vendors_keys_are_sent_only_to_that_vendor() -> None:
    """Only the keys that it is known to need."""
    keys = {"reasoning_content": "Hm", "reasoning_details": [{"type": "x"}], "other": 1}
    message = {"role": "assistant", "content": "Hi", "extra": {"provider": "deepseek", "keys": keys}}
    assert convert(message, provider_profile("deepseek")) == {
        "role": "assistant",
        "content": "Hi",
        "reasoning_content": "Hm",
    }
    for other in ("openrouter", "openai", "generic"):
        assert convert(message, provider_profile(other)) == {"role": "assistant", "content": "Hi"}
    ours = {**message, "extra": {"provider": "openrouter", "keys": keys}}
    assert convert(ours, provider_profile("openrouter"))["reasoning_details"] == [{"type": "x"}]
    empty = {**message, "extra": {"provider": "deepseek", "keys": {"reasoning_content": ""}}}
    assert convert(empty, provider_profile("deepseek"))["reasoning_content"] == ""


def test_b38_signatures_of_calls_are_sent_only_to_their_vendor() -> None:
    signed = call(extra_content={"google": {"thought_signature": "c2ln"}})
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [signed],
        "extra": {"provider": "generic", "keys": {}},
    }
    assert convert(message)["tool_calls"] == [signed]
    assert convert(message, provider_profile("openai"))["tool_calls"] == [call()]
    assert convert({**message, "extra": None})["tool_calls"] == [call()]


def test_b39_a_call_and_its_result_get_the_same_id() -> None:
    """Mistral accepts nine letters and digits."""
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [call("call_abc"), call("call_abd"), call("Abcdef123")]},
        {"role": "tool", "tool_call_id": "call_abc", "content": "1"},
        {"role": "tool", "tool_call_id": "call_abd", "content": "2"},
        {"role": "tool", "tool_call_id": "Abcdef123", "content": "3"},
    ]
    before = copy.deepcopy(messages)
    found = to_wire_messages(messages, provider_profile("mistral"))
    ids = [one["id"] for one in found[0]["tool_calls"]]
    assert ids == [one["tool_call_id"] for one in found[1:]]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[A-Za-z0-9]{9}", name) for name in ids)
    assert ids[2] == "Abcdef123"
    assert found == to_wire_messages(messages, provider_profile("mistral"))
    assert messages == before
    assert to_wire_messages(messages, Profile())[0]["tool_calls"][0]["id"] == "call_abc"


@given(st.text(max_size=40), st.sampled_from(["[A-Za-z0-9]{9}", "[a-zA-Z0-9_-]{1,40}", "[A-Za-z0-9]{32,}"]))
def test_b39_every_id_is_mapped_to_one_that_matches_the_pattern(id: str, pattern: str) -> None:
    """An id that matches it stays."""
    found = map_tool_call_id(pattern, id)
    assert re.fullmatch(pattern, found)
    assert map_tool_call_id(pattern, found) == found


def test_b39_a_pattern_that_no_id_matches_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="tool_call_id_pattern"):
        map_tool_call_id("tool-[0-9]+", "call_1")


def test_b40_names_are_sent_only_on_request() -> None:
    """They are personal data, and the API refuses many of them."""
    message = {"role": "user", "content": "Hi", "name": "Zoë Brontë"}
    assert "name" not in convert(message)
    assert convert(message, send_names=True)["name"] == "Zoe_Bronte"


@pytest.mark.parametrize("name", ["山田太郎", "", "   ", "🙂"])
def test_b40_a_name_without_valid_characters_is_omitted(name: str) -> None:
    assert "name" not in convert({"role": "user", "content": "Hi", "name": name}, send_names=True)


@given(st.text())
def test_b40_every_slug_is_a_valid_name(name: str) -> None:
    assert re.fullmatch("[A-Za-z0-9_-]{0,64}", slugify_name(name))


def test_null_content_follows_the_profile() -> None:
    """Only a message with calls may have it."""
    calling = {"role": "assistant", "content": None, "tool_calls": [call()]}
    assert convert(calling)["content"] is None
    assert convert(calling, provider_profile("ollama"))["content"] == ""
    assert convert({"role": "assistant", "content": None}) == {"role": "assistant", "content": ""}
    assert convert({"role": "tool", "tool_call_id": "a"})["content"] == ""


def test_b10_empty_tool_calls_are_omitted() -> None:
    """The API answers 400 to an empty list."""
    assert convert({"role": "assistant", "content": "Hi", "tool_calls": []}) == {"role": "assistant", "content": "Hi"}
    assert "tool_calls" not in convert({"role": "assistant", "content": "Hi", "tool_calls": None})


def test_calls_keep_their_arguments_and_their_kind() -> None:
    """Empty arguments become an empty object; custom tools have an input."""
    odd = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": true}'}}
    none = {"id": "b", "function": {"name": "f", "arguments": None}}
    custom = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    found = convert({"role": "assistant", "content": None, "tool_calls": [odd, none, custom]})["tool_calls"]
    assert found == [odd, {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}}, custom]


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("opening_hours", "opening_hours"),
        ("functions.lookup now", "functions_lookup_now"),
        ("検索", "unnamed"),
        ("検索 v2", "v2"),
        ("x" * 70, "x" * 64),
        ("", "unnamed"),
        (None, "unnamed"),
    ],
)
@pytest.mark.parametrize("kind", ["function", "custom"])
def test_invalid_names_of_calls_are_repaired(name: str | None, sent: str, kind: str) -> None:
    """A model may invent one, and the API refuses it when it is sent back."""
    asked = {"id": "call_1", "type": kind, kind: {"name": name}}
    assert convert({"role": "assistant", "tool_calls": [asked]})["tool_calls"][0][kind]["name"] == sent


def test_function_messages_are_sent() -> None:
    calling = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    answer = {"role": "function", "name": "f", "content": "42"}
    assert to_wire_messages([calling, answer], Profile()) == [calling, answer]


def test_b89_pydantic_models_are_accepted_as_messages() -> None:
    given = ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": None, "tool_calls": [call()], "annotations": []}
    )
    assert to_wire_messages([given], Profile()) == [{"role": "assistant", "content": None, "tool_calls": [call()]}]


@pytest.mark.parametrize("message", [{}, {"role": None}, {"role": 1, "content": "x"}])
def test_a_message_without_a_role_is_refused_with_its_path(message: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match=r"messages\[1\].role"):
        to_wire_messages([{"role": "user", "content": "x"}, message], Profile())


@pytest.mark.parametrize("name", ["openai", "deepseek", "mistral", "ollama", "gemma", "generic"])
def test_b41_the_input_is_not_changed(name: str) -> None:
    """Neither by the conversion nor by a change of the result."""
    extra = {"provider": name, "keys": {"reasoning_content": "Hm"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [TEXT, INLINE], "name": "Zoë"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call(extra_content={"a": 1})],
            "audio": SPOKEN,
            "extra": extra,
        },
        {"role": "tool", "tool_call_id": "call_1", "content": [TEXT]},
        {"role": "assistant", "content": None, "refusal": "No."},
    ]
    before = copy.deepcopy(messages)
    found = to_wire_messages(messages, provider_profile(name), unsupported="placeholder", now=0.0, send_names=True)
    for message in found:
        message["content"] = "changed"
        for one_call in message.get("tool_calls", []):
            one_call["function"]["arguments"] = "changed"
    assert messages == before


def test_reasoning_goes_back_beside_calls_through_an_unknown_gateway() -> None:
    """It goes to the provider that sent it, and to no other one."""
    extra = {"provider": "generic", "keys": {"reasoning_content": "思考", "other": 1}}
    calling = {"role": "assistant", "content": None, "tool_calls": [call()], "extra": extra}
    gateway = provider_profile("generic")
    assert convert(calling, gateway)["reasoning_content"] == "思考"
    assert "reasoning_content" not in convert({"role": "assistant", "content": "x", "extra": extra}, gateway)
    assert "reasoning_content" not in convert(
        calling, Profile(provider="another", replay_keys_with_calls=frozenset({"k"}))
    )
    assert "reasoning_content" not in convert({**calling, "extra": {**extra, "provider": "x"}}, gateway)


def test_deepseek_gets_empty_reasoning_with_calls_of_another_provider() -> None:
    calling = {"role": "assistant", "content": None, "tool_calls": [call()]}
    deepseek = provider_profile("deepseek")
    assert convert(calling, deepseek)["reasoning_content"] == ""
    extra = {"provider": "deepseek", "keys": {"reasoning_content": "hm"}}
    assert convert({**calling, "extra": extra}, deepseek)["reasoning_content"] == "hm"
    assert "reasoning_content" not in convert({"role": "assistant", "content": "x"}, deepseek)
