"""Stored messages, made fit for a server."""

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
from convokit.wire.messages import map_tool_call_id, slugify_name, to_wire_messages

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
INLINE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "high"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA", "filename": "a.pdf"}}
TEXT = {"type": "text", "text": "Hi"}


def known(name: str) -> Profile:
    """The profile of a provider by name."""
    return resolve_profile("m", "http://localhost", name=name)


def one(message: dict[str, Any], profile: Profile | None = None, **more: Any) -> dict[str, Any]:
    """One message, made fit."""
    return to_wire_messages([message], profile or Profile(), **more)[0]


def call(id: str = "call_1", **more: Any) -> dict[str, Any]:
    """A tool call as it is stored."""
    return {"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}, **more}


def test_plain_messages_pass_as_they_are() -> None:
    """What every server takes is not touched; what is only ours is not sent."""
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
def test_b33_content_parts_round_trip(part: dict[str, Any]) -> None:
    """Text, image, audio and file parts arrive as they were stored."""
    assert one({"role": "user", "content": [part]})["content"] == [part]


@pytest.mark.parametrize(
    ("part", "kind"), [(IMAGE, "image"), (AUDIO, "audio"), (FILE, "file"), ({"type": "video_url"}, "video_url")]
)
def test_b33_unsupported_parts_are_an_error_or_a_placeholder(part: dict[str, Any], kind: str) -> None:
    """A part this server does not take raises with its place, or becomes a text that says what was left out."""
    profile = Profile(parts=frozenset({"text", "x"}))
    with pytest.raises(InvalidInput, match=kind) as caught:
        to_wire_messages([{"role": "user", "content": "a"}, {"role": "user", "content": [TEXT, part]}], profile)
    assert caught.value.field == "messages[1].content[1]"
    found = one({"role": "user", "content": [TEXT, part]}, profile, unsupported="placeholder")
    assert found["content"] == [TEXT, {"type": "text", "text": f"[{kind} left out]"}]


def test_b33_a_server_of_text_alone_gets_a_string() -> None:
    """Where only text is taken, arrays are not taken either."""
    found = one({"role": "user", "content": [TEXT, IMAGE]}, known("deepseek"), unsupported="placeholder")
    assert found["content"] == "Hi\n[image left out]"


def test_b34_detail_that_was_not_given_is_not_sent() -> None:
    """No default is made up, and a stored null is no detail."""
    assert one({"role": "user", "content": [IMAGE]})["content"][0]["image_url"].keys() == {"url"}
    nulled = {"type": "image_url", "image_url": {**IMAGE["image_url"], "detail": None}, "prompt_cache_breakpoint": None}  # type: ignore[dict-item]
    assert one({"role": "user", "content": [nulled]})["content"] == [IMAGE]


def test_b34_ollama_takes_inline_images_only() -> None:
    """A server that fetches nothing is not sent a link."""
    ollama = known("ollama")
    assert one({"role": "user", "content": [INLINE]}, ollama)["content"] == [INLINE]
    with pytest.raises(InvalidInput, match="data: URLs"):
        one({"role": "user", "content": [IMAGE]}, ollama)
    found = one({"role": "user", "content": [IMAGE]}, ollama, unsupported="placeholder")
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
def test_b35_audio_is_named_before_it_expires_and_said_after(now: float | None, sent: dict[str, Any]) -> None:
    """A spoken answer goes back as its id while the provider has it (with a margin), as its transcript after that."""
    found = one({"role": "assistant", "content": None, "audio": SPOKEN}, now=now)
    assert found == {"role": "assistant", **sent}


def test_b35_audio_of_another_provider_is_said() -> None:
    """An id means nothing to a server that did not give it, nor to one that takes no audio."""
    message = {"role": "assistant", "content": None, "audio": SPOKEN, "extra": {"provider": "azure", "keys": {}}}
    assert one(message, now=1000.0) == {"role": "assistant", "content": "Hello"}
    assert one({**message, "extra": None}, known("deepseek"), now=1000.0)["content"] == "Hello"


def test_b36_refusals_go_back_as_the_server_knows_them() -> None:
    """A refusal is a refusal part, or the message's words where there is no such part."""
    message = {"role": "assistant", "content": None, "refusal": "I cannot."}
    assert one(message) == {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]}
    assert one(message, Profile(refusal_part=False)) == {"role": "assistant", "content": "I cannot."}
    part = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert one(part)["content"] == part["content"]
    assert one(part, Profile(refusal_part=False))["content"] == [{"type": "text", "text": "No."}]


