"""Convert stored messages to the messages that a server accepts.

Messages are stored in OpenAI's shape. The profile decides which of their parts this server accepts. Keys that only a reply has
(annotations, parsed values, audio data) are never sent. A vendor's own keys are sent only to the vendor that sent them. The
choice of the messages, their roles and their order belong to the context builder.
"""

from __future__ import annotations

import functools
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from convokit.domain.message import ASSISTANT, FUNCTION, TOOL
from convokit.domain.profiles import Profile
from convokit.domain.search_words import limit_marks
from convokit.errors import InvalidInput, SettingsError
from convokit.wire.request import RENDERER
from convokit.wire.tool_arguments import to_sendable_arguments

Unsupported = Literal["raise", "placeholder"]
MessageLike = Mapping[str, Any] | BaseModel

_ID_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# The usual lengths come first; of those that a pattern accepts, the first one is used.
_ID_LENGTHS: tuple[int, ...] = (9, 24, 32, 40, 16, 12, *range(1, 65))
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]+")
_PART_NAMES = {"image_url": "image", "input_audio": "audio", "file": "file"}
_AUDIO_MARGIN_S = 60.0


def to_wire_messages(
    messages: Sequence[MessageLike],
    profile: Profile,
    *,
    unsupported: Unsupported = "raise",
    now: float | None = None,
    send_names: bool = False,
    renderer: int = RENDERER,
) -> list[dict[str, Any]]:
    """Return the messages in the shape that the server accepts. The same arguments always give the same result.

    Args:
        messages: Messages in OpenAI's shape, as mappings or pydantic models.
        profile: The known properties of the model and its server.
        unsupported: The treatment of a content part that the server does not accept: "raise" raises InvalidInput,
            "placeholder" sends a text in its place.
        now: Unix time in seconds. A spoken reply is sent as its id until it expires, and as its transcript after that. None
            sends the transcript.
        send_names: Whether `name` is sent, in the characters that the API allows.
        renderer: The version of the renderer. A replay passes the version that rendered the request.
    """
    converter = _MessageConverter(profile, unsupported, now, send_names, renderer)
    return [converter.convert(_to_mapping(message), f"messages[{index}]") for index, message in enumerate(messages)]


class _MessageConverter:
    """Convert the messages of one request. `field` is the path of a value, for errors."""

    def __init__(
        self, profile: Profile, unsupported: Unsupported, now: float | None, send_names: bool, renderer: int
    ) -> None:
        self.profile = profile
        self.unsupported = unsupported
        self.now = now
        self.send_names = send_names
        self.renderer = renderer

    def convert(self, message: Mapping[str, Any], field: str) -> dict[str, Any]:
        role = message.get("role")
        if not isinstance(role, str):
            raise InvalidInput(f"{field}.role", "is missing")
        out: dict[str, Any] = {"role": role, "content": self.convert_content(message.get("content"), role, field)}
        if role == ASSISTANT:
            self.add_assistant_keys(message, out)
        elif role == TOOL:
            out["tool_call_id"] = self.convert_call_id(message.get("tool_call_id", ""))
        # Null content is valid only beside a call, and some servers refuse it even there.
        if out["content"] is None and not (role == ASSISTANT and self.profile.null_content and _has_call(out)):
            out["content"] = ""
        name = message.get("name")
        if role == FUNCTION:
            out["name"] = name
        elif self.send_names and isinstance(name, str) and role != TOOL:
            slug = slugify_name(name)
            if slug:
                out["name"] = slug
        return out

    def convert_content(self, content: Any, role: str, field: str) -> Any:
        if not isinstance(content, (list, tuple)):
            return content
        parts = [self.convert_part(_to_mapping(part), role, f"{field}.content[{n}]") for n, part in enumerate(content)]
        if parts and self.profile.parts == {"text"} and all(part.get("type") == "text" for part in parts):
            # A server that accepts only text does not accept a list of parts either.
            return "\n".join(str(part.get("text", "")) for part in parts)
        return parts

    def convert_part(self, part: Mapping[str, Any], role: str, field: str) -> dict[str, Any]:
        kind = str(part.get("type"))
        if kind == "refusal" and role == ASSISTANT:
            return dict(part) if self.profile.refusal_part else {"type": "text", "text": part.get("refusal", "")}
        if kind != "text" and kind not in self.profile.parts:
            problem = f"{self.profile.name} does not accept {_PART_NAMES.get(kind, kind)} parts"
            return self.replace_part(field, kind, problem)
        inner = part.get(kind)
        if kind == "image_url" and self.profile.inline_images_only and not _is_data_url(inner):
            return self.replace_part(field, kind, f"{self.profile.name} accepts images only as data: URLs")
        out = {key: value for key, value in part.items() if value is not None}
        if isinstance(inner, Mapping):
            out[kind] = {key: value for key, value in inner.items() if value is not None}
        return out

    def replace_part(self, field: str, kind: str, problem: str) -> dict[str, Any]:
        if self.unsupported == "raise":
            raise InvalidInput(field, problem)
        return {"type": "text", "text": f"[{_PART_NAMES.get(kind, kind)} left out]"}

    def add_assistant_keys(self, message: Mapping[str, Any], out: dict[str, Any]) -> None:
        extra = message.get("extra")
        same_provider = isinstance(extra, Mapping) and extra.get("provider") == self.profile.provider
        refusal = message.get("refusal")
        if isinstance(refusal, str) and refusal and not out["content"]:
            out["content"] = [{"type": "refusal", "refusal": refusal}] if self.profile.refusal_part else refusal
        calls = message.get("tool_calls")
        if calls:
            out["tool_calls"] = [self.convert_call(_to_mapping(call), same_provider=same_provider) for call in calls]
        if message.get("function_call"):
            function_call = _to_mapping(message["function_call"])
            out["function_call"] = {**function_call, "arguments": self.convert_arguments(function_call)}
        audio = message.get("audio")
        if isinstance(audio, Mapping):
            self.add_audio(audio, out, other_provider=isinstance(extra, Mapping) and not same_provider)
        # Some providers need their own keys back, such as DeepSeek its reasoning_content.
        keys = extra.get("keys") if same_provider and isinstance(extra, Mapping) else None
        if isinstance(keys, Mapping):
            wanted = self.profile.replay_keys | (self.profile.replay_keys_with_calls if calls else frozenset())
            out |= {key: keys[key] for key in sorted(wanted) if key in keys and key not in out}
        if calls and self.profile.needs_reasoning:
            out.setdefault("reasoning_content", "")

    def convert_call(self, call: Mapping[str, Any], *, same_provider: bool) -> dict[str, Any]:
        kind = str(call.get("type") or "function")
        body = _to_mapping(call.get(kind) or {})
        if kind == "custom":
            inner = {"name": _repair_tool_name(body.get("name")), "input": body.get("input") or ""}
        else:
            inner = {"name": _repair_tool_name(body.get("name")), "arguments": self.convert_arguments(body)}
        out = {"id": self.convert_call_id(call.get("id", "")), "type": kind, kind: inner}
        if same_provider and call.get("extra_content") is not None:
            out["extra_content"] = call["extra_content"]
        return out

    def convert_arguments(self, function: Mapping[str, Any]) -> Any:
        arguments = function.get("arguments")
        return to_sendable_arguments(arguments) if self.renderer > 1 else arguments or "{}"

    def convert_call_id(self, id: Any) -> str:
        pattern = self.profile.tool_call_id_pattern
        return str(id) if pattern is None else map_tool_call_id(pattern, str(id))

    def add_audio(self, audio: Mapping[str, Any], out: dict[str, Any], *, other_provider: bool) -> None:
        audio_id, expires_at = audio.get("id"), audio.get("expires_at")
        is_stored = (
            self.now is not None
            and isinstance(expires_at, (int, float))
            # The margin covers the time until the server reads the request.
            and self.now < expires_at - _AUDIO_MARGIN_S
        )
        if audio_id and is_stored and not other_provider and "input_audio" in self.profile.parts:
            out["audio"] = {"id": audio_id}
        elif not out["content"]:
            out["content"] = audio.get("transcript") or ""


def map_tool_call_id(pattern: str, id: str) -> str:
    """Return the id itself if it matches the pattern; else one that does, and that is always the same for this id."""
    if re.fullmatch(pattern, id):
        return id
    number = int.from_bytes(hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest())
    digits = ""
    while len(digits) < 64:
        number, digit = divmod(number, len(_ID_ALPHABET))
        digits += _ID_ALPHABET[digit]
        if not number:
            number = int.from_bytes(hashlib.sha256(digits.encode()).digest())
    length = _find_id_length(pattern)
    return digits[:length]


@functools.cache
def _find_id_length(pattern: str) -> int:
    for length in _ID_LENGTHS:
        if re.fullmatch(pattern, ("Aa0z9Z" * 11)[:length]):
            return length
    raise SettingsError("Profile.tool_call_id_pattern", f"{pattern!r} matches no id of letters and digits")


def slugify_name(name: str) -> str:
    """Return a name in the characters that the API allows, 64 at most. It is empty if none of its characters is left."""
    plain = unicodedata.normalize("NFKD", limit_marks(name)).encode("ascii", "ignore").decode("ascii")
    return _NOT_IN_NAMES.sub("_", plain).strip("_")[:64]


def _repair_tool_name(name: Any) -> str:
    # Models invent tool names with characters that the API refuses when they are sent back.
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    return slugify_name(name if isinstance(name, str) else "") or "unnamed"


def _has_call(out: Mapping[str, Any]) -> bool:
    return "tool_calls" in out or "function_call" in out or "audio" in out


def _is_data_url(image: Any) -> bool:
    url = image.get("url") if isinstance(image, Mapping) else image
    return isinstance(url, str) and url[:5].lower() == "data:"


def _to_mapping(value: Any) -> Mapping[str, Any]:
    """Return a message, part or call as a mapping. Other libraries give pydantic models."""
    if type(value) is dict:
        return value
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    return value if isinstance(value, Mapping) else {}