def test_b37_response_only_fields_never_go_back() -> None:
    """Annotations, parsed objects, audio data and the like are answers, not questions."""
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
    assert one(message) == {"role": "assistant", "content": "Hi", "tool_calls": [call()]}


def test_b38_vendor_keys_go_back_only_to_their_vendor() -> None:
    """What a provider sent beside the API goes back to it alone, and only what it is known to want."""
    keys = {"reasoning_content": "Hm", "reasoning_details": [{"type": "x"}], "other": 1}
    message = {"role": "assistant", "content": "Hi", "extra": {"provider": "deepseek", "keys": keys}}
    assert one(message, known("deepseek")) == {"role": "assistant", "content": "Hi", "reasoning_content": "Hm"}
    for other in ("openrouter", "openai", "generic"):
        assert one(message, known(other)) == {"role": "assistant", "content": "Hi"}
    ours = {**message, "extra": {"provider": "openrouter", "keys": keys}}
    assert one(ours, known("openrouter"))["reasoning_details"] == [{"type": "x"}]
    empty = {**message, "extra": {"provider": "deepseek", "keys": {"reasoning_content": ""}}}
    assert one(empty, known("deepseek"))["reasoning_content"] == ""


def test_b38_signatures_of_calls_go_back_only_to_their_vendor() -> None:
    """`extra_content` of a tool call round-trips to whoever signed it."""
    signed = call(extra_content={"google": {"thought_signature": "c2ln"}})
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [signed],
        "extra": {"provider": "generic", "keys": {}},
    }
    assert one(message)["tool_calls"] == [signed]
    assert one(message, known("openai"))["tool_calls"] == [call()]
    assert one({**message, "extra": None})["tool_calls"] == [call()]


def test_b39_tool_call_ids_are_mapped_alike_in_call_and_answer() -> None:
    """Mistral wants nine letters and digits: the call and its answer get the same ones, every time."""
    messages: list[dict[str, Any]] = [
        {"role": "assistant", "content": None, "tool_calls": [call("call_abc"), call("call_abd"), call("Abcdef123")]},
        {"role": "tool", "tool_call_id": "call_abc", "content": "1"},
        {"role": "tool", "tool_call_id": "call_abd", "content": "2"},
        {"role": "tool", "tool_call_id": "Abcdef123", "content": "3"},
    ]
    before = copy.deepcopy(messages)
    found = to_wire_messages(messages, known("mistral"))
    ids = [one["id"] for one in found[0]["tool_calls"]]
    assert ids == [one["tool_call_id"] for one in found[1:]]
    assert len(set(ids)) == 3
    assert all(re.fullmatch("[A-Za-z0-9]{9}", name) for name in ids)
    assert ids[2] == "Abcdef123"
    assert found == to_wire_messages(messages, known("mistral"))
    assert messages == before
    assert to_wire_messages(messages, Profile())[0]["tool_calls"][0]["id"] == "call_abc"


@given(st.text(max_size=40), st.sampled_from(["[A-Za-z0-9]{9}", "[a-zA-Z0-9_-]{1,40}", "[A-Za-z0-9]{32,}"]))
def test_b39_every_id_is_mapped_to_one_that_fits(id: str, pattern: str) -> None:
    """Any id becomes one the pattern takes, and one that fits stays."""
    found = map_tool_call_id(pattern, id)
    assert re.fullmatch(pattern, found)
    assert map_tool_call_id(pattern, found) == found


def test_b39_a_pattern_that_no_id_fits_is_a_mistake_in_the_profile() -> None:
    """A pattern we cannot serve is said, not looped over."""
    with pytest.raises(SettingsError, match="tool_call_id_pattern"):
        map_tool_call_id("tool-[0-9]+", "call_1")


def test_b40_name_is_omitted_unless_asked_for() -> None:
    """Names are personal data and many of them are 400s: they stay here."""
    message = {"role": "user", "content": "Hi", "name": "Zoë Brontë"}
    assert "name" not in one(message)
    assert one(message, send_names=True)["name"] == "Zoe_Bronte"


@pytest.mark.parametrize("name", ["山田太郎", "", "   ", "🙂"])
def test_b40_a_name_of_which_nothing_is_left_is_omitted(name: str) -> None:
    """A Japanese name is no 400."""
    assert "name" not in one({"role": "user", "content": "Hi", "name": name}, send_names=True)


@given(st.text())
def test_b40_every_slug_is_one_the_api_takes(name: str) -> None:
    """Letters, digits, underscore and hyphen, 64 at most."""
    assert re.fullmatch("[A-Za-z0-9_-]{0,64}", slugify_name(name))


def test_null_content_follows_the_profile() -> None:
    """Null is for messages that call tools, where the server knows it; everything else has at least an empty text."""
    calling = {"role": "assistant", "content": None, "tool_calls": [call()]}
    assert one(calling)["content"] is None
    assert one(calling, known("ollama"))["content"] == ""
    assert one({"role": "assistant", "content": None}) == {"role": "assistant", "content": ""}
    assert one({"role": "tool", "tool_call_id": "a"})["content"] == ""


def test_b10_empty_tool_calls_are_omitted() -> None:
    """An empty list of calls is a 400."""
    assert one({"role": "assistant", "content": "Hi", "tool_calls": []}) == {"role": "assistant", "content": "Hi"}
    assert "tool_calls" not in one({"role": "assistant", "content": "Hi", "tool_calls": None})


def test_calls_keep_their_arguments_and_their_kind() -> None:
    """Arguments are sent as they were stored; none at all is an empty object; custom tools have an input instead."""
    odd = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": tru'}}
    none = {"id": "b", "function": {"name": "f", "arguments": None}}
    custom = {"id": "c", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    found = one({"role": "assistant", "content": None, "tool_calls": [odd, none, custom]})["tool_calls"]
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
def test_names_of_calls_are_names_the_api_takes(name: str | None, sent: str, kind: str) -> None:
    """A model may call what it made up; the API refuses other characters, so the name goes back in those it takes."""
    asked = {"id": "call_1", "type": kind, kind: {"name": name}}
    assert one({"role": "assistant", "tool_calls": [asked]})["tool_calls"][0][kind]["name"] == sent


def test_old_function_messages_still_pass() -> None:
    """A history from before tools is not lost."""
    calling = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}
    answer = {"role": "function", "name": "f", "content": "42"}
    assert to_wire_messages([calling, answer], Profile()) == [calling, answer]


def test_b89_model_objects_are_as_good_as_dicts() -> None:
    """A message of another library's own type is read as what it says."""
    given = ChatCompletionMessage.model_validate(
        {"role": "assistant", "content": None, "tool_calls": [call()], "annotations": []}
    )
    assert to_wire_messages([given], Profile()) == [{"role": "assistant", "content": None, "tool_calls": [call()]}]


@pytest.mark.parametrize("message", [{}, {"role": None}, {"role": 1, "content": "x"}])
def test_a_message_without_a_role_is_refused_with_its_place(message: dict[str, Any]) -> None:
    """Which message it was is said."""
    with pytest.raises(InvalidInput, match=r"messages\[1\].role"):
        to_wire_messages([{"role": "user", "content": "x"}, message], Profile())


@pytest.mark.parametrize("name", ["openai", "deepseek", "mistral", "ollama", "gemma", "generic"])
def test_b41_the_input_is_never_changed(name: str) -> None:
    """Making messages fit changes nothing in them, not even through what comes out."""
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
    found = to_wire_messages(messages, known(name), unsupported="placeholder", now=0.0, send_names=True)
    for message in found:
        message["content"] = "changed"
        for one_call in message.get("tool_calls", []):
            one_call["function"]["arguments"] = "changed"
    assert messages == before
